"""The result of an attack along a sweep of one of its parameters."""

from __future__ import annotations

import re

import pandas as pd

from bench.analysis.board import Board, boards
from bench.storage.records import Run

_POINT = re.compile(r"(?P<family>[^\[]+)\[(?P<name>\w+)=(?P<value>[\d.eE+-]+)\]")


def curve_points(run: Run, metric: str = "ssim") -> pd.DataFrame:
    """One row per point: dataset, recognizer, defense, attack, parameter, x, and y with its interval (low, high).

    Raises:
        DataError: there are no records, or damaged ones.
    """
    return pd.DataFrame([row for board in boards(run) for row in _rows(board, metric)])


def _rows(board: Board, metric: str) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = []
    for defense in board.defenses:
        for entry in board.under(defense, "reconstruction"):
            found = _POINT.fullmatch(entry.cell.attack)
            figure = entry.metric(metric)
            if found is None or entry.failed or figure.value is None:
                continue
            place = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": defense}
            point = {"attack": found["family"], "parameter": found["name"], "x": float(found["value"])}
            rows.append({**place, **point, "y": figure.value, "low": figure.low, "high": figure.high, "n": figure.n})
    return rows
