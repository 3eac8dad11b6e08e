"""Weights come from strangers: read without pickle's powers, loaded strictly, every failure one clear line."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from bench.contracts import SplitNetwork
from bench.errors import DataError
from bench.storage.files import ROOT

_PACKAGE = "package:"
# What torch's restricted unpickler says of a class or function that a file asks for.
_FOREIGN = re.compile(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) (\S+)")


def find_weights(path: str, setting: str) -> Path:
    """The file, if it is there; `package:NAME` is one that comes with the package.

    Raises:
        DataError: no path was given, or nothing lies there.
    """
    if not path:
        raise DataError(f"no weights given: set {setting} to a .safetensors or .pt file")
    own = path.removeprefix(_PACKAGE)
    file = ROOT / "bench" / "recognizers" / own if own != path else Path(path).expanduser()
    if own != path and Path(own).name != own:
        raise DataError(f"{setting} = {path!r}: give the name of a file that comes with the package, not a path")
    if not file.is_file():
        raise DataError(f"{file}: no such file; set {setting}, or VEILBENCH_DATA where the path begins with it")
    return file


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from `.safetensors`, or from `.pt`/`.pth` with torch's restricted unpickler.

    Raises:
        DataError: the file is damaged, asks for more than tensors, or is no state dict.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's unpickler fail in any way: IndexError, struct.error, ...
        wanted = _FOREIGN.search(str(error))
        if wanted:
            raise DataError(
                f"{path}: refused: it holds more than tensors ({wanted[1]}); save model.state_dict() and use that file"
            ) from error
        raise DataError(f"{path}: damaged or not a weights file ({_reason(error)}); fetch it again") from error
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise DataError(f"{path}: not a state dict (names to tensors); save model.state_dict() and use that file")
    return {str(name): value for name, value in loaded.items()}


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Fills a module; every name and shape must match.

    Raises:
        DataError: they don't; names the first few.
    """
    own = module.state_dict()
    wrong = [f"missing {name}" for name in own if name not in tensors]
    wrong += [f"unexpected {name}" for name in tensors if name not in own]
    wrong += [
        f"{name} is {tuple(tensors[name].shape)}, not {tuple(own[name].shape)}"
        for name in own
        if name in tensors and tensors[name].shape != own[name].shape
    ]
    if wrong:
        shown = "; ".join(wrong[:3]) + (f"; and {len(wrong) - 3} more" if len(wrong) > 3 else "")
        raise DataError(f"{path}: these weights are for another architecture: {shown}")
    module.load_state_dict(dict(tensors))


def fill(network: SplitNetwork, tensors: Mapping[str, Tensor], path: Path) -> SplitNetwork:
    """A network with the weights that `veilbench train-recognizer` wrote, in single precision.

    Raises:
        DataError: they are another network's.
    """
    load_strictly(network, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, path)
    return network


def is_split(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights are named by client and server, as `veilbench train-recognizer` writes them."""
    return any(name.startswith("client.") for name in tensors)


def _reason(error: Exception) -> str:
    """One line of what went wrong, without torch's preamble, which advises to load the file with all of pickle."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    return lines[0][:160] if lines and not lines[0].startswith("Weights only load failed") else type(error).__name__
