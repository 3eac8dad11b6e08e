"""Aligns two clouds of vectors whose points are not paired: by their moments, then by Wasserstein-Procrustes.

Two recognisers of the same kind of faces give clouds of about the same shape, in different coordinates. Their principal
axes match by rank where the variances are distinct, and the signs of the axes follow from third moments. From there,
optimal assignment and orthogonal Procrustes alternate (Grave, Joulin and Berthet, AISTATS 2019). Nothing here sees
which vectors show the same person.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from bench.contracts import Rng

_STARTS = 8  #: signs of the axes tried: those by third moments, and random changes of the least certain ones
_ROUNDS = 30  #: assignments, at most
_MOST = 1000  #: points of each cloud that are assigned: the time grows with the cube


@dataclass(frozen=True)
class Alignment:
    """Maps vectors (B, D) of the first cloud into the space of the second, (B, E)."""

    means: tuple[Tensor, Tensor]  #: (D,), (E,)
    whiten: Tensor  #: (D, K)
    turn: Tensor  #: (K, K), orthogonal
    colour: Tensor  #: (K, E)
    cost: float  #: mean squared distance of assigned points in whitened coordinates, over K; 2 for unrelated clouds

    def __call__(self, values: Tensor) -> Tensor:
        return (values - self.means[0]) @ self.linear + self.means[1]

    @property
    def linear(self) -> Tensor:
        """The linear part (D, E)."""
        return self.whiten @ self.turn @ self.colour


def aligned(first: Tensor, second: Tensor, axes: int, rng: Rng) -> Alignment:
    """Aligns vectors (N, D) with others (M, E) along their `axes` strongest principal axes.

    Raises:
        ValueError: a cloud has fewer than 3 points.
    """
    if min(len(first), len(second)) < 3:
        raise ValueError("aligning needs at least 3 vectors on each side")
    axes = min(axes, *first.shape[1:], *second.shape[1:], len(first) - 1, len(second) - 1)
    one, other = _Whitened.of(first, axes), _Whitened.of(second, axes)
    source = rng.numpy()
    z, y = (source.permutation(cloud.points)[:_MOST] for cloud in (one, other))
    count = min(len(z), len(y))
    weights = np.sqrt((one.spread + other.spread) / 2)
    weights /= np.sqrt(np.square(weights).mean())
    skew, wanted = one.skewness, other.skewness
    certain = np.abs(skew * wanted)
    best: tuple[float, NDArray[np.float64]] | None = None
    for start in range(_STARTS):
        signs = np.where(skew * wanted < 0, -1.0, 1.0)
        if start:
            weak = certain < np.median(certain)
            signs = np.where(weak & (source.random(axes) < 0.5), -signs, signs)
        found = _procrustes(z[:count], y[:count], np.diag(signs), weights)
        best = found if best is None or found[0] < best[0] else best
    assert best is not None
    turn = torch.from_numpy(best[1]).float()
    return Alignment(
        (one.mean, other.mean),
        torch.from_numpy(one.axes / one.spread).float(),
        turn,
        torch.from_numpy((other.axes * other.spread).T).float().contiguous(),
        best[0],
    )


@dataclass(frozen=True)
class _Whitened:
    points: NDArray[np.float64]  #: (N, K), unit variances
    mean: Tensor  #: (D,)
    axes: NDArray[np.float64]  #: (D, K)
    spread: NDArray[np.float64]  #: (K,) standard deviations, descending
    skewness: NDArray[np.float64]  #: (K,)

    @classmethod
    def of(cls, values: Tensor, axes: int) -> _Whitened:
        cpu = values.detach().double().cpu()
        mean = cpu.mean(0)
        _, lengths, vectors = np.linalg.svd((cpu - mean).numpy(), full_matrices=False)
        spread = np.maximum(lengths[:axes] / np.sqrt(len(cpu)), 1e-9)
        kept = vectors[:axes].T
        points = (cpu - mean).numpy() @ kept / spread
        return cls(points, mean.float(), kept, spread, np.power(points, 3).mean(0))


def _procrustes(
    z: NDArray[np.float64], y: NDArray[np.float64], turn: NDArray[np.float64], weights: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """(cost, orthogonal matrix): assignment and Procrustes in turns, until the assignment stays the same."""
    before: NDArray[np.int64] | None = None
    cost = np.inf
    for _ in range(_ROUNDS):
        moved = z @ turn
        products = (moved * weights) @ (y * weights).T
        distances = np.square(moved * weights).sum(1)[:, None] + np.square(y * weights).sum(1) - 2 * products
        _, match = linear_sum_assignment(distances)
        cost = float(distances[np.arange(len(z)), match].mean() / z.shape[1])
        if before is not None and bool((match == before).all()):
            break
        before = match
        left, _, right = np.linalg.svd((z * weights).T @ (y[match] * weights))
        turn = left @ right
    return cost, turn
