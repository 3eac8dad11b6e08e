"""The principal axes of rows, for what is learned from few of them."""

from __future__ import annotations

import torch
from torch import Tensor


def principal_axes(rows: Tensor, most: int) -> Tensor:
    """The first principal axes (D, K) of centred rows (N, D), K at most `most`, the largest variance first.

    They come from the smaller of the two matrices of products. Axes without variance are left out.
    """
    count, size = rows.shape
    if size <= count:
        lengths, axes = torch.linalg.eigh(rows.T @ rows)
    else:
        lengths, sides = torch.linalg.eigh(rows @ rows.T)
        axes = rows.T @ sides / lengths.clamp_min(1e-12).sqrt()
    kept = torch.nonzero(lengths > 1e-6 * lengths[-1]).flatten()[-most:]
    found: Tensor = axes[:, kept].flip(1)
    return found
