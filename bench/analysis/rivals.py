"""Compares one attack with another on every defence, and reports whether it passed the self-test."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

from bench.analysis.board import LEVELS, UNKNOWN, Board, Entry, boards
from bench.analysis.selftest import blind_floor, board_trials
from bench.labels import at_level
from bench.metrics.bootstrap import paired_difference
from bench.seeds import derive_seed
from bench.storage.records import Measure, Run

_OTHER = {"linkage": "rank1", "traits": "trait_accuracy"}  #: the metric of kinds whose result is no picture

Standing = Literal["more", "less", "as much", "not compared", "no figure"]


@dataclass(frozen=True)
class Rivalry:
    """One attack at one level on one defence."""

    dataset: str
    recognizer: str
    defense: str
    attack: str
    level: str
    metric: str  #: ssim of a reconstruction, rank1 of a linkage, trait_accuracy of an attack on traits
    own: Measure
    other: Measure  #: of the other attack at the same level; without a value if it has none
    difference: Measure  #: own minus other, on the images that both attacked
    floor: float | None  #: SSIM of the best blind guess
    why: str = ""  #: the reason why there is no figure

    @property
    def standing(self) -> Standing:
        """Better, worse or as good as the other attack, by the interval of the difference."""
        if self.own.value is None:
            return "no figure"
        if self.difference.low is None or self.difference.high is None:
            return "not compared"
        return "more" if self.difference.low > 0 else "less" if self.difference.high < 0 else "as much"


def rivals(run: Run, own: str, other: str) -> list[Rivalry]:
    """Every defence under an attack, at each of its levels, with another attack at the same level if available.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    return [found for board in boards(run) for found in _on(board, own, other)]


def _on(board: Board, own: str, other: str) -> list[Rivalry]:
    found = []
    for defense in board.defenses:
        entries = [e for kind in ("reconstruction", *_OTHER) for e in board.under(defense, kind)]
        mine = [e for e in entries if at_level(e.cell.attack)[0] == own]
        for entry in sorted(mine, key=lambda e: LEVELS[e.cell.level].place):
            same = (e for e in entries if at_level(e.cell.attack)[0] == other and e.cell.level == entry.cell.level)
            found.append(_rivalry(board, entry, next(same, None)))
    return found


def _rivalry(board: Board, own: Entry, other: Entry | None) -> Rivalry:
    metric = _OTHER.get(own.cell.kind, "ssim")
    return Rivalry(
        dataset=board.dataset,
        recognizer=board.recognizer,
        defense=own.cell.defense,
        attack=own.cell.attack,
        level=own.cell.level,
        metric=metric,
        own=own.metric(metric),
        other=other.metric(metric) if other else UNKNOWN,
        difference=_difference(board, own, other, metric),
        floor=blind_floor(board) or None if metric == "ssim" else None,
        why=own.why if own.failed else "",
    )


def _difference(board: Board, own: Entry, other: Entry | None, metric: str) -> Measure:
    if other is None or own.scores is None or other.scores is None:
        return UNKNOWN
    one, two = (e.scores.set_index("name") for e in (own, other) if e.scores is not None)
    names = sorted(set(one.index) & set(two.index))
    if len(names) < 2 or metric not in one or metric not in two:
        return UNKNOWN
    owners = one.loc[names, "subject"].to_numpy(dtype=object)
    first, second = (table.loc[names, metric].to_numpy(dtype=np.float64) for table in (one, two))
    mean, low, high = paired_difference(first, second, owners, seed=derive_seed("bootstrap", board.dataset))
    return Measure(mean, low, high, len(names))


def selftest(run: Run, own: str) -> list[str]:
    """The self-test's failures of an attack; empty if it passed all trials."""
    return [
        f"{trial.attack} on canary~{trial.canary}: {trial.said}"
        for board in boards(run)
        for trial in board_trials(board)
        if at_level(trial.attack)[0] == own and not trial.passed
    ]
