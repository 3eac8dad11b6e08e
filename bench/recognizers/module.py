"""A recogniser that is a PyTorch module: a function that makes it, and a checkpoint."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from bench.contracts import SplitNetwork
from bench.errors import UserError
from bench.storage.files import file_hash
from bench.storage.weights import fill, find_weights, is_split, load_strictly, read_weights
from bench.toolkit.cut_recognizer import CutRecognizer
from bench.toolkit.cutting import trace
from bench.toolkit.functions import find_function, source_file_hash


@dataclass(frozen=True, kw_only=True)
class Module(CutRecognizer):
    """A PyTorch network that a function or class of yours makes, filled from a checkpoint and cut in two.

    Its forward takes normalised images (B, 3, H, W), gives embeddings (B, D), and must be one that torch.fx can follow.
    Without a checkpoint the network is as the function left it, drawn from a fixed seed.
    """

    places: ClassVar[tuple[str, ...]] = ("checkpoint",)

    factory: str  #: `package.module:function` or `path/to/file.py:function`; a class will do
    arguments: Mapping[str, Any] = field(default_factory=dict)  #: what the function is called with, by name
    checkpoint: str = ""  #: a state dict, as .safetensors or .pt; empty: none

    def place(self) -> str:
        """The function."""
        return self.factory

    def _untrained(self) -> nn.Module:
        function = find_function(self.factory, "factory")
        try:
            made = function(**self.arguments)
        except Exception as error:
            said = f"{type(error).__name__}: {error}"
            raise UserError(
                f"factory = {self.factory!r}: fails with arguments {dict(self.arguments)}: {said}"
            ) from error
        if not isinstance(made, nn.Module):
            raise UserError(f"factory = {self.factory!r}: gives a {type(made).__name__}, not a torch.nn.Module")
        return made

    def _path(self) -> Path:
        return find_weights(self.checkpoint, "checkpoint of the recogniser")

    def weights_hash(self) -> str:
        """sha256 over the checkpoint, and over the file in which the function stands."""
        source = source_file_hash(find_function(self.factory, "factory"))
        weights = file_hash(self._path()) if self.checkpoint else "none"
        return hashlib.sha256(f"{source} {weights}".encode()).hexdigest()

    def whole(self) -> nn.Module:
        """The network, strictly filled."""
        made = self._untrained()
        if self.checkpoint:
            path = self._path()
            tensors = read_weights(path)
            load_strictly(made, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, path)
        return made.float().eval()

    def build(self) -> SplitNetwork:
        """The network, untrained."""
        return self.halves(trace(self._untrained(), self.place()))

    def load(self) -> SplitNetwork:
        """The network, with its checkpoint or with what `veilbench train-recognizer` wrote."""
        if self.checkpoint:
            path = self._path()
            tensors = read_weights(path)
            if is_split(tensors):
                with torch.random.fork_rng(devices=[]):
                    return fill(self.build(), tensors, path).eval()
        return super().load()
