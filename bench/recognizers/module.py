"""A recogniser that is a PyTorch module: a function that makes it, and a checkpoint."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import nn

from bench.contracts import SplitNetwork
from bench.errors import UserError, near_miss
from bench.storage.files import file_hash
from bench.storage.weights import fill, find_weights, is_split, load_strictly, read_weights
from bench.toolkit.cut_recognizer import CutRecognizer
from bench.toolkit.cutting import trace


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

    def _function(self) -> Any:
        module, divider, name = self.factory.rpartition(":")
        if not divider or not module or not name:
            raise UserError(f"factory = {self.factory!r}: write package.module:function or path/to/file.py:function")
        try:
            found = _file_module(Path(module)) if module.endswith(".py") else importlib.import_module(module)
        except UserError:
            raise
        except Exception as error:
            raise UserError(
                f"factory = {self.factory!r}: cannot be imported: {type(error).__name__}: {error}"
            ) from error
        function = getattr(found, name, None)
        if not callable(function):
            known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
            raise UserError(f"factory = {self.factory!r}: {module} has no {name!r}.{near_miss(name, known)}")
        return function

    def _untrained(self) -> nn.Module:
        function = self._function()
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
        function = self._function()
        try:
            source = file_hash(Path(inspect.getfile(function)))
        except (TypeError, OSError):
            source = ""  # built in, or of no file
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


def _file_module(path: Path) -> Any:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; set factory of the recogniser")
    name = f"veilbench_network_{path.stem}_{hashlib.sha256(f'{path} {file_hash(path)}'.encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception:
            del sys.modules[name]
            raise
    return sys.modules[name]
