"""95 % intervals by vertex bootstrap: people are drawn again, not images, because a person's images are alike."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.storage.records import Measure


def _weights(owners: NDArray[Any], seed: int, resamples: int) -> NDArray[np.float64]:
    """(R, N): how much each value counts in each resample.

    An image weighs its person's count; a pair the product of its two people's (Snijders and Borgatti 1999). A pair of
    one person's images weighs that person's count, not its square: it is one draw of one person, as an image is.
    """
    names, inverse = np.unique(owners, return_inverse=True)
    inverse = inverse.reshape(owners.shape)
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(len(names), np.full(len(names), 1 / len(names)), size=resamples).astype(np.float64)
    if owners.ndim == 1:
        return counts[:, inverse]
    left, right = inverse[:, 0], inverse[:, 1]
    weights = counts[:, left]
    weights[:, left != right] *= counts[:, right[left != right]]
    return weights


def _interval(values: NDArray[np.float64], weights: NDArray[np.float64], level: float) -> tuple[float, float]:
    total = weights.sum(1)
    means = (weights @ values)[total > 0] / total[total > 0]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def interval(
    values: NDArray[Any], owners: NDArray[Any], *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """(mean, low, high): the plain mean of values, and the percentile interval of its resamples.

    Args:
        values: (N,), of images or of pairs. A NaN has no place in a mean that means anything: it raises.
        owners: (N,) the person that each image shows, or (N, 2) the two people of each pair.
        seed: the same seed and people give the same resamples, so that figures of two cells are paired.
        resamples: how often the people are drawn again, with replacement.
        level: the share of resamples inside the interval.

    Raises:
        ValueError: no values, some that are not finite, or another number of owners.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0 or len(values) != len(owners):
        raise ValueError(f"{len(values)} values for {len(owners)} owners")
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite have no interval")
    low, high = _interval(values, _weights(np.asarray(owners), seed, resamples), level)
    return float(values.mean()), low, high


def paired_difference(
    first: NDArray[Any], second: NDArray[Any], owners: NDArray[Any], *, seed: int, resamples: int = 1000
) -> tuple[float, float, float]:
    """(mean, low, high) of first - second, both (N,), on the same images or pairs; as `interval` otherwise."""
    return interval(np.asarray(first, float) - np.asarray(second, float), owners, seed=seed, resamples=resamples)


def measure(values: NDArray[Any], owners: NDArray[Any], *, seed: int, resamples: int = 1000) -> Measure:
    """The mean with its interval, as a record keeps it; without one, and a note, where resamples cannot differ.

    For means of scores. Shares of decisions, which come near 0 and 1, have `bench.metrics.proportions`.
    """
    mean, low, high = interval(values, owners, seed=seed, resamples=resamples)
    if low < high:
        return Measure(mean, low, high, len(values))
    alone = len(np.unique(np.asarray(owners))) == 1
    why = "one person" if alone else "all scores are the same"
    return Measure(mean, n=len(values), note=f"no interval: {why}")
