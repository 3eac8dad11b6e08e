"""The van Trees floor under every attack's mean squared error, for defences that add noise of a known law."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from bench.analysis.board import LEVELS, Board, Entry
from bench.labels import Knowledge
from bench.storage.records import Measure


@dataclass(frozen=True)
class FloorRow:
    """One defence: its floor, and the attacks that read one template, the lowest error first."""

    defense: str
    mse: float
    isotropic: float | None  #: for equal variance beyond the principal directions; None in an incomplete record
    attacks: tuple[tuple[Entry, Measure], ...]


def mse_floor(utility: Entry | None, name: str = "mse") -> float | None:
    """The floor in a record of a defence's utility, the mean over seeds; None if its noise has no known law.

    Args:
        name: of the figure, as in `bench.toolkit.fisher.Floor`.
    """
    if utility is None or utility.failed:
        return None
    found: list[Any] = [record.info.get("floor") for record in utility.records]
    values = [float(floor[name]) for floor in found if isinstance(floor, dict) and name in floor]
    return sum(values) / len(values) if values and len(values) == len(found) else None


def single_template_errors(board: Board, defense: str) -> list[tuple[Entry, Measure]]:
    """Attacks that read one template of a face, with their mean squared error, the lowest first.

    Several templates of one image tell more than one, so attacks that average them may be below the floor.
    """
    found = []
    for entry in board.under(defense, "reconstruction"):
        if entry.failed or entry.cell.leaks != "template" or LEVELS[entry.cell.level] == Knowledge.BLIND:
            continue
        copies = max(int(r.info.get("reconstruction", {}).get("copies", 1)) for r in entry.records)
        measured = entry.metric("mse")
        if copies == 1 and measured.value is not None:
            found.append((entry, measured))
    return sorted(found, key=lambda pair: (pair[1].value or 0.0, pair[0].cell.attack))


def floors(board: Board) -> list[FloorRow]:
    """Every defence that has a floor, as the board orders them."""
    rows = []
    for defense in board.defenses:
        utility = board.find("utility", defense)
        floor = mse_floor(utility)
        if floor is not None:
            isotropic = mse_floor(utility, "mse_isotropic")
            rows.append(FloorRow(defense, floor, isotropic, tuple(single_template_errors(board, defense))))
    return rows


def below_floor(board: Board, defense: str) -> list[str]:
    """Labels of the attacks whose interval lies below the floor."""
    floor = mse_floor(board.find("utility", defense))
    if floor is None:
        return []
    return [
        entry.cell.attack
        for entry, measured in single_template_errors(board, defense)
        if (measured.high if measured.high is not None else measured.value or 0.0) < floor
    ]
