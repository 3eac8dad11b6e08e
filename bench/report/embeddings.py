"""Attacks on stolen embeddings: a table of their own, outside the templates' worst case."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd

from bench.records import Measure, Run
from bench.report.summary import UNKNOWN, Board, Entry, boards
from bench.report.text import Format, booktabs, figure_text, markdown, number_text

COLUMNS = {
    "cosine": ("cosine ↓", 3), "srra1": ("SRRA I ↓", 3), "srra2": ("SRRA II ↓", 3), "ssim": ("SSIM (7x7) ↓", 3),
    "psnr_db": ("PSNR dB ↓", 1),
}  # fmt: skip


def embedding_attacks(run: Run) -> pd.DataFrame:
    """One row a defence and attack on embeddings; figures as NAME, NAME_low, NAME_high. Empty where there are none.

    `cosine`: of the reconstruction's embedding to the original's, unprotected. `srra1`, `srra2`: share of the targets
    whose reconstruction passes for them at the defence's threshold. `queries`: images embedded a target.
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
    for name in COLUMNS:
        figure: Measure = entry.metric(name)
        if name.startswith("srra"):
            figure = replay.metric(name) if replay else UNKNOWN
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high
    row["flags"] = "; ".join(sorted({flag for record in entry.records for flag in record.flags}))
    return row


def render_embedding_attacks(frame: pd.DataFrame, fmt: Format) -> str:
    """The table as text; see `bench.report.leaderboard.render` for the formats."""
    if fmt == "csv":
        return frame.to_csv(index=False)
    if fmt == "json":
        return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)
    headings = ["defence", "attack (level)", "targets", "queries each", *(heading for heading, _ in COLUMNS.values())]
    parts = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        rows = [[*headings, "flags"]]
        for row in some.to_dict("records"):
            figures = [
                figure_text(row[name], row[f"{name}_low"], row[f"{name}_high"], decimals)
                for name, (_, decimals) in COLUMNS.items()
            ]
            counts = [number_text(row["targets"], 0), number_text(row["queries"], 0)]
            said = f"failed: {row['failed']}" if row["failed"] else row["flags"]
            rows.append([row["defense"], f"{row['attack']} ({row['level']})", *counts, *figures, said])
        title = f"Attacks on embeddings: {dataset}, {recognizer}"
        if fmt == "tex":
            parts.append(booktabs([row[:-1] for row in rows], "llrr" + "r" * len(COLUMNS), title))
        else:
            parts.append(f"### {title}\n\n{markdown(rows)}\n\n{_NOTE}")
    return "\n\n".join(parts) + "\n"


_NOTE = (
    "What was stolen here is the embedding, not the template: these attacks have no part in the worst case above. "
    "Black-box: a query is one image embedded. *SRRA I*: share of the targets for whom the reconstruction passes."
)
