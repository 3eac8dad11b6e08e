"""A recogniser that only embeds: a Python function or a program that nobody sees into."""

from __future__ import annotations

import hashlib
import io
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.contracts import NotApplicable, SplitNetwork
from bench.errors import DataError, UserError
from bench.toolkit.cut_recognizer import CroppedRecognizer
from bench.toolkit.functions import find_function, source_file_hash

_Embed = Callable[[NDArray[np.uint8]], Any]


class _NoGradient(torch.autograd.Function):
    """Values pass; who wants gradients is told that there are none."""

    @staticmethod
    def forward(_: Any, images: Tensor, values: Tensor) -> Tensor:
        return values.clone()

    @staticmethod
    def backward(_: Any, *gradients: Tensor) -> Any:
        raise NotApplicable("the recogniser only embeds: it has no gradients")


class _BlackBox(nn.Module):
    """Images (B, 3, H, W) in [0, 1] to embeddings (B, D, 1, 1)."""

    def __init__(self, embed: _Embed, where: str) -> None:
        super().__init__()
        self.embed, self.where = embed, where

    def forward(self, images: Tensor) -> Tensor:
        pixels = (images.detach().clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).cpu().numpy()
        given = np.asarray(self.embed(np.ascontiguousarray(pixels)))
        if given.ndim != 2 or len(given) != len(images) or given.dtype.kind != "f" or not np.isfinite(given).all():
            came = f"{given.dtype} {given.shape} for {len(images)} images"
            raise UserError(f"{self.where}: gave {came}; finite floats (B, D) are wanted")
        values = torch.from_numpy(given.astype(np.float32)).to(images.device)[:, :, None, None]
        found: Tensor = _NoGradient.apply(images, values)  # type: ignore[no-untyped-call]
        return found


@dataclass(frozen=True, kw_only=True)
class Embedder(CroppedRecognizer):
    """A black box from faces to embeddings; what is stored is the embedding. It has no features and no gradients.

    A function takes uint8 (B, H, W, 3) in RGB and gives floats (B, D). A program is started once a batch, reads such an
    array as `.npy` from standard input, and writes the embeddings as `.npy` to standard output. Decoders of feature
    maps and attacks with gradients are skipped; what works on embeddings is judged.
    """

    function: str = ""  #: `package.module:function` or `path/to/file.py:function`
    command: tuple[str, ...] = ()  #: or a program and its arguments; no shell reads them
    version: str = ""  #: of the model behind it; another one means other results
    seconds: float = 600.0  #: after which a program is stopped

    def __post_init__(self) -> None:
        super().__post_init__()
        if bool(self.function) == bool(self.command):
            raise ValueError("give either a function or a command")
        if self.seconds <= 0:
            raise ValueError("seconds must be above 0")

    def place(self) -> str:
        """The function, or the program."""
        return self.function or self.command[0]

    def weights_hash(self) -> str:
        """sha256 over its name, its version, and the file in which the function stands."""
        source = source_file_hash(find_function(self.function, "function")) if self.function else repr(self.command)
        return hashlib.sha256(f"{self.version} {source}".encode()).hexdigest()

    def load(self) -> SplitNetwork:
        """Client: the black box. Server: nothing but the division by the length."""
        embed = find_function(self.function, "function") if self.function else self._ask
        client, size = _BlackBox(embed, self.place()), self.alignment.size
        return SplitNetwork(client, nn.Flatten(), image_size=size, layout=(), mean=0.0, scale=1.0).eval()

    def _ask(self, pixels: NDArray[np.uint8]) -> NDArray[Any]:
        sent = io.BytesIO()
        np.save(sent, pixels, allow_pickle=False)
        try:
            done = subprocess.run(
                list(self.command), input=sent.getvalue(), capture_output=True, timeout=self.seconds, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            limit = f"takes more than {self.seconds:g} s"
            raise UserError(f"{self.place()}: cannot be run, or {limit} ({error})") from error
        if done.returncode:
            said = done.stderr.decode(errors="replace").strip().splitlines()[-1:] or ["it says nothing"]
            raise UserError(f"{self.place()}: failed with status {done.returncode}: {said[0]}")
        try:
            found: NDArray[Any] = np.load(io.BytesIO(done.stdout), allow_pickle=False)
        except Exception as error:
            raise DataError(f"{self.place()}: wrote no .npy of embeddings to standard output ({error})") from error
        return found
