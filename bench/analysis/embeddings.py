"""The table of attacks on stored embeddings, which are not part of the leaderboard."""

from __future__ import annotations

from typing import Any

import pandas as pd

from bench.analysis.board import UNKNOWN, Board, Entry, boards
from bench.metrics.catalogue import Metric, metric
from bench.storage.records import Measure, Run

METRICS = tuple(map(metric, ("cosine", "judge_cosine", "judge_sar_0.01", "srra1", "srra2", "ssim", "psnr_db")))


def measured(frame: pd.DataFrame) -> tuple[Metric, ...]:
    """Those of the metrics that some row has a figure of."""
    return tuple(m for m in METRICS if frame[m.name].notna().any())


def embedding_attacks(run: Run) -> pd.DataFrame:
    """One row per defence and attack on embeddings; figures as NAME, NAME_low, NAME_high. Empty if there are none.

    `cosine`: of the reconstruction's embedding to the original's, unprotected. `srra1`, `srra2`: fraction of the
    targets whose reconstruction is accepted at the defence's threshold. `queries`: images embedded per target.
    """
    return pd.DataFrame([row for board in boards(run) for row in _rows(board)])


def _rows(board: Board) -> list[dict[str, Any]]:
    rows = []
    for defense in board.defenses:
        for entry in board.under(defense, "reconstruction"):
            if entry.cell.leaks == "embedding":
                rows.append(_row(board, entry))
    return rows


def _row(board: Board, entry: Entry) -> dict[str, Any]:
    cell = entry.cell
    row: dict[str, Any] = {
        "dataset": board.dataset,
        "recognizer": board.recognizer,
        "defense": cell.defense,
        "attack": cell.attack,
        "level": cell.level,
        "failed": entry.failed,
    }
    info = entry.records[0].info.get("reconstruction", {}) if not entry.failed else {}
    row["targets"], row["queries"] = info.get("images"), info.get("queries_per_target")
    replay = next(
        (
            found
            for found in board.under(cell.defense, "replay")
            if not found.failed and found.records[0].info.get("wraps") == cell.attack
            and found.records[0].info.get("presents") == "image"
        ),
        None,
    )  # fmt: skip
    for name in (m.name for m in METRICS):
        figure: Measure = entry.metric(name)
        if name.startswith("srra"):
            figure = replay.metric(name) if replay else UNKNOWN
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high
    row["flags"] = "; ".join(sorted({flag for record in entry.records for flag in record.flags}))
    return row
