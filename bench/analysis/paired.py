"""Compares two defences on the same images, or all with one on the same pairs, with intervals of the differences."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import NormalDist
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.analysis.board import Board, boards
from bench.analysis.cost import accuracy_costs
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


def accuracies(run: Run, reference: str) -> pd.DataFrame:
    """One row per dataset, recogniser and other defence: its accuracy minus the reference's, on the same pairs.

    `difference` and its ends are fractions. `p` is two-sided, from the interval's centre and width; `p_holm` is
    corrected for the number of defences on that dataset (Holm 1979).

    Raises:
        UserError: the reference is not in the run, or nothing can be compared with it.
        DataError: there are no records, or damaged ones.
    """
    rows: list[dict[str, Any]] = []
    for board in boards(run):
        bare = board.find("utility", reference)
        if bare is None:
            raise UserError(f"the run has no defence {reference!r}.{near_miss(reference, board.defenses)}")
        own: list[dict[str, Any]] = []
        for defense, cost in accuracy_costs(run, board, bare).items():
            if cost.value is None or cost.low is None or cost.high is None:
                continue
            place = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": defense}
            entry = board.find("utility", defense)
            figures = {"acc": entry.metric("acc").value if entry else None, "difference": -cost.value}
            ends = {"difference_low": -cost.high, "difference_high": -cost.low, "p": _p_value(cost.low, cost.high)}
            own.append({**place, "n": entry.metric("acc").n if entry else None, **figures, **ends})
        for row, corrected in zip(own, holm([row["p"] for row in own]), strict=True):
            rows.append({**row, "p_holm": corrected})
    if not rows:
        raise UserError(f"{run.folder}: no other defence was judged on the pairs of {reference!r}")
    return pd.DataFrame(rows)


def holm(values: Sequence[float]) -> NDArray[np.float64]:
    """P values corrected for their number, by Holm's step-down method; in the given order."""
    found = np.asarray(values, dtype=np.float64)
    order = np.argsort(found, kind="stable")
    corrected = np.maximum.accumulate(found[order] * np.arange(len(found), 0, -1))
    result = np.empty_like(found)
    result[order] = np.minimum(corrected, 1.0)
    return result


def _p_value(low: float, high: float) -> float:
    """Two-sided, of a normal statistic with this 95 % interval."""
    normal = NormalDist()
    spread = (high - low) / (2 * normal.inv_cdf(0.975))
    if spread == 0:
        return 1.0 if low == 0 else 0.0
    return 2 * normal.cdf(-abs(low + high) / 2 / spread)
