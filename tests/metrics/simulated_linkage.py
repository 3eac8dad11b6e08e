"""Unlinkability of simulated scores: `python tests/metrics/simulated_linkage.py`.

Prints the tables of docs/unlinkability.md. For comparison, it also computes D_sys in the way that is common elsewhere.
"""

from __future__ import annotations

import sys

import numpy as np
from scipy.integrate import quad
from scipy.stats import norm

from bench.metrics.unlinkability import LinkageScores, d_sys, unlinkability

_PERSONAL = 0.3  #: share of the scores' variance that belongs to the people of the row and of the column


def with_trapezoid(mated: np.ndarray, non_mated: np.ndarray, bins: int) -> float:
    """D_sys from densities in bins of equal width, integrated by the trapezoid rule over the bins' centres."""
    edges = np.linspace(min(mated.min(), non_mated.min()), max(mated.max(), non_mated.max()), bins + 1)
    own, others = (np.histogram(scores, edges, density=True)[0] for scores in (mated, non_mated))
    both = own + others
    local = np.divide(np.maximum(own - others, 0), both, out=np.zeros(bins), where=both > 0)
    return float(np.trapezoid(own * local, (edges[1:] + edges[:-1]) / 2))


def with_sum(mated: np.ndarray, non_mated: np.ndarray, bins: int) -> float:
    """D_sys as the sum over the same bins."""
    edges = np.linspace(min(mated.min(), non_mated.min()), max(mated.max(), non_mated.max()), bins + 1)
    return float(d_sys(*(np.histogram(scores, edges)[0] for scores in (mated, non_mated))))


def normal_scores(
    rng: np.random.Generator, rows: np.ndarray, columns: np.ndarray, separation: float, personal: float = _PERSONAL
) -> LinkageScores:
    """Normal scores of variance 1, whose mean is `separation` for mated pairs and 0 for others."""
    people = int(max(rows.max(), columns.max())) + 1
    row, column = rng.normal(size=(2, people)) / np.sqrt(2)
    scores = np.sqrt(personal) * (row[rows][:, None] + column[columns])
    scores += np.sqrt(1 - personal) * rng.normal(size=scores.shape)
    return LinkageScores(scores + separation * (rows[:, None] == columns), rows, columns)


def limits(separation: float) -> tuple[float, float, float, float]:
    """D_sys, maximal linkability, AUC and EER of normal scores, were there infinitely many."""
    half = separation / 2
    total = quad(lambda s: norm.pdf(s - separation) * np.tanh(half * (s - half)), half, separation + 9)[0]
    return total, float(np.log2(2 * norm.cdf(half))), float(norm.cdf(separation / np.sqrt(2))), float(norm.cdf(-half))


#: The people of the rows and of the columns.
DESIGNS = {
    "30 people, 30 mated": (np.arange(30), np.arange(30)),
    "100 people, 100 mated": (np.arange(100), np.arange(100)),
    "40 people, 160 mated": (np.arange(40).repeat(2), np.arange(40).repeat(2)),
    "unequal: 1 to 8 columns": (np.arange(40), np.arange(40).repeat([1] * 20 + [2] * 10 + [3] * 6 + [8] * 4)),
}


def simulated(design: str, separation: float, runs: int) -> tuple[np.ndarray, float]:
    """Value, low and high (runs, 4, 3) of the figures of `limits`, and how often D_sys exceeded its null."""
    rng = np.random.default_rng(5)
    found, exceeded = [], 0
    for run in range(runs):
        linkage = normal_scores(rng, *DESIGNS[design], separation)
        figures = unlinkability(linkage, seed=run, permutations=99, resamples=300, fmrs=())
        measures = (figures.d_sys, figures.maximal_linkability, figures.auc, figures.rates["eer"])
        found.append([(m.value, m.low, m.high) for m in measures])
        exceeded += figures.d_sys_null.exceeded
    return np.array(found, dtype=float), exceeded / runs


def coverage(found: np.ndarray, truth: tuple[float, ...]) -> np.ndarray:
    """Share of the runs whose interval contains the truth, for each figure."""
    aim = np.array(truth)
    held: np.ndarray = ((found[:, :, 1] <= aim + 1e-9) & (aim - 1e-9 <= found[:, :, 2])).mean(0)
    return held


def _row(*cells: object) -> None:
    print("| " + " | ".join(f"{c:.3f}" if isinstance(c, float) else str(c) for c in cells) + " |", flush=True)


def usual_and_ours(runs: int) -> None:
    """Prints means of D_sys as it is often computed, and of the benchmark's with its null."""
    rng = np.random.default_rng(0)
    _row("scores", "mated, others", "10 bins", "30 bins", "100 bins", "sum", "null", "95 % point")
    _row(*["---"] * 8)
    cases = [("one law", 0.0, people, columns) for people, columns in ((32, 1), (100, 1), (300, 1), (300, 10))]
    cases += [(f"{gap} sd apart", gap, 100, 1) for gap in (100, 20)]
    for name, separation, people, columns in cases:
        found = []
        for run in range(runs):
            linkage = normal_scores(rng, np.arange(people), np.arange(people).repeat(columns), separation)
            sides = linkage.scores[linkage.mated], linkage.scores[~linkage.mated]
            ours = unlinkability(linkage, seed=run, permutations=49, resamples=100, fmrs=())
            figures = ours.d_sys.value, ours.d_sys_null.mean, ours.d_sys_null.upper
            found.append([*(with_trapezoid(*sides, bins) for bins in (10, 30, 100)), *figures])
        sizes = f"{people * columns:,}, {people * columns * (people - 1):,}"
        _row(name, sizes, *(float(mean) for mean in np.mean(found, axis=0)))


def intervals(runs: int) -> None:
    """Prints coverage, with mean widths."""
    _row("design", "apart", "D_sys", "mean", "coverage (width)", "linked", "maximal linkability", "AUC", "EER")
    _row(*["---"] * 9)
    for design in DESIGNS:
        for separation in (0.0, 0.5, 1.0, 2.0, 4.0):
            truth = limits(separation)
            found, exceeded = simulated(design, separation, runs)
            held, width = coverage(found, truth), (found[:, :, 2] - found[:, :, 1]).mean(0)
            cells = [f"{h:.3f} ({w:.3f})" for h, w in zip(held, width, strict=True)]
            _row(design, separation, truth[0], float(found[:, 0, 0].mean()), cells[0], exceeded, *cells[1:])


if __name__ == "__main__":
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 200
    usual_and_ours(max(1, count // 5))
    intervals(count)
