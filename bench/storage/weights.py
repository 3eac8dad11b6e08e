"""Reads untrusted weights without unpickling code and loads them strictly; every failure is one clear line."""

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
# The message of torch's restricted unpickler about a class or function that a file requests.
_FOREIGN = re.compile(r"[Uu]nsupported (?:global: )?(?:GLOBAL|class) (\S+)")


def find_weights(path: str, setting: str) -> Path:
    """The path of a weight file; `package:NAME` is one included in the package.

    Raises:
        DataError: no path was given, or the file does not exist.
    """
    if not path:
        raise DataError(f"no weights given: set {setting} to a .safetensors or .pt file")
    own = path.removeprefix(_PACKAGE)
    file = ROOT / "bench" / "recognizers" / own if own != path else Path(path).expanduser()
    if own != path and Path(own).name != own:
        raise DataError(f"{setting} = {path!r}: give the name of a file in the package, not a path")
    if not file.is_file():
        raise DataError(f"{file}: no such file; set {setting}, or VEILBENCH_DATA if the path begins with it")
    return file


def read_weights(path: Path) -> dict[str, Tensor]:
    """A state dict from `.safetensors`, or from `.pt`/`.pth` with torch's restricted unpickler.

    Also accepts a checkpoint that contains one under a usual name, and removes the prefixes that DataParallel and
    torch.compile put before every name.

    Raises:
        DataError: the file is damaged or of another kind, requests more than tensors, or is not a state dict.
    """
    _refuse_other_files(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return _bare(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes can raise anything in torch's unpickler: IndexError, struct.error, ...
        wanted = _FOREIGN.search(str(error))
        if wanted:
            raise DataError(
                f"{path}: refused: it holds more than tensors ({wanted[1]}); save model.state_dict() and use that file"
            ) from error
        raise DataError(f"{path}: damaged or not a weights file ({_reason(error)}); fetch it again") from error
    if isinstance(loaded, Mapping):
        loaded = next((loaded[name] for name in _CHECKPOINT if isinstance(loaded.get(name), Mapping)), loaded)
    if not isinstance(loaded, Mapping) or not all(isinstance(value, Tensor) for value in loaded.values()):
        raise DataError(f"{path}: not a state dict (names to tensors); save model.state_dict() and use that file")
    return _bare({str(name): value for name, value in loaded.items()})


_CHECKPOINT = ("state_dict", "model_state_dict", "model", "net", "network")  #: usual names of a state dict in a file
_WRAPPERS = ("module.", "_orig_mod.")  #: torch.nn.DataParallel, torch.compile


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Removes the prefixes that wrappers put before every name."""
    for wrapper in _WRAPPERS * 2:  # either may be outermost
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return dict(tensors)


def _refuse_other_files(path: Path) -> None:
    """Rejects a file that its first bytes show not to be weights."""
    try:
        with path.open("rb") as file:
            start = file.read(64)
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if start.startswith(b"version https://git-lfs"):
        raise DataError(f"{path}: a Git LFS pointer, not the weights themselves; fetch them with git lfs pull")
    if start.lstrip().lower().startswith((b"<!doctype html", b"<html")):
        raise DataError(f"{path}: a web page, not weights: the download went wrong; fetch them again")
    if not start:
        raise DataError(f"{path}: an empty file; fetch the weights again")


#: Layers of a classifier left from training, which recognition does not use.
_CLASSIFIERS = (
    "logits.",
    "classifier.",
    "classification.",
    "head.",
    "margin.",
    "arcface.",
    "arc_margin.",
    "metric_fc.",
)


def load_strictly(module: nn.Module, tensors: Mapping[str, Tensor], path: Path) -> None:
    """Loads weights into a module; every name and shape must match.

    Two exceptions: a classifier that the module does not have is ignored, and batch counters that older versions of
    torch did not save (they have no effect here) are set to 0.

    Raises:
        DataError: they do not match; names the first missing, unexpected and differently shaped ones.
    """
    own = module.state_dict()
    spare = tuple(head for head in _CLASSIFIERS if not any(name.startswith(head) for name in own))
    given = {name: value for name, value in tensors.items() if not name.startswith(spare)}
    given |= {n: own[n] for n in own if n.endswith("num_batches_tracked") and n not in given}
    wrong = {
        "missing": [name for name in own if name not in given],
        "unexpected": [name for name in given if name not in own],
        "another shape": [
            f"{name} is {tuple(given[name].shape)}, not {tuple(own[name].shape)}"
            for name in own
            if name in given and given[name].shape != own[name].shape
        ],
    }
    if any(wrong.values()):
        shown = [f"{kind}: {_some(names)}" for kind, names in wrong.items() if names]
        raise DataError(f"{path}: these weights are for another architecture; {'; '.join(shown)}")
    module.load_state_dict(given)


def _some(names: list[str]) -> str:
    return ", ".join(names[:2]) + (f" and {len(names) - 2} more" if len(names) > 2 else "")


def fill(network: SplitNetwork, tensors: Mapping[str, Tensor], path: Path) -> SplitNetwork:
    """A network with weights written by `veilbench train-recognizer`, in single precision.

    Raises:
        DataError: the weights belong to another network.
    """
    load_strictly(network, {k: v.float() if v.is_floating_point() else v for k, v in tensors.items()}, path)
    return network


def is_split(tensors: Mapping[str, Tensor]) -> bool:
    """Whether weights are named by client and server, as `veilbench train-recognizer` names them."""
    return any(name.startswith("client.") for name in tensors)


def _reason(error: Exception) -> str:
    """A one-line error without torch's preamble, which advises to disable the restricted unpickler."""
    lines = str(error).rpartition("WeightsUnpickler error:")[2].strip().splitlines()
    if not lines or lines[0].startswith("Weights only load failed"):
        return type(error).__name__
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:300]} ..."
