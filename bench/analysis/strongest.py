"""Finds the strongest attack up to each level of knowledge, and corrects its figures for having been chosen.

The best of several attacks owes its place partly to these people: on others it would do slightly worse (the winner's
curse). The bootstrap estimates by how much. In each resample of the people, the attack that is best there exceeds its
own mean over all people by some amount; the mean of this amount over the resamples, beyond that of the attack chosen on
all people, is the *optimism* (Efron 1983), and is subtracted from the figure and from its interval. It is zero if there
is only one attack, or if the same attack wins in every resample. docs/intervals.md compares it with cross-fitting.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.board import LEVELS, Board, Entry
from bench.labels import Knowledge
from bench.metrics.bootstrap import resampled_means
from bench.seeds import derive_seed
from bench.storage.records import Measure

FIGURES = ("ssim", "psnr_db", "cosine", "judge_cosine", "lpips")  #: the figures that are corrected; `ssim` chooses


@dataclass(frozen=True, eq=False)
class Strongest:
    """The attack with the highest SSIM among those up to a level of knowledge."""

    entry: Entry
    share: float = 1.0  #: of the resamples in which this attack is the best
    optimism: Mapping[str, float] = field(default_factory=dict)  #: by figure: what `metric` subtracts
    note: str = ""  #: the reason why the figures are not corrected, if there were several attacks

    def metric(self, name: str) -> Measure:
        """A figure of the attack with its interval, minus its optimism."""
        found, extra = self.entry.metric(name), self.optimism.get(name, 0.0)
        if found.value is None or extra == 0:
            return found
        low, high = (None if end is None else end - extra for end in (found.low, found.high))
        return Measure(found.value - extra, low, high, found.n, found.note)


def strongest_up_to(board: Board, entries: Sequence[Entry]) -> dict[Knowledge, Strongest]:
    """For each level at which one of these attacks ran, in order: the strongest attack up to that level.

    An attacker can do everything that one with less knowledge can, so a level whose corrected SSIM is below that of a
    level that it includes has the attack and the figures of that one. Ties go to the lower level, then to the name.

    Args:
        entries: attacks on the same defence, none of them failed.
    """
    return strongest(board, entries)[0]


def strongest(board: Board, entries: Sequence[Entry]) -> tuple[dict[Knowledge, Strongest], Strongest | None]:
    """Returns (`strongest_up_to`, the strongest of all attacks). The second is None without attacks.

    They are two questions because no level need include all others: `server` and `encoder` do not include each other.
    """
    order = sorted(entries, key=lambda e: (LEVELS[e.cell.level].place, e.cell.attack))
    scored = {id(e): scores for e in order if (scores := _scores(e)) is not None}
    resampled = _Resampled(board, scored) if len(scored) > 1 else None
    found: dict[Knowledge, Strongest] = {}
    for level in dict.fromkeys(LEVELS[e.cell.level] for e in order):
        some = [e for e in order if LEVELS[e.cell.level] <= level]
        included = [own for lower, own in found.items() if lower < level]
        found[level] = max([*included, _chosen(some, resampled, scored)], key=_value)
    top = next((level for level in found if all(other <= level for other in found)), None)
    if top is not None or not found:
        return found, found.get(top) if top else None
    return found, max([*found.values(), _chosen(order, resampled, scored)], key=_value)


def _value(one: Strongest | Entry) -> float:
    value = one.metric("ssim").value
    return -math.inf if value is None else value


def _scores(entry: Entry) -> pd.DataFrame | None:
    """The scores of each image, by its name; None if they are missing or some are not finite."""
    scores = entry.scores
    if scores is None or not {"name", "subject", "ssim"} <= set(scores.columns):
        return None
    return scores.set_index("name") if np.isfinite(scores["ssim"].to_numpy(dtype=np.float64)).all() else None


def _chosen(some: Sequence[Entry], resampled: _Resampled | None, scored: Mapping[int, pd.DataFrame]) -> Strongest:
    best = max(some, key=_value)
    if len(some) == 1:
        return Strongest(best)
    lacking = sorted(e.cell.attack for e in some if id(e) not in scored)
    if lacking or resampled is None:
        return Strongest(best, note=f"worst case not corrected: no scores per image of {', '.join(lacking)}")
    share, optimism = resampled.optimism(best, some)
    return Strongest(best, share, optimism)


class _Resampled:
    """The figures of several attacks on all people (K,), and in each resample of the people (R, K)."""

    def __init__(self, board: Board, scored: Mapping[int, pd.DataFrame]) -> None:
        self.place = {entry: column for column, entry in enumerate(scored)}
        owners = pd.concat([scores["subject"] for scores in scored.values()])
        owners = owners[~owners.index.duplicated()].sort_index()
        tables = {name: self._columns(name, scored, owners.index) for name in FIGURES}
        seed = derive_seed("bootstrap", board.dataset)
        every = np.concatenate(list(tables.values()), axis=1)
        means = resampled_means(every, owners.to_numpy(dtype=object), seed=seed)
        self.resampled = dict(zip(tables, np.split(means, len(tables), axis=1), strict=True))
        self.observed = {
            name: np.array([column[np.isfinite(column)].mean() if np.isfinite(column).any() else np.nan
                            for column in table.T])
            for name, table in tables.items()
        }  # fmt: skip

    @staticmethod
    def _columns(name: str, scored: Mapping[int, pd.DataFrame], images: pd.Index) -> NDArray[np.float64]:
        columns = [
            scores[name].reindex(images) if name in scores else pd.Series(np.nan, index=images)
            for scores in scored.values()
        ]
        return np.stack([column.to_numpy(dtype=np.float64) for column in columns], axis=1)

    def optimism(self, best: Entry, some: Sequence[Entry]) -> tuple[float, dict[str, float]]:
        """Returns (share of the resamples in which `best` is the best of `some`, optimism of each figure)."""
        own = self.place[id(best)]
        columns = np.array([own, *(self.place[id(e)] for e in some if e is not best)])  # ties go to the chosen one
        ssim = np.nan_to_num(self.resampled["ssim"][:, columns], nan=-np.inf)
        winners = columns[ssim.argmax(axis=1)]
        draws = np.arange(len(winners))
        found = {}
        for name in FIGURES:
            gained = self.resampled[name] - self.observed[name]
            beyond = gained[draws, winners] - gained[:, own]
            beyond = beyond[np.isfinite(beyond)]
            found[name] = float(beyond.mean()) if len(beyond) else 0.0
        return float((winners == own).mean()), found
