"""How often intervals hold the truth, by simulation: `python tests/metrics/simulated.py` prints the tables of the docs.

Similarities are normal, with a share of their variance that belongs to the people of a pair. A design says who is in
which pair and fold. Accuracy goes through the whole protocol, its thresholds chosen on the other folds; its true value
is what the protocol gives on average.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.stats import norm

from bench.metrics.bootstrap import resample_weights
from bench.metrics.proportions import CHOSEN_THRESHOLDS, agresti_coull, effective_size, proportion
from bench.metrics.rates import error_rates
from bench.metrics.verification import FoldAccuracy, Impostors, fold_accuracy

VALUES = (0.5, 0.9, 0.97, 0.99, 1.0)
PERSONAL = 0.3  #: share of the scores' variance that belongs to people

#: How far genuine scores lie above the others, so that accuracy is on average what `VALUES` say.
_LARGE = {0.5: 0.0, 0.9: 2.60, 0.97: 3.80, 0.99: 4.71, 1.0: 12.0}
_MEDIUM = {0.5: 0.0, 0.9: 2.63, 0.97: 3.85, 0.99: 4.81, 1.0: 12.0}
_SMALL = {0.5: 0.0, 0.9: 2.66, 0.97: 3.95, 0.99: 4.90, 1.0: 12.0}


@dataclass(frozen=True, eq=False)
class Design:
    """Who is compared with whom, and in which fold."""

    owners: np.ndarray  #: (P, 2)
    genuine: np.ndarray  #: (P,)
    fold: np.ndarray  #: (P,)
    separation: Mapping[float, float]  #: by accuracy

    def scores(self, rng: np.random.Generator, separation: float, personal: float) -> np.ndarray:
        """(P,) similarities of variance 1, the share `personal` of it due to the people."""
        own, met = rng.normal(size=(2, int(self.owners.max()) + 1))
        left, right = self.owners.T
        people = np.where(self.genuine, own[left], (met[left] + met[right]) / np.sqrt(2))
        noise = rng.normal(size=len(left))
        return separation * self.genuine + np.sqrt(personal) * people + np.sqrt(1 - personal) * noise

    def decided(self, rng: np.random.Generator, value: float, personal: float) -> FoldAccuracy:
        """One run of the protocol."""
        scores = self.scores(rng, self.separation[value], personal)
        return fold_accuracy(scores, self.genuine, self.fold, np.ones(len(scores), dtype=bool))

    @cached_property
    def resamples(self) -> np.ndarray:
        """(1000, P) of the vertex bootstrap."""
        return resample_weights(self.owners, 0, 1000)

    @cached_property
    def jackknife(self) -> np.ndarray:
        """(N, P): which pairs remain without each person."""
        return np.stack([(self.owners != person).all(1) for person in np.unique(self.owners)]).astype(float)


def ring(people: int, folds: int, separation: Mapping[float, float]) -> Design:
    """Synthetic people: each against the own probe, and against the probe of the next one of the fold."""
    person, each = np.arange(people), people // folds
    following = person // each * each + (person % each + 1) % each
    owners = np.concatenate([np.stack([person, person], 1), np.stack([person, following], 1)])
    return Design(owners, np.repeat([True, False], people), np.tile(person // each, 2), separation)


def irregular(
    genuine: Mapping[int, int], impostor: Mapping[int, int], shared: int, folds: int, separation: Mapping[float, float]
) -> Design:
    """LFW: how many people are in one, two, ... genuine pairs, and in impostor pairs; `shared` of them in both."""
    rng = np.random.default_rng(5)

    def people(degrees: Mapping[int, int]) -> np.ndarray:
        times = rng.permutation(np.repeat([*degrees], [*degrees.values()]))
        return np.repeat(np.arange(len(times)), times)

    def mixed(pairs: np.ndarray) -> np.ndarray:
        """The same people in other pairs, nobody with himself."""
        while (pairs[:, 0] == pairs[:, 1]).any():
            pairs = rng.permutation(pairs.ravel()).reshape(-1, 2)
        return pairs

    own, met = people(genuine), people(impostor).reshape(-1, 2) + sum(genuine.values()) - shared
    met = np.concatenate([mixed(part[rng.permutation(len(part))]) for part in np.array_split(met, folds)])
    fold = np.repeat(np.arange(folds), [len(part) for part in np.array_split(own, folds)])
    return Design(
        np.concatenate([np.stack([own, own], 1), met]),
        np.repeat([True, False], [len(own), len(met)]),
        np.tile(fold, 2),
        separation,
    )


#: As `veilbench run`, `--profile quick` and `--profile lfw` have them; and all pairs of LFW's first three folds.
DESIGNS = {
    "default": ring(100, 10, _MEDIUM),
    "quick": ring(40, 10, _SMALL),
    "lfw": irregular({1: 12, 2: 12, 3: 4, 4: 3, 5: 1}, {1: 88, 2: 12, 3: 6}, 17, 3, _SMALL),
    "lfw, all": irregular(
        {1: 238, 2: 82, 3: 49, 4: 35, 5: 23, 6: 7, 7: 4, 8: 1, 9: 2},
        {1: 607, 2: 328, 3: 132, 4: 26, 5: 6, 7: 1}, 300, 3, _LARGE,
    ),
}  # fmt: skip

Method = Callable[[Design, FoldAccuracy], tuple[float, float]]


def percentile(design: Design, found: FoldAccuracy) -> tuple[float, float]:
    """The percentiles of the vertex bootstrap: what was printed before."""
    low, high = np.quantile(_means(design, found), [0.025, 0.975])
    return float(low), float(high)


def _means(design: Design, found: FoldAccuracy) -> np.ndarray:
    return design.resamples @ found.correct / design.resamples.sum(1)


def bca(design: Design, found: FoldAccuracy) -> tuple[float, float]:
    """Bias-corrected and accelerated (Efron 1987), over people; Agresti and Coull's where it would be empty."""
    means, mean = _means(design, found), found.correct.mean()
    if means.std() == 0:
        return agresti_coull(mean, len(found.correct))
    shift = norm.ppf(np.clip(((means < mean).mean() + (means <= mean).mean()) / 2, 0.001, 0.999))
    without = design.jackknife @ found.correct / design.jackknife.sum(1)
    gaps = without.mean() - without
    bend = (gaps**3).sum() / (6 * (gaps**2).sum() ** 1.5)
    ends = [shift + (shift + z) / (1 - bend * (shift + z)) for z in (-1.96, 1.96)]
    low, high = np.quantile(means, norm.cdf(ends))
    return (float(low), float(high)) if low < high else agresti_coull(mean, len(found.correct))


