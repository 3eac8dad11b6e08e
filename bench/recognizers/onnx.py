"""A recogniser from an ONNX file, as insightface's zoo has them."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

from torch import nn

from bench.errors import DataError, UserError
from bench.storage.weights import find_weights
from bench.toolkit.cut_recognizer import CutRecognizer
from bench.toolkit.onnx_graph import image_input, need, onnx_hash, read_onnx, refuse_disagreement, to_torch

_CONVERTERS = ("onnx", "onnx2torch")


@dataclass(frozen=True, kw_only=True)
class Onnx(CutRecognizer):
    """An ONNX file, converted to torch and cut in two. Gradients pass through it.

    The conversion is compared with onnxruntime each time it is loaded. Tensors beside the file are read from its own
    folder alone. A file that normalises pixels itself, as insightface's older ones do, takes mean = 0 and std = 1.
    """

    places: ClassVar[tuple[str, ...]] = ("path",)

    path: str  #: the .onnx file

    def place(self) -> str:
        """The file."""
        return self.path

    def identity(self) -> dict[str, Any]:
        """The parameters without the path, and the converters' versions: another one may give another network.

        onnx counts too, because it brings operations newer than opset 17 down.
        """
        need("onnx", *_CONVERTERS)
        return {**super().identity(), "converters": {name: metadata.version(name) for name in _CONVERTERS}}

    def _file(self) -> Path:
        need("onnx", "onnx", "onnx2torch", "onnxruntime")
        return find_weights(self.path, "path of the recogniser")

    def weights_hash(self) -> str:
        """sha256 over the file, and over those beside it that it reads."""
        return onnx_hash(self._file())

    def own_size(self) -> tuple[int, int]:
        """As the file states it."""
        height, width = image_input(read_onnx(self._file()), self.path)
        if height is None or width is None:
            raise UserError(f"{self.path}: leaves the size of its images open; set size = [HEIGHT, WIDTH]")
        return height, width

    def whole(self) -> nn.Module:
        """The converted network."""
        path = self._file()
        model = read_onnx(path)
        size = self.alignment.size
        asked = image_input(model, str(path))
        if any(own is not None and own != given for own, given in zip(asked, size, strict=True)):
            raise DataError(
                f"{path}: takes images of {asked[0]} x {asked[1]}, and crop = {self.crop!r} gives {size[0]} x {size[1]}"
            )
        graph = to_torch(model, str(path))
        refuse_disagreement(model, graph, size, str(path))
        return graph
