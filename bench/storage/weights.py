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

    A checkpoint that holds one under a usual name is opened; what DataParallel and torch.compile put before every name
    is taken off.

    Raises:
        DataError: the file is damaged or another kind of file, asks for more than tensors, or is no state dict.
    """
    _refuse_other_files(path)
    try:
        if path.suffix.lower() == ".safetensors":
            return _bare(load_file(path))
        loaded = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged bytes make torch's unpickler fail in any way: IndexError, struct.error, ...
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


_CHECKPOINT = ("state_dict", "model_state_dict", "model", "net", "network")  #: where training scripts put a state dict
_WRAPPERS = ("module.", "_orig_mod.")  #: torch.nn.DataParallel, torch.compile


def _bare(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Names without what a wrapper puts before every one of them."""
    for wrapper in _WRAPPERS * 2:  # either may be around the other
        if tensors and all(name.startswith(wrapper) for name in tensors):
            tensors = {name.removeprefix(wrapper): value for name, value in tensors.items()}
    return dict(tensors)


def _refuse_other_files(path: Path) -> None:
    """What stands where weights should, and is told best by its first bytes."""
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


#: What training as a classifier leaves behind, and recognition has no use for.
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
    """Fills a module; every name and shape must match.

    But for two things: a classifier that the module has not is left out, and the counters of batches that older
    versions of torch did not save (nothing is computed with them here) stand at 0.

    Raises:
        DataError: they don't; names the first of what is missing, unexpected and of another shape.
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
    if not lines or lines[0].startswith("Weights only load failed"):
        return type(error).__name__
    return lines[0] if len(lines[0]) <= 300 else f"{lines[0][:300]} ..."
