"""The cost of a defence in accuracy, relative to a system that stores plain features."""

from __future__ import annotations

from bench.analysis.board import UNKNOWN, Board, Entry
from bench.analysis.compare import paired_interval
from bench.errors import DataError
from bench.storage.records import Measure, Run


def undefended(board: Board) -> Entry | None:
    """The accuracy cell of the defence that stores plain features; None if the run has none."""
    found = (
        e for e in board.entries
        if e.cell.kind == "utility" and not e.cell.probe and not e.failed and e.records[0].info.get("stores_features")
    )  # fmt: skip
    return next(found, None)


def accuracy_costs(run: Run, board: Board, bare: Entry | None = None) -> dict[str, Measure]:
    """By defence: accuracy without a defence minus accuracy with it, on the same pairs; a fraction, not points.

    Without an interval if one side's scores are missing, and without a value if a figure is missing.

    Args:
        bare: another accuracy cell to compare with.
    """
    bare = bare or undefended(board)
    return {defense: _cost(run, bare, board.find("utility", defense)) for defense in board.defenses}


def _cost(run: Run, bare: Entry | None, own: Entry | None) -> Measure:
    if bare is None or own is None or own is bare:
        return UNKNOWN
    before, after = bare.metric("acc").value, own.metric("acc").value
    if before is None or after is None:
        return UNKNOWN
    seeds = {record.cell.seed: record for record in bare.records}
    ends = []
    for record in own.records:
        if record.cell.seed not in seeds:
            return Measure(before - after)
        try:
            tables = (run.scores(record.cell), run.scores(seeds[record.cell.seed].cell))
        except DataError:
            return Measure(before - after)
        low, high = paired_interval(record, "correct", tables)
        if low is None or high is None:
            return Measure(before - after)
        ends.append((low, high))
    low, high = (sum(end) / len(ends) for end in zip(*ends, strict=True))
    return Measure(before - after, low, high)
