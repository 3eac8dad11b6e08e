"""Curves of keyed defences: error trade-offs (DET), and figures along a sweep of one of a scheme's parameters."""

from __future__ import annotations

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench import labels
from bench.analysis.board import Board
from bench.analysis.keyed import board_templates
from bench.storage.records import Run

SCENARIOS = ("plain", "normal", "stolen")  #: of a protection cell's scores
_POINT = re.compile(r"(?P<name>\w+)=(?P<value>[\d.eE+-]+)")
_POINTS = 200  #: at most so many points of a curve are kept


def det_curves(run: Run, board: Board) -> pd.DataFrame:
    """One row per point: defense, scenario, fmr, fnmr, falling thresholds; of the first seed.

    Mated comparisons are one genuine pair per person, the others are with all other claimed identities. Points at
    which a rate is 0 are left out, because a DET plot has no place for them. `plain`, which needs no defence, is of the
    first one.

    Raises:
        DataError: a cell has no readable scores.
    """
    frames: list[pd.DataFrame] = []
    for defense in board.keyed:
        entry = board.find("protection", defense)
        if entry is None or entry.failed:
            continue
        scores = run.scores(entry.records[0].cell)
        scores = scores[scores["fold"] == -1]  # not the protocol's pairs, which are few
        for scenario in SCENARIOS[bool(frames) :]:
            fmr, fnmr = error_trade_off(scores[scenario].to_numpy(), scores["mated"].to_numpy())
            frames.append(pd.DataFrame({"defense": defense, "scenario": scenario, "fmr": fmr, "fnmr": fnmr}))
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def error_trade_off(
    scores: NDArray[np.float64], mated: NDArray[np.bool_]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """(FMR, FNMR) at falling thresholds, each (K,), without points where one is 0 or 1.

    A comparison is accepted if its score reaches the threshold.

    Args:
        scores: (N,) similarities.
        mated: (N,) True where both templates are of one person.
    """
    own, others = np.sort(scores[mated]), np.sort(scores[~mated])
    thresholds = np.unique(scores)[::-1]
    missed = np.searchsorted(own, thresholds, side="left") / len(own)
    let_in = 1 - np.searchsorted(others, thresholds, side="left") / len(others)
    inside = (missed > 0) & (missed < 1) & (let_in > 0) & (let_in < 1)
    missed, let_in = missed[inside], let_in[inside]
    # Between two changes of FNMR only the lowest and the highest FMR matter for a step.
    corner = np.r_[True, np.diff(missed) != 0] | np.r_[np.diff(missed) != 0, True] if len(missed) else inside[:0]
    missed, let_in = missed[corner], let_in[corner]
    kept = np.unique(np.linspace(0, len(missed) - 1, _POINTS).round().astype(int)) if len(missed) else np.arange(0)
    return let_in[kept], missed[kept]


def swept_templates(board: Board) -> pd.DataFrame:
    """The rows of `board_templates` whose defence is a point of a sweep over one number.

    With `family`, `parameter` and `x`, and sorted by these; empty if there are fewer than two points of a sweep.
    """
    rows = list(_points(board_templates(board)))
    frame = pd.DataFrame(rows)
    if frame.empty:
        return frame
    sizes = frame.groupby(["family", "parameter"])["x"].transform("count")
    return frame[sizes > 1].sort_values(["family", "parameter", "x"]).reset_index(drop=True)


def _points(frame: pd.DataFrame) -> Iterator[dict[str, object]]:
    for row in frame.to_dict("records"):
        found = _POINT.fullmatch(labels.point(str(row["defense"])) or "")
        if found:
            place = {"family": labels.family(str(row["defense"])), "parameter": found["name"]}
            yield {str(name): value for name, value in row.items()} | place | {"x": float(found["value"])}
