"""95 % intervals of shares (accuracy, acceptance, rank 1) that hold near 0 and 1, where pairs share people.

A bootstrap cannot know what it has not seen: where all decisions are right, every resample says so too. These intervals
ask instead how many independent decisions the sample is worth, and give that number to Agresti and Coull (1998).

The effective size is share * (1 - share) / variance, never more than the sample's (Dean and Pagano 2015). The variance
sums residuals by person, so that two pairs with a person in common may err together (Aronow, Samii and Assenova 2015).
Few people lower the size by Korn and Graubard's (1998) ratio of t quantiles, and few mistakes by what they could not
show. How often the intervals hold the truth, and how the vertex bootstrap and BCa compare, stands in docs/intervals.md.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtri, stdtrit

from bench.storage.records import Measure

#: By how much choosing a threshold on the other folds raises the variance of accuracy; 1.0 to 1.5 in simulation.
CHOSEN_THRESHOLDS = 1.25

_SUPPOSED = 2  #: mistakes (or successes, where these are rarer) that are supposed beside those that were seen,
_SUPPOSED_ALIKE = 0.3  #: and the correlation of one person's decisions that they show

_TAIL = 0.975
_Z = float(ndtri(_TAIL))


def agresti_coull(share: float, size: float) -> tuple[float, float]:
    """(low, high), 95 %, of a share of `size` independent decisions; never empty, also at 0 and at 1.

    At 1 it starts below 1 - 3 / size, the rule of three.

    Raises:
        ValueError: a share outside of [0, 1], or a size that is not positive.
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
    """How many independent decisions `values` are worth: at most their number, less where people err together.

    Args:
        values: (N,) decisions in {0, 1}, or their differences in {-1, 0, 1}.
        owners: (N,) the person behind each, or (N, 2) the two people of each pair.
        weights: (N,) what each counts in the mean; all the same if None.
        kinds: (N,) groups with a mean of their own, whose sizes are fixed by the protocol (genuine and impostor pairs).
        inflation: variance relative to that of decisions whose thresholds were given: `CHOSEN_THRESHOLDS` for accuracy.
    """
    values = np.asarray(values, dtype=np.float64)
    shares = _normalised(weights, len(values))
    counted = float(1 / (shares**2).sum())
    left, right, people = _people(owners)
    group = np.zeros(len(values), dtype=np.int64) if kinds is None else np.unique(kinds, return_inverse=True)[1]
    effect = 1.0  # by how much the variance exceeds that of independent decisions
    if values.min() < values.max() and people > 1:
        means = np.bincount(group, shares * values) / np.bincount(group, shares)
        variance = _over_sharing(shares * (values - means[group]), left, right) * inflation * people / (people - 1)
        effect = max(1.0, counted * variance / (float(shares @ values**2) - float(shares @ values) ** 2))
    # Few mistakes say little about whether the same people make them: some more are supposed, as people make them.
    rare = min(np.count_nonzero(values), np.count_nonzero(values == 0))
    partners = _over_sharing(shares, left + people * group, right + people * group) * counted - 1
    supposed = 1 + _SUPPOSED_ALIKE * partners
    effect = max(effect, (rare * effect + _SUPPOSED * supposed) / (rare + _SUPPOSED))
    held = np.bincount(left, shares, people) + np.bincount(right, np.where(left != right, shares, 0), people)
    return max(counted / effect * few_people(counted, float(held.sum() ** 2 / (held**2).sum())), 1.0)


def few_people(decisions: float, people: float) -> float:
    """By how much to lower an effective size whose variance was estimated from so many people: at most 1."""
    of_decisions, of_people = (stdtrit(max(count - 1, 1.0), _TAIL) for count in (decisions, min(people, decisions)))
    return float((of_decisions / of_people) ** 2)


def _normalised(weights: NDArray[Any] | None, count: int) -> NDArray[np.float64]:
    if weights is None:
        return np.full(count, 1 / count)
    whole: NDArray[np.float64] = np.asarray(weights, dtype=np.float64)
    shares: NDArray[np.float64] = whole / whole.sum()
    return shares


def _people(owners: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64], int]:
    """Left and right person of each pair (the same where there is one) as numbers from 0, and how many there are."""
    owners = np.asarray(owners)
    names, number = np.unique(owners, return_inverse=True)
    number = number.reshape(owners.shape)
    left, right = (number, number) if number.ndim == 1 else (number[:, 0], number[:, 1])
    return left, right, len(names)


def _over_sharing(parts: NDArray[np.float64], left: NDArray[np.int64], right: NDArray[np.int64]) -> float:
    """The sum of the products of all pairs of pairs that have a person in common, each with itself included."""
    people = int(max(left.max(), right.max())) + 1
    two = left != right
    by_person = np.bincount(left, parts, people) + np.bincount(right[two], parts[two], people)
    # Pairs of the same two people were counted twice, once with each of them.
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
    """The share of `values` (N,) that are true, with its interval, as a record keeps it.

    Arguments are those of `effective_size`.

    Raises:
        ValueError: no values, some that are neither true nor false, or another number of owners.
    """
    decided = _decisions(values, owners)
    share = 1.0 if decided.all() else float(_normalised(weights, len(decided)) @ decided)
    size = effective_size(decided, owners, weights=weights, kinds=kinds, inflation=inflation)
    low, high = agresti_coull(min(share, 1.0), size)
    return Measure(share, low, high, len(decided))


def share_difference(
    first: NDArray[Any], second: NDArray[Any], owners: NDArray[Any], *, inflation: float = 1.0
) -> tuple[float, float, float]:
    """(mean, low, high) of first - second, both (N,) decisions on the same pairs; never empty.

    Agresti and Min's (2005) interval for matched pairs: two decisions more, spread over the four outcomes.

    Raises:
        ValueError: as `proportion` does.
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
