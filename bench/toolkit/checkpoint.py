"""Checkpoints of a training: the last epoch, to resume from, and the best epoch, which is the result."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.errors import DataError
from bench.storage.files import replacing


def error_of(judged: Mapping[str, float]) -> float:
    """The held-out score as an error: lower is better."""
    return judged["held_out_eer"] if "held_out_eer" in judged else 1 - judged["held_out_cosine"]


class BestEpoch:
    """The module after the epoch with the lowest held-out error; the later one in a tie."""

    def __init__(self, start: dict[str, float], module: nn.Module) -> None:
        self.start, self.judged, self.epoch = start, start, 0
        self._keep(module)

    def _keep(self, module: nn.Module) -> None:
        self.tensors = {name: value.detach().clone() for name, value in module.state_dict().items()}

    def offer(self, judged: dict[str, float], module: nn.Module, epoch: int) -> None:
        """Stores the module if its error is no higher; this also replaces an equally good start."""
        if not judged or error_of(judged) <= error_of(self.judged):
            self.judged, self.epoch = judged, epoch
            self._keep(module)


class Checkpoint:
    """The last finished epoch on disk, read without unpickling code."""

    def __init__(self, folder: Path | None, key: str) -> None:
        self.folder, self.key = folder, key

    def restore(
        self, parts: nn.ModuleDict, optimiser: torch.optim.Optimizer, best: BestEpoch
    ) -> list[dict[str, float]]:
        """Loads the checkpoint if it has the same settings; returns the curve so far."""
        path = self.folder / "checkpoint.pt" if self.folder else None
        if path is None or not path.is_file():
            return []
        try:
            saved: Mapping[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            if saved["key"] != self.key:
                raise DataError(f"{path}: a training with other settings stopped here; finish it, or remove this file")
            parts.load_state_dict(saved["parts"])
            optimiser.load_state_dict(saved["optimiser"])
            curve: list[dict[str, float]] = json.loads(saved["curve"])
            best.tensors, best.epoch = saved["best"], saved["best_epoch"]
            best.judged = curve[best.epoch - 1] if best.epoch else best.start
        except DataError:
            raise
        except Exception as error:  # damaged bytes can raise any exception in torch's unpickler
            raise DataError(f"{path}: damaged ({type(error).__name__}); remove it to start again") from error
        return curve

    def save(
        self,
        parts: nn.ModuleDict,
        optimiser: torch.optim.Optimizer,
        curve: list[dict[str, float]],
        best: BestEpoch,
    ) -> None:
        if self.folder is None:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        with replacing(self.folder / "checkpoint.pt") as path:
            torch.save(
                {
                    "key": self.key,
                    "parts": parts.state_dict(),
                    "optimiser": optimiser.state_dict(),
                    "curve": json.dumps(curve),
                    "best": best.tensors,
                    "best_epoch": best.epoch,
                },
                path,
            )
