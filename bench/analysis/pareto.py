"""The Pareto front over privacy, accuracy, size and time: defences that no other beats in all four."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pandas as pd

from bench.labels import Knowledge

_SAME_TIME = 0.1  #: relative difference of times that counts as none, because they are measured once


def fronts(frame: pd.DataFrame) -> pd.Series[str]:
    """For each row of a leaderboard, the levels up to which it is on the front of its dataset and recogniser.

    The four criteria: SSIM of the best attack up to the level (lower is better), accuracy (higher), bytes of a template
    (lower), and milliseconds of client and server for an image (lower; within 10 % is equal). A row without all four is
    on no front, and beats nobody. Point estimates decide, not intervals.

    Returns:
        Levels, separated by commas; empty for none.
    """
    found = pd.Series("", index=frame.index, dtype=object)
    for _, some in frame.groupby(["dataset", "recognizer"], sort=False):
        rows: dict[Any, Mapping[Any, Any]] = dict(zip(some.index, some.to_dict("records"), strict=True))
        for level in Knowledge:
            if level == Knowledge.BLIND:
                continue
            points = {place: point for place, row in rows.items() if (point := _point(row, level)) is not None}
            for place, point in points.items():
                if not any(_beats(other, point) for at, other in points.items() if at != place):
                    found[place] = f"{found[place]}, {level}" if found[place] else str(level)
    return found


def _point(row: Mapping[Any, Any], level: Knowledge) -> tuple[float, float, float, float] | None:
    """All lower is better."""
    values = [row.get(name) for name in (f"{level}_ssim", "acc", "template_bytes", "client_ms", "server_ms")]
    if any(value is None or pd.isna(value) for value in values):
        return None
    ssim, acc, size, client, server = (float(value) for value in values if value is not None)
    return ssim, -acc, size, client + server


def _beats(one: tuple[float, ...], other: tuple[float, ...]) -> bool:
    """Whether `one` is no worse in anything and better in something."""
    slower = one[3] > other[3] * (1 + _SAME_TIME)
    faster = one[3] < other[3] * (1 - _SAME_TIME)
    no_worse = all(a <= b for a, b in zip(one[:3], other[:3], strict=True)) and not slower
    return no_worse and (any(a < b for a, b in zip(one[:3], other[:3], strict=True)) or faster)
