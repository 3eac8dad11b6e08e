"""Measures the scale of features on public faces, for defences that add noise."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from bench.contracts import FaceSet, SplitNetwork

BATCH = 50  #: images per forward pass through the client


def feature_batches(recognizer: SplitNetwork, faces: FaceSet, limit: int | None = None) -> Iterator[Tensor]:
    """Yields clean features (B, C, h, w) of the set's first `limit` images, one batch at a time."""
    device = next(recognizer.parameters()).device
    count = len(faces) if limit is None else min(limit, len(faces))
    with torch.no_grad():
        for start in range(0, count, BATCH):
            yield recognizer.extract(faces.batch(slice(start, min(start + BATCH, count)), device))


def feature_scale(recognizer: SplitNetwork, faces: FaceSet, limit: int = 500) -> dict[str, Tensor]:
    """Scale of the features on at most `limit` public faces: `std` (scalar) and `channel_range` (C, 1, 1)."""
    total = square = torch.zeros((), dtype=torch.float64)
    count = 0
    low: Tensor | None = None
    high: Tensor | None = None
    for batch in feature_batches(recognizer, faces, limit):
        values = batch.double().cpu()
        total, square, count = total + values.sum(), square + values.square().sum(), count + values.numel()
        batch_low, batch_high = values.amin((0, 2, 3)), values.amax((0, 2, 3))
        low = batch_low if low is None else torch.minimum(low, batch_low)
        high = batch_high if high is None else torch.maximum(high, batch_high)
    if low is None or high is None:
        raise ValueError("the scale of features needs at least one public face")
    mean = total / count
    std = (square / count - mean.square()).clamp_min(0).sqrt()
    return {"std": std.float(), "channel_range": (high - low).float()[:, None, None]}
