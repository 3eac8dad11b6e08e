"""An attack that notes when it is fitted, and then hangs, ends its process, or ends the worker above it."""

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch

from bench.contracts import Knowledge, ReconstructionAttack


@dataclass(frozen=True, kw_only=True)
class Trouble(ReconstructionAttack):
    """Makes grey images, if it comes to that."""

    how: str = ""
    notes: str = "notes"

    @property
    def level(self) -> Knowledge:
        return Knowledge.BLIND

    def fit(self, oracle, public, rng):  # type: ignore[no-untyped-def]
        with Path(self.notes).open("a") as file:
            file.write(f"{os.getpid()}\n")
        time.sleep(0.5)

    def reconstruct(self, oracle, state, leak, rng):  # type: ignore[no-untyped-def]
        seen = Path(f"{self.notes}-{self.how}")
        first = not seen.exists()
        seen.touch()
        if self.how == "hang" or (self.how == "wait" and first):
            time.sleep(600)
        if self.how == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.how == "worker" or (self.how == "worker once" and first):
            os.kill(os.getppid(), signal.SIGKILL)
            time.sleep(600)
        return torch.full((len(leak.values), 3, *oracle.image_size), 0.5)