def bootstrap_size(design: Design, found: FoldAccuracy) -> tuple[float, float]:
    """Agresti and Coull's, its effective size from the variance of the vertex bootstrap."""
    mean, count = float(found.correct.mean()), len(found.correct)
    variance = _means(design, found).var()
    return agresti_coull(mean, min(count, mean * (1 - mean) / variance) if variance > 0 else count)


def wilson(design: Design, found: FoldAccuracy) -> tuple[float, float]:
    """Wilson's (1927), with our effective size."""
    share = found.accuracy
    size = effective_size(
        found.correct, design.owners, weights=found.weights, kinds=design.genuine, inflation=CHOSEN_THRESHOLDS
    )
    z = 1.96
    centre = (share + z * z / (2 * size)) / (1 + z * z / size)
    half = z / (1 + z * z / size) * np.sqrt(max(share * (1 - share), 0) / size + z * z / (4 * size * size))
    return min(centre - half, share), max(centre + half, share)


def given_thresholds(design: Design, found: FoldAccuracy) -> tuple[float, float]:
    """Ours, as if the thresholds had been given."""
    return chosen(design, found, 1.0)


def chosen(design: Design, found: FoldAccuracy, inflation: float = CHOSEN_THRESHOLDS) -> tuple[float, float]:
    """Ours, as a run computes it."""
    measure = proportion(found.correct, design.owners, weights=found.weights, kinds=design.genuine, inflation=inflation)
    assert measure.low is not None and measure.high is not None
    return measure.low, measure.high


METHODS: Mapping[str, Method] = {
    "percentile (before)": percentile,
    "BCa": bca,
    "bootstrap's size": bootstrap_size,
    "Wilson": wilson,
    "thresholds given": given_thresholds,
    "now": chosen,
}


@dataclass(frozen=True)
class Coverage:
    """What a method's intervals did in a number of runs."""

    held: float  #: share of them that held the truth
    width: float  #: mean
    empty: float  #: share that ended where they began


