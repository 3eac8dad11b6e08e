"""Stand-in until the real one is merged: distillation alone."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bench.contracts import FaceSet, Rng, State
from bench.precision import autocast
from bench.progress import track


@dataclass(frozen=True)
class Recipe:
    """How an embedding is trained."""

    epochs: int = 10
    head_epochs: int = 0
    batch: int = 32
    learning_rate: float = 1e-3
    decay: float = 1e-4
    loss: Literal["softmax+triplet", "softmax", "arcface", "triplet", "distill"] = "softmax+triplet"


def train_embedding(
    module: nn.Module,
    encode: Callable[[Tensor], Tensor],
    faces: FaceSet,
    recipe: Recipe,
    rng: Rng,
    device: torch.device,
    label: str,
    *,
    teacher: Callable[[Tensor], Tensor] | None = None,
    backbone: nn.Module | None = None,
    folder: Path | None = None,
) -> State:
    """Trains `module` in place."""
    if recipe.loss != "distill" or teacher is None:
        raise NotImplementedError(recipe.loss)
    module.to(device).train()
    optimiser = torch.optim.AdamW(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.decay)
    batches = math.ceil(len(faces) / recipe.batch)
    steps = recipe.epochs * batches
    shuffle = rng.child("order").numpy()
    curve: list[float] = []
    started = time.perf_counter()
    for step in track(range(steps), label, steps):
        if step % batches == 0:
            epoch = shuffle.permutation(len(faces))
        if backbone is not None:
            backbone.requires_grad_(step >= recipe.head_epochs * batches)
        images = faces.batch(epoch[(step % batches) * recipe.batch :][: recipe.batch], device)
        with torch.no_grad():
            inputs, wanted = encode(images), teacher(images)
        with autocast(device):
            found = nn.functional.normalize(module(inputs).float())
        loss = 1 - (found * wanted).sum(1).mean()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimiser.param_groups:
            group["lr"] = recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * step / steps))
        optimiser.step()
        curve.append(float(loss.detach()))
    return State(
        {name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()},
        {"curve": [round(v, 5) for v in curve[::batches]], "train_s": round(time.perf_counter() - started, 2)},
    )
