"""Measures whether two templates can be told to be of one person, although they were protected under different keys.

D_sys is the global measure of Gomez-Barrero et al. (2018), maximal linkability that of Otroshi Shahreza et al. (2023).
Both are computed from the probabilities of bins, and both are above 0 by chance alone where scores are few. So each
comes with a null distribution, from shuffling who is who, and an interval over people. See docs/unlinkability.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.bootstrap import resample_weights
from bench.metrics.proportions import agresti_coull
from bench.metrics.rates import error_rates
from bench.metrics.verification import CrossImpostors
from bench.storage.records import Measure

_ROUNDING = 1e-12
#: Above these values a figure varies like a proportion of people, and the bootstrap's interval is too short.
_HIGH_INDEX, _HIGH_AUC = 0.9, 0.98

Counts = NDArray[Any]
_Index = Callable[[Counts, Counts], NDArray[np.float64]]


@dataclass(frozen=True, eq=False)
class LinkageScores:
    """Scores of all templates protected under one set of keys (rows) against all under another (columns).

    The matrix is complete, because only then can people be shuffled: under the null hypothesis, the columns are as
    likely to belong to the people in any other order. The shuffle is exact if all people have the same number of
    columns. Take different photographs for rows and columns, because two systems rarely enrol from the same one. No key
    may occur on both sides, because then some pairs of different people would share a key while no mated pair does.

    Raises:
        ValueError: the shapes disagree, a score is not finite, all scores are equal, or fewer than two people are on
            both sides.
    """

    scores: NDArray[Any]  #: (A, B), higher for more similar; only the order matters
    rows: NDArray[Any]  #: (A,) the person of each row, as a number or a name
    columns: NDArray[Any]  #: (B,) the person of each column

    def __post_init__(self) -> None:
        shape, wanted = np.shape(self.scores), (len(self.rows), len(self.columns))
        if np.ndim(self.rows) != 1 or np.ndim(self.columns) != 1 or shape != wanted:
            raise ValueError(f"linkage scores of shape {shape} for {wanted[0]} rows and {wanted[1]} columns")
        if not np.isfinite(self.scores).all():
            raise ValueError("linkage scores are not finite: give a score for every row and column")
        both = len(np.intersect1d(self.rows, self.columns))
        if both < 2:
            raise ValueError(f"linkage needs two people or more with templates on both sides, here: {both}")
        if np.min(self.scores) == np.max(self.scores):
            raise ValueError("all linkage scores are equal: they cannot depend on the templates")

    @property
    def mated(self) -> NDArray[np.bool_]:
        """(A, B), True where row and column are of one person."""
        same: NDArray[np.bool_] = np.asarray(self.rows)[:, None] == np.asarray(self.columns)
        return same


@dataclass(frozen=True)
class Null:
    """What the figure is if the templates cannot be linked: its law when people are shuffled."""

    mean: float
    upper: float  #: its 95 % point
    p_value: float  #: the chance to reach the figure or more
    exceeded: bool  #: the figure is above the 95 % point: the templates can be linked


@dataclass(frozen=True)
class Unlinkability:
    """Figures of one linkage score; `n` of each is the number of mated pairs."""

    d_sys: Measure  #: 0 (unlinkable) to 1
    d_sys_null: Null
    maximal_linkability: Measure  #: bits, 0 to 1
    maximal_linkability_null: Null
    auc: Measure  #: probability that a mated pair scores higher than a non-mated one; ties count half
    rates: dict[str, Measure]  #: `eer`, and `tmr_at_fmr_FMR` for each FMR
    bins: int
    people: int  #: with templates on both sides
    non_mated: int  #: pairs


def d_sys(mated: Counts, non_mated: Counts, omega: float = 1.0) -> NDArray[np.float64]:
    """The sum over bins of P_m(k) * D(k), where D(k) = max(0, P(mated | k) - P(non-mated | k)).

    Args:
        mated: (..., K) counts or weights of mated scores in each bin, of any positive sum.
        non_mated: the same of non-mated scores.
        omega: prior odds of a mated pair, P(mated) / P(non-mated).
    """
    own, others = _shares(mated) * omega, _shares(non_mated)
    both = own + others
    local = np.divide(np.maximum(own - others, 0), both, out=np.zeros(both.shape), where=both > 0)
    return np.asarray((own / omega * local).sum(-1))


def maximal_linkability(mated: Counts, non_mated: Counts) -> NDArray[np.float64]:
    """log2 of the sum over bins of max(P_m(k), P_nm(k)): log2(1 + total variation), 0 to 1. Arguments: see `d_sys`."""
    return np.asarray(np.log2(np.maximum(_shares(mated), _shares(non_mated)).sum(-1)))


def bins_for(mated: int) -> int:
    """The number of bins for so many mated scores: twice the rounded cube root.

    It is even, so that an edge separates scores that can be separated. Few bins hide that a small share of the people
    can be linked; many raise the null: with K bins and M mated scores, chance makes D_sys about 0.2 * sqrt(K / M).
    """
    return 2 * max(1, round(float(np.cbrt(mated))))


def unlinkability(
    linkage: LinkageScores,
    *,
    seed: int,
    omega: float = 1.0,
    fmrs: Sequence[float] = (1e-3,),
    permutations: int = 999,
    resamples: int = 1000,
) -> Unlinkability:
    """D_sys and maximal linkability, each with its null and interval, and error rates of the linkage score.

    Bins hold equal masses of the scores, where mated and non-mated scores weigh one half each; otherwise all mated
    scores, which are few, would fall into one bin. Equal scores share a bin, so discrete scores (Hamming, indices) have
    their own values as bins if there are no more values than `bins_for` allows. Time and memory are in proportion to
    A * B: 3 s on one core for a million pairs.

    Args:
        linkage: scores, and whose templates they compare.
        seed: of the shuffles and of the resamples of people.
        omega: see `d_sys`.
        fmrs: false match rates, 0 to 1; a rate that stands for fewer than 10 non-mated pairs has no value.
        permutations: how often people are shuffled; at least 19, or nothing can be above the 95 % point.
        resamples: how often people are drawn again, with replacement; at least 100.

    Raises:
        ValueError: omega is not positive, or there are too few permutations or resamples.
    """
    if not 0 < omega < math.inf:
        raise ValueError(f"omega is {omega}: give positive prior odds, 1 if mated pairs are as likely as others")
    if permutations < 19 or resamples < 100:
        raise ValueError(f"{permutations} permutations and {resamples} resamples: give at least 19 and 100")

    with_omega = partial(d_sys, omega=omega)
    trial = _Trial(linkage, seed, resamples)
    shuffled = trial.shuffled(seed, permutations)
    drawn = trial.resampled_bins()
    nulls = [trial.null(index, shuffled) for index in (with_omega, maximal_linkability)]
    impostors = CrossImpostors.between(trial.scores, trial.rows, trial.columns)
    rates = error_rates(trial.scores[trial.mated], trial.left[trial.mated], impostors, fmrs)
    return Unlinkability(
        d_sys=trial.index(with_omega, drawn, nulls[0]),
        d_sys_null=nulls[0],
        maximal_linkability=trial.index(maximal_linkability, drawn, nulls[1]),
        maximal_linkability_null=nulls[1],
        auc=trial.auc(),
        rates={name.replace("tar_at_far", "tmr_at_fmr"): measure for name, measure in rates.items()},
        bins=trial.counts.shape[1],
        people=trial.people,
        non_mated=int(trial.counts[1].sum()),
    )


def _shares(counts: Counts) -> NDArray[np.float64]:
    return np.asarray(counts / counts.sum(-1, keepdims=True))


class _Trial:
    """One matrix of scores; values are replaced by their ranks, since only the order matters."""

    def __init__(self, linkage: LinkageScores, seed: int, resamples: int) -> None:
        self.scores = np.asarray(linkage.scores, dtype=np.float64)
        names, inverse = np.unique(np.concatenate([linkage.rows, linkage.columns]), return_inverse=True)
        self.rows, self.columns = np.split(inverse, [len(linkage.rows)])
        self.left, self.right = np.broadcast_arrays(self.rows[:, None], self.columns)
        self.mated = self.left == self.right
        _, rank, self.tied = np.unique(self.scores, return_inverse=True, return_counts=True)
        self.rank = rank.reshape(self.scores.shape)
        self.below = np.concatenate([[0], np.cumsum(self.tied)])  # the number of scores below each distinct one
        self.people = len(np.intersect1d(self.rows, self.columns))
        self.weights = resample_weights(np.arange(len(names)), seed, resamples)
        self.counts = self.counted(self.mated)

    def edges(self, own: NDArray[np.int64]) -> NDArray[np.int64]:
        """The first rank of each bin, then the number of ranks, if these (M,), sorted, are the ranks of mated scores.

        A value belongs to the bin that the middle of its mass is in; bins without a value are left out.
        """
        values, count = len(self.tied), bins_for(len(own))
        if values <= count:
            return np.arange(values + 1)
        wanted = np.arange(1, count) / count
        low, high = np.zeros(count - 1, dtype=np.int64), np.full(count - 1, values)
        for _ in range(values.bit_length()):  # bisection, since a pass over all scores for every shuffle is slow
            probe = np.minimum((low + high) // 2, values - 1)
            mated = (np.searchsorted(own, probe) + np.searchsorted(own, probe, side="right")) / 2
            others = (self.below[probe] + self.below[probe + 1]) / 2 - mated
            before = (mated / len(own) + others / (self.rank.size - len(own))) / 2 < wanted
            low, high = np.where(before, probe + 1, low), np.where(before, high, probe)
        return np.unique(np.concatenate([[0], low, [values]]))

    def counted(self, mated: NDArray[np.bool_]) -> NDArray[np.int64]:
        """Mated and non-mated scores in each bin, (2, K), if these pairs are mated."""
        own = np.sort(self.rank[mated])
        edges = self.edges(own)
        inside = np.diff(np.searchsorted(own, edges))
        return np.stack([inside, np.diff(self.below[edges]) - inside])

    def shuffled(self, seed: int, permutations: int) -> list[NDArray[np.int64]]:
        """The counts after the people of the columns were shuffled, each with all their columns."""
        rng = np.random.default_rng([seed, 1])
        present, place = np.unique(self.columns, return_inverse=True)
        return [self.counted(self.rows[:, None] == rng.permutation(present)[place]) for _ in range(permutations)]

    def null(self, index: _Index, shuffled: list[NDArray[np.int64]]) -> Null:
        value = float(index(*self.counts))
        found = np.sort([float(index(*counts)) for counts in shuffled])
        upper = float(found[math.ceil(0.95 * (len(found) + 1)) - 1])
        reached = int((found >= value - _ROUNDING).sum())
        return Null(float(found.mean()), upper, (1 + reached) / (1 + len(found)), value > upper + _ROUNDING)

    def resampled_bins(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Weights of mated and of non-mated scores in each bin, (R, K) each, in the resamples of people."""
        place = np.searchsorted(self.edges(np.sort(self.rank[self.mated]))[1:-1], self.rank, side="right")
        weighted = [self._resampled((place == k).astype(np.float64)) for k in range(self.counts.shape[1])]
        own, others = (np.stack(side, axis=1) for side in zip(*weighted, strict=True))
        complete = (own.sum(1) > 0) & (others.sum(1) > 0)
        return own[complete], others[complete]

    def _resampled(self, values: NDArray[np.float64]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Sums of values (A, B) over mated and over non-mated pairs in each resample, (R,) each; vertex bootstrap."""
        people = self.weights.shape[1]
        sums = np.bincount((self.left * people + self.right).ravel(), values.ravel(), people**2)
        sums = sums.reshape(people, people)
        own = self.weights @ np.diag(sums)
        np.fill_diagonal(sums, 0)
        return own, ((self.weights @ sums) * self.weights).sum(1)

    def index(self, index: _Index, drawn: tuple[NDArray[np.float64], NDArray[np.float64]], null: Null) -> Measure:
        """The index with its interval.

        Resamples exceed the value by about as much as the value exceeds the truth. The lower end is corrected for both;
        the upper end, on the safe side, only for the former. The interval starts at 0 unless the null is exceeded.
        """
        value, count = min(max(float(index(*self.counts)), 0.0), 1.0), int(self.mated.sum())
        found = index(*drawn)
        bias = float(found.mean()) - value
        low, high = (float(end) for end in np.quantile(found, [0.025, 0.975]))
        low, high = low - 2 * bias, min(1.0, max(high - bias, value))
        if value > _HIGH_INDEX:
            low = min(low, agresti_coull(value, self.people)[0])
        low = max(0.0, min(low, value)) if null.exceeded else 0.0
        if low < high:
            return Measure(value, low, high, count)
        return Measure(value, n=count, note="no interval: it is 0 in all resamples")

    def auc(self) -> Measure:
        """The area under the ROC curve, with an interval that is normal on the logit scale."""
        own = np.bincount(self.rank[self.mated], minlength=len(self.tied))
        others = self.tied - own
        beats = ((np.cumsum(others) - others / 2) / others.sum())[self.rank]
        beaten = (1 - (np.cumsum(own) - own / 2) / own.sum())[self.rank]
        value = float(beats[self.mated].mean())
        # To first order, the area moves by the sum of the movements of both means.
        first, second = self._resampled(beats)[0], self._resampled(beaten)[1]
        pairs = self._resampled(np.ones(self.rank.shape))
        held = (pairs[0] > 0) & (pairs[1] > 0)
        spread = float(np.std(first[held] / pairs[0][held] + second[held] / pairs[1][held]))
        low, high = rough = agresti_coull(min(max(value, 0.0), 1.0), self.people)
        if 0 < value < 1 and spread > 0:
            logit, half = math.log(value / (1 - value)), 1.96 * spread / (value * (1 - value))
            low, high = ((1 + math.tanh(end / 2)) / 2 for end in (logit - half, logit + half))
        if value > _HIGH_AUC:
            low = min(low, rough[0])
        return Measure(value, low, high, int(own.sum()))
