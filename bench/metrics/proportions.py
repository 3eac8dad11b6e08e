"""Computes 95 % intervals of proportions (accuracy, rank 1, ...), valid near 0 and 1 and for pairs that share people.

If every decision is correct, every bootstrap resample is too, and its interval is empty. These intervals instead
estimate how many independent decisions the sample is worth (the effective size) and pass that number to Agresti and
Coull (1998).

The effective size is p * (1 - p) / variance, at most the sample size (Dean and Pagano 2015). The variance sums
residuals by person, so that two pairs with a person in common may err together (Aronow, Samii and Assenova 2015). With
few people, Korn and Graubard's (1998) ratio of t quantiles reduces the size; with few mistakes, a prior on their
correlation does. docs/intervals.md reports the coverage, also of the vertex bootstrap and BCa.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from bench.storage.records import Measure

#: Factor by which choosing a threshold on the other folds raises the variance of accuracy; 1.0 to 1.5 in simulations.
CHOSEN_THRESHOLDS = 1.25

_SUPPOSED = 2  #: pseudo-mistakes (or pseudo-successes, where these are rarer) added to those observed,
_SUPPOSED_ALIKE = 0.3  #: and the correlation that they assume between one person's decisions

_TAIL = 0.975
_Z = float(ndtri(_TAIL))


def agresti_coull(share: float, size: float) -> tuple[float, float]:
    """95 % interval (low, high) of a proportion of `size` independent decisions; never empty, even at 0 and 1.

    At 1 it starts below 1 - 3 / size, the rule of three.

    Raises:
        ValueError: the proportion is outside [0, 1], or the size is not positive.
    """
    if not 0 <= share <= 1 or not size > 0:
        raise ValueError(f"no interval for a share of {share} of {size} decisions")
    padded = size + _Z**2
    centre = (share * size + _Z**2 / 2) / padded
    half = _Z * np.sqrt(centre * (1 - centre) / padded)
    return float(max(0.0, min(centre - half, share))), float(min(1.0, max(centre + half, share)))


def effective_size(
    values: NDArray[Any],
    owners: NDArray[Any],
    *,
    weights: NDArray[Any] | None = None,
    kinds: NDArray[Any] | None = None,
    inflation: float = 1.0,
) -> float:
    """The number of independent decisions that `values` are worth: at most their number, fewer if errors are
    correlated.

    Args:
        values: (N,) decisions in {0, 1}, or their differences in {-1, 0, 1}.
        owners: (N,) the person behind each, or (N, 2) the two people of each pair.
        weights: (N,) weight of each in the mean; equal if None.
        kinds: (N,) groups with separate means, whose sizes the protocol fixes (genuine and impostor pairs).
        inflation: variance relative to decisions at a given threshold: `CHOSEN_THRESHOLDS` for accuracy.
    """
    values = np.asarray(values, dtype=np.float64)
    shares = _normalised(weights, len(values))
    counted = float(1 / (shares**2).sum())
    left, right, people = _people(owners)
    group = np.zeros(len(values), dtype=np.int64) if kinds is None else np.unique(kinds, return_inverse=True)[1]
    effect = 1.0  # the design effect: variance relative to that of independent decisions
    if values.min() < values.max() and people > 1:
        means = np.bincount(group, shares * values) / np.bincount(group, shares)
        variance = _over_sharing(shares * (values - means[group]), left, right) * inflation * people / (people - 1)
        effect = max(1.0, counted * variance / (float(shares @ values**2) - float(shares @ values) ** 2))
    # A few mistakes cannot show whether the same people make them, so add pseudo-mistakes with an assumed correlation.
    rare = min(np.count_nonzero(values), np.count_nonzero(values == 0))
    partners = _over_sharing(shares, left + people * group, right + people * group) * counted - 1
    supposed = 1 + _SUPPOSED_ALIKE * partners
    effect = max(effect, (rare * effect + _SUPPOSED * supposed) / (rare + _SUPPOSED))
    held = np.bincount(left, shares, people) + np.bincount(right, np.where(left != right, shares, 0), people)
    return max(counted / effect * few_people(counted, float(held.sum() ** 2 / (held**2).sum())), 1.0)


def few_people(decisions: float, people: float) -> float:
    """Factor (at most 1) by which an effective size shrinks when its variance comes from so few people."""
    of_decisions, of_people = (stdtrit(max(count - 1, 1.0), _TAIL) for count in (decisions, min(people, decisions)))
    return float((of_decisions / of_people) ** 2)


def _normalised(weights: NDArray[Any] | None, count: int) -> NDArray[np.float64]:
    if weights is None:
        return np.full(count, 1 / count)
    whole: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    shares: NDArray[np.float64] = whole / whole.sum()
    return shares


def _people(owners: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Left and right person of each pair (equal for single images) as indices from 0, and the number of people."""
    owners = np.asarray(owners)
    names, number = np.unique(owners, return_inverse=True)
    number = number.reshape(owners.shape)
    left, right = (number, number) if number.ndim == 1 else (number[:, 0], number[:, 1])
    return left, right, len(names)


