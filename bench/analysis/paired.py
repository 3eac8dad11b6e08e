"""Compares two defences on the same images, with intervals of the differences."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from bench.analysis.board import Board, boards
from bench.errors import UserError, near_miss
from bench.metrics.bootstrap import paired_difference
from bench.metrics.catalogue import metric
from bench.seeds import derive_seed
from bench.storage.records import Run

METRICS = tuple(map(metric, ("ssim", "psnr_db", "cosine")))


def paired(run: Run, one: str, other: str) -> pd.DataFrame:
    """One row per attack that both faced: one's figure minus the other's, with 95 % intervals over identities.

    Raises:
        UserError: a defence is not in the run, or no attack was run on both.
        DataError: there are no records, or damaged ones.
    """
    rows = [row for board in boards(run) for row in _rows(board, one, other)]
    if not rows:
        raise UserError(f"{run.folder}: no attack was run on both {one!r} and {other!r}")
    return pd.DataFrame(rows)


def _rows(board: Board, one: str, other: str) -> list[dict[str, Any]]:
    known = {e.cell.defense for e in board.entries}
    for name in (one, other):
        if name not in known:
            raise UserError(f"the run has no defence {name!r}.{near_miss(name, known)}")
    rows = []
    for attack in board.attacks:
        entries = [board.find("reconstruction", name, attack) for name in (one, other)]
        tables = [e.scores.set_index("name") for e in entries if e is not None and e.scores is not None]
        if len(tables) < 2:
            continue
        names = sorted(set(tables[0].index) & set(tables[1].index))
        if len(names) < 2:
            continue
        row: dict[str, Any] = {"dataset": board.dataset, "recognizer": board.recognizer, "attack": attack}
        row |= {"one": one, "other": other, "n": len(names)}
        owners = tables[0].loc[names, "subject"].to_numpy(dtype=object)
        for name in (m.name for m in METRICS):
            if not all(name in table for table in tables):
                continue
            first, second = (t.loc[names, name].to_numpy(dtype=np.float64) for t in tables)
            figures = paired_difference(first, second, owners, seed=derive_seed("bootstrap", board.dataset))
            for part, value in zip(("", "_low", "_high"), figures, strict=True):
                row[f"{name}{part}"] = value
        rows.append(row)
    return rows
