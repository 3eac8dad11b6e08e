"""The running service that attackers on keyed templates may use: its other customers, enrolments and logins."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import KeyedService
from bench.plan import Task, TaskKind
from bench.runner import artefacts
from bench.runner.context import RunContext

if TYPE_CHECKING:
    from bench.runner.protector import Protector

FIRST, SECOND = "first", "second"  #: the applications


def running_service(
    context: RunContext, task: Task, own: Protector, stored: Tensor, targets: NDArray[np.int64]
) -> KeyedService:
    """The first application as a customer sees it; its other customers are the defender's public faces.

    Args:
        stored: the stolen templates (B, ...).
        targets: the test images behind them, (B,) or more.
    """

    def identity(kind: TaskKind) -> Tensor:
        need = task.need(kind)
        assert need is not None
        return torch.from_numpy(np.array(artefacts.read_identity(context.ready(need)), dtype=np.float32))

    def enrolled(embeddings: Tensor, person: str) -> Tensor:
        """Templates of records of one customer, or, without a name, of as many customers as there are embeddings."""
        # One key for all, or one after the other.
        parts = [embeddings] if own.defense.keys == "system" else [row[None] for row in embeddings]
        with torch.no_grad():
            made = [
                own.defense.transform(part, own.ring.key(FIRST, person or f"customer {n}", f"enrolment {n}"))
                for n, part in enumerate(parts)
            ]
        return torch.cat(made)

    def login(number: int, embeddings: Tensor) -> Tensor:
        key = own.key(FIRST, int(targets[number]))
        return torch.from_numpy(own.against(stored[number], own.presented(embeddings, key), key))

    return KeyedService(
        public=identity("attacker_identity"),
        others=lambda: enrolled(identity("defender_identity"), ""),
        enrol=lambda embeddings: enrolled(embeddings, "the attacker"),
        login=login,
    )
