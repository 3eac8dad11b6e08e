"""Computes 95 % bootstrap intervals over people instead of images, because images of one person are similar."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.storage.records import Measure


def resample_weights(owners: NDArray[Any], seed: int, resamples: int) -> NDArray[np.float64]:
    """Weight of each value in each resample, (R, N).

    An image has the weight of its person's count; a pair, the product of its two people's counts (Snijders and Borgatti
    1999). A pair of images of one person has that person's count and not its square, because it is one draw of one
    person, as an image is.
    """
    names, inverse = np.unique(owners, return_inverse=True)
    inverse = inverse.reshape(owners.shape)
    counts = _drawn(len(names), seed, resamples).astype(np.float64)
    if owners.ndim == 1:
        return counts[:, inverse]
    left, right = inverse[:, 0], inverse[:, 1]
    weights = counts[:, left]
    weights[:, left != right] *= counts[:, right[left != right]]
    return weights


@lru_cache(maxsize=4)
def _drawn(people: int, seed: int, resamples: int) -> NDArray[np.uint32]:
    """How often each person is drawn in each resample, (R, P): the same for all figures of a set of people."""
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(people, np.full(people, 1 / people), size=resamples).astype(np.uint32)
    counts.setflags(write=False)
    return counts


def _interval(values: NDArray[np.float64], weights: NDArray[np.float64], level: float) -> tuple[float, float]:
    total = weights.sum(1)
    means = (weights @ values)[total > 0] / total[total > 0]
    tail = (1 - level) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)


def interval(
    values: NDArray[Any], owners: NDArray[Any], *, seed: int, resamples: int = 1000, level: float = 0.95
) -> tuple[float, float, float]:
    """Returns (mean, low, high): the plain mean of the values and the percentile interval of its resamples.

    Args:
        values: (N,), one per image or pair; all finite.
        owners: (N,) the person that each image shows, or (N, 2) the two people of each pair.
        seed: the same seed and people give the same resamples, so that figures of two cells are paired.
        resamples: how often the people are drawn again, with replacement.
        level: the fraction of resamples inside the interval.

    Raises:
        ValueError: there are no values, some are not finite, or the number of owners differs.
    """
    values = np.asarray(values, dtype=np.float64)
    if len(values) == 0 or len(values) != len(owners):
        raise ValueError(f"{len(values)} values for {len(owners)} owners")
    if not np.isfinite(values).all():
        raise ValueError("values that are not finite have no interval")
    low, high = _interval(values, resample_weights(np.asarray(owners), seed, resamples), level)
    return float(values.mean()), low, high


def paired_difference(
    first: NDArray[Any], second: NDArray[Any], owners: NDArray[Any], *, seed: int, resamples: int = 1000
) -> tuple[float, float, float]:
    """Returns (mean, low, high) of first - second, both (N,), on the same images or pairs; see `interval`."""
    return interval(np.asarray(first, float) - np.asarray(second, float), owners, seed=seed, resamples=resamples)


def resampled_means(
    values: NDArray[Any], owners: NDArray[Any], *, seed: int, resamples: int = 1000
) -> NDArray[np.float64]:
    """Means (R, K) of the columns of `values` (N, K) in each resample of the people; every column has the same people.

    NaN marks a missing score. A column that has no score in a resample has the mean NaN there. For `owners`, `seed` and
    `resamples` see `interval`.
    """
    values = np.asarray(values, dtype=np.float64)
    have = np.isfinite(values)
    weights = resample_weights(np.asarray(owners), seed, resamples)
    with np.errstate(invalid="ignore"):
        means: NDArray[np.float64] = (weights @ np.where(have, values, 0.0)) / (weights @ have)
    return means


def measure(values: NDArray[Any], owners: NDArray[Any], *, seed: int, resamples: int = 1000) -> Measure:
    """The mean with its interval, as stored in a record. If resamples cannot differ, a note replaces the interval.

    For means of scores. For proportions of decisions, which can be close to 0 or 1, use `bench.metrics.proportions`.
    """
    mean, low, high = interval(values, owners, seed=seed, resamples=resamples)
    if low < high:
        return Measure(mean, low, high, len(values))
    alone = len(np.unique(np.asarray(owners))) == 1
    why = "one person" if alone else "all scores are the same"
    return Measure(mean, n=len(values), note=f"no interval: {why}")
