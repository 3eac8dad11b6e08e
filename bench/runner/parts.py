"""What an attack is given of its `parts`: the images that other attacks rebuilt."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.plan import Task
from bench.runner.artefacts import Reconstructions
from bench.runner.context import RunContext


def parts_of(context: RunContext, task: Task) -> list[Reconstructions]:
    """The reconstructions among a task's needs, in the order of the attack's `parts`."""
    return [Reconstructions.read(context.ready(need)) for need in task.needs if need.kind == "reconstruction"]


def in_all(parts: Sequence[Reconstructions], rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Those of the given test images that every part rebuilt, ascending."""
    return reduce(np.intersect1d, (part.rows for part in parts), rows)


def guesses(parts: Sequence[Reconstructions], batch: NDArray[np.int64], device: torch.device) -> tuple[Tensor, ...]:
    """What each part made of the same test images, (B, 3, H, W): `Leak.guesses`."""
    return tuple(
        torch.from_numpy(part.images[np.searchsorted(part.rows, batch)]).to(device, torch.float32) for part in parts
    )
