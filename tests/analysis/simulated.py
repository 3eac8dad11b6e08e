"""How far the best of several attacks is overestimated, by simulation: `python tests/analysis/simulated.py`.

Prints the table of docs/intervals.md. Attacks have known true means. The score of an image is the mean of its attack,
plus what makes this image easy or hard for all attacks, plus what does so for this one attack; a part of both belongs
to the person. The truth is the highest mean of all attacks.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from bench.analysis.board import Board, Entry
from bench.analysis.strongest import strongest_up_to
from bench.labels import Knowledge
from bench.metrics.bootstrap import resample_weights, resampled_means
from bench.storage.records import Cell, Measure

LEVELS = ("encoder", "algorithm", "enrolment", "whitebox")
_SD = 0.04  #: of the SSIM of an attack's images
_COMMON = 0.7  #: share of the variance that all attacks have in common
_PERSONAL = 0.3  #: share of either part that belongs to people
_HALVES = 20  #: how often cross-fitting divides the people

_LFW_PEOPLE = np.concatenate([np.arange(130), np.arange(50), np.repeat([0, 1, 2, 3], [8, 5, 4, 3])])
DESIGNS = {"default": np.repeat(np.arange(100), 2), "lfw": _LFW_PEOPLE}  #: the person of each of 200 images


@dataclass(frozen=True)
class Case:
    """True means of the attacks, the number of images of each (None: all), and the levels they are spread over."""

    means: Sequence[float]
    images: Mapping[int, int]
    levels: int = 1


CASES = {
    "one attack": Case([0.75], {}),
    "2 equal": Case([0.75] * 2, {}),
    "10 equal": Case([0.75] * 10, {}),
    "20 equal": Case([0.75] * 20, {}),
    "10, steps of .002": Case([0.75 - 0.002 * k for k in range(10)], {}),
    "10, steps of .005": Case([0.75 - 0.005 * k for k in range(10)], {}),
    "one better by .05": Case([0.75, *[0.70] * 9], {}),
    "5 equal, one on 10 images": Case([0.75] * 5, {4: 10}),
    "12 equal, 3 a level": Case([0.75] * 12, {}, 4),
}


@dataclass(frozen=True)
class Quality:
    """Of an estimate of the truth: its mean error, how often its interval holds the truth, and the mean width."""

    bias: float
    held: float
    width: float

    def __str__(self) -> str:
        return f"{self.bias:+.4f}, {self.held:.3f} ({self.width:.4f})"


def drawn(case: Case, owners: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Scores (N, K), NaN where an attack has no score."""
    count, attacks = len(owners), len(case.means)

    def effect(columns: int) -> np.ndarray:
        people = rng.normal(size=(owners.max() + 1, columns))[owners]
        return np.sqrt(_PERSONAL) * people + np.sqrt(1 - _PERSONAL) * rng.normal(size=(count, columns))

    scores = np.array(case.means) + _SD * (np.sqrt(_COMMON) * effect(1) + np.sqrt(1 - _COMMON) * effect(attacks))
    for attack, images in case.images.items():
        scores[np.arange(count) % (count // images) != 0, attack] = np.nan
    return scores


def board(case: Case, scores: np.ndarray, owners: np.ndarray) -> Board:
    """The same scores as entries of a leaderboard."""
    entries = []
    names = np.array([f"i{n:04}" for n in range(len(owners))])
    people = np.array([f"p{n:03}" for n in owners], dtype=object)
    low, high = np.nanquantile(resampled_means(scores, owners, seed=0), [0.025, 0.975], axis=0)
    for k, column in enumerate(scores.T):
        level = LEVELS[k * case.levels // len(case.means)]
        some = np.isfinite(column)
        cell = Cell("reconstruction", "faces", "net", "veil", f"attack{k:02}", level, "template")
        ssim = Measure(float(column[some].mean()), float(low[k]), float(high[k]), int(some.sum()))
        table = pd.DataFrame({"name": names[some], "subject": people[some], "ssim": column[some]})
        entries.append(Entry(cell, (), {"ssim": ssim}, scores=table))
    return Board("faces", "net", tuple(entries))


def cross_fitted(
    scores: np.ndarray, owners: np.ndarray, resamples: np.ndarray, halves: np.ndarray
) -> tuple[float, ...]:
    """(figure, low, high): each half of the people has the figure of the attack that the other half chose.

    `halves` (2 R, N) lists which images report, in R divisions; `resamples` (1000, N) are the bootstrap's weights.
    """
    known = np.isfinite(scores)
    filled = np.where(known, scores, 0.0)
    others = 1 - halves
    with np.errstate(invalid="ignore"):
        means = np.nan_to_num((others @ filled) / (others @ known), nan=-np.inf)
    weights = np.zeros_like(filled)
    for half, attack in zip(halves, means.argmax(1), strict=True):
        weights[:, attack] += half * known[:, attack]
    by_image, summed = weights.sum(1), (weights * filled).sum(1)
    again = (resamples @ summed) / (resamples @ by_image)
    return float(summed.sum() / by_image.sum()), *np.quantile(again, [0.025, 0.975])


def estimates(case: Case, owners: np.ndarray, runs: int, seed: int = 17) -> dict[str, Quality]:
    """The quality of the plain maximum, of cross-fitting and of the figure as reported."""
    rng = np.random.default_rng(seed)
    resamples = resample_weights(owners, 0, 1000)
    found: dict[str, list[tuple[float, ...]]] = {}
    for _ in range(runs):
        scores = drawn(case, owners, rng)
        played = board(case, scores, owners)
        best = max((e.metric("ssim") for e in played.entries), key=lambda m: m.value or 0)
        found.setdefault("plain maximum", []).append((best.value, best.low, best.high))  # type: ignore[arg-type]
        people = owners.max() + 1
        chosen = np.stack([rng.permutation(people) < people // 2 for _ in range(_HALVES)])[:, owners]
        once, often = np.concatenate([chosen[:1], ~chosen[:1]]), np.concatenate([chosen, ~chosen])
        for name, halves in (("cross-fitted", once), (f"cross-fitted {_HALVES} times", often)):
            found.setdefault(name, []).append(cross_fitted(scores, owners, resamples, halves.astype(float)))
        figure = list(strongest_up_to(played, played.entries).values())[-1].metric("ssim")
        found.setdefault("as reported", []).append((figure.value, figure.low, figure.high))  # type: ignore[arg-type]
    truth = max(case.means)
    return {
        name: Quality(
            float(np.mean([value - truth for value, _, _ in rows])),
            float(np.mean([low <= truth <= high for _, low, high in rows])),
            float(np.mean([high - low for _, low, high in rows])),
        )
        for name, rows in found.items()
    }


def main(runs: int) -> None:
    """Prints a Markdown table; cells are bias, coverage (mean width)."""
    for design, owners in DESIGNS.items():
        for name, case in CASES.items():
            row = estimates(case, owners, runs)
            print("| " + " | ".join([design, name, *map(str, row.values())]) + " |", flush=True)


assert set(LEVELS) < {str(level) for level in Knowledge}

if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 1000)