def _over_sharing(parts: NDArray[np.float64], left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """Sum of products over all pairs of entries that share a person, each entry with itself included."""
    people = int(max(left.max(), right.max())) + 1
    two = left != right
    by_person = np.bincount(left, parts, people) + np.bincount(right[two], parts[two], people)
    # Entries with the same two people were counted twice, once for each person.
    couple = np.unique(np.minimum(left, right)[two] * people + np.maximum(left, right)[two], return_inverse=True)[1]
    by_couple = np.bincount(couple, parts[two])
    return float((by_person**2).sum() - (by_couple**2).sum())


def proportion(
    values: NDArray[Any],
    owners: NDArray[Any],
    *,
    weights: NDArray[Any] | None = None,
    kinds: NDArray[Any] | None = None,
    inflation: float = 1.0,
) -> Measure:
    """The proportion of `values` (N,) that are true, with its interval, as stored in a record.

    The arguments are those of `effective_size`.

    Raises:
        ValueError: there are no values, some are neither true nor false, or the number of owners differs.
    """
    decided = _decisions(values, owners)
    share = 1.0 if decided.all() else float(_normalised(weights, len(decided)) @ decided)
    size = effective_size(decided, owners, weights=weights, kinds=kinds, inflation=inflation)
    low, high = agresti_coull(min(share, 1.0), size)
    return Measure(share, low, high, len(decided))


def share_difference(
    first: NDArray[Any], second: NDArray[Any], owners: NDArray[Any], *, inflation: float = 1.0
) -> tuple[float, float, float]:
    """Returns (mean, low, high) of first - second, both (N,) decisions on the same pairs; never empty.

    Agresti and Min's (2005) interval for matched pairs: it adds two decisions, spread over the four outcomes.

    Raises:
        ValueError: as for `proportion`.
    """
    change = _decisions(first, owners) - _decisions(second, owners)
    mean = float(change.mean())
    size = effective_size(change, owners, inflation=inflation)
    padded = size + 2
    centre = size * mean / padded
    half = _Z * np.sqrt((size * float((change**2).mean()) + 1) / padded - centre**2) / np.sqrt(padded)
    return mean, float(max(-1.0, min(centre - half, mean))), float(min(1.0, max(centre + half, mean)))


def _decisions(values: NDArray[Any], owners: NDArray[Any]) -> NDArray[np.float64]:
    decided = np.asarray(values, dtype=np.float64)
    if len(decided) == 0 or len(decided) != len(owners):
        raise ValueError(f"{len(decided)} decisions for {len(owners)} owners")
    if not ((decided == 0) | (decided == 1)).all():
        raise ValueError("a share is of decisions that are true or false")
    return decided