def summed_up(intervals: np.ndarray, truth: float) -> Coverage:
    """Of intervals (T, 2)."""
    low, high = intervals.T
    held = (low <= truth + 1e-12) & (truth <= high + 1e-12)
    return Coverage(float(held.mean()), float((high - low).mean()), float((high <= low).mean()))


def accuracy(
    design: Design, value: float, runs: int, methods: Mapping[str, Method], personal: float = PERSONAL
) -> dict[str, Coverage]:
    """Coverage of accuracy by method."""
    rng = np.random.default_rng(11)
    found = [design.decided(rng, value, personal) for _ in range(runs)]
    truth = float(np.mean([f.accuracy for f in found]))
    return {name: summed_up(np.array([m(design, f) for f in found]), truth) for name, m in methods.items()}


def acceptance(design: Design, value: float, runs: int, personal: float = PERSONAL) -> dict[str, Coverage]:
    """Coverage of SRRA: the share of genuine pairs above a given threshold."""
    rng, genuine = np.random.default_rng(12), design.genuine
    threshold = -np.inf if value == 1 else norm.ppf(1 - value)
    owners, weights = design.owners[genuine], design.resamples[:, genuine]
    ours, before = [], []
    for _ in range(runs):
        passed = design.scores(rng, 0, personal)[genuine] >= threshold
        measure = proportion(passed, owners)
        ours.append((measure.low, measure.high))
        before.append(np.quantile(weights @ passed / weights.sum(1), [0.025, 0.975]))
    return {"before": summed_up(np.array(before), value), "now": summed_up(np.array(ours), value)}


def rates(
    separation: float, runs: int, people: int = 100, personal: float = PERSONAL, far: float = 0.01
) -> dict[str, Coverage]:
    """Coverage of EER and of TAR at a FAR: two images each, one genuine pair a person, all impostor pairs."""
    rng = np.random.default_rng(13)
    person = np.repeat(np.arange(people), 2)
    rows, columns = np.triu_indices(len(person), 1)
    rows, columns = (side[person[rows] != person[columns]] for side in (rows, columns))
    truth = {"eer": norm.cdf(-separation / 2), f"tar_at_far_{far:g}": norm.cdf(separation + norm.ppf(far))}
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in truth}
    for _ in range(runs):
        own, met = rng.normal(size=(2, people))
        share, rest = np.sqrt(personal), np.sqrt(1 - personal)
        genuine = separation + share * own + rest * rng.normal(size=people)
        both = (met[person[rows]] + met[person[columns]]) / np.sqrt(2)
        impostors = Impostors(share * both + rest * rng.normal(size=len(rows)), person)
        for name, measure in error_rates(genuine, np.arange(people), impostors, (far,)).items():
            assert measure.low is not None and measure.high is not None
            found[name].append((measure.low, measure.high))
    return {name: summed_up(np.array(found[name]), float(truth[name])) for name in truth}


def _row(*cells: object) -> None:
    print("| " + " | ".join(f"{c.held:.3f} ({c.width:.3f}, {c.empty:.0%})" if isinstance(c, Coverage) else str(c)
                            for c in cells) + " |", flush=True)  # fmt: skip


def main(runs: int) -> None:
    """Prints Markdown tables; cells are coverage (mean width, share of empty intervals)."""
    for personal in (0.0, PERSONAL):
        _row("ACC: design", "value", "of people", *METHODS)
        _row(*["---"] * (3 + len(METHODS)))
        for name, design in DESIGNS.items():
            for value in VALUES:
                some = runs if len(design.fold) < 1000 else runs // 2
                _row(name, value, personal, *accuracy(design, value, some, METHODS, personal).values())
    _row("SRRA, rank 1: design", "value", "of people", "percentile (before)", "now")
    _row(*["---"] * 5)
    for name, design in DESIGNS.items():
        for value in VALUES:
            _row(name, value, PERSONAL, *acceptance(design, value, runs).values())
    _row("people", "true EER", "EER", "TAR at FAR .01: true", "TAR at FAR .01")
    _row(*["---"] * 5)
    for people in (40, 100):
        for separation in (1.0, 2.6, 3.8, 4.7, 12.0):
            eer, tar = rates(separation, runs // 2, people).values()
            true = norm.cdf(-separation / 2), norm.cdf(separation + norm.ppf(0.01))
            _row(people, f"{true[0]:.4f}", eer, f"{true[1]:.4f}", tar)


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
