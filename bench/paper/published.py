"""The paper's published figures from `results/paper/*.csv`, checked for consistency with each other."""

from __future__ import annotations

import csv
from collections.abc import Mapping
from pathlib import Path

from bench.errors import DataError
from bench.storage.files import shipped

# One figure: (table, row, role of the data set, metric). A row is identified by the headings of its line.
Key = tuple[str, tuple[str, ...], str, str]

_ROLES = {"LFW": "lfw", "CFP-FP": "cfp_fp", "AgeDB-30": "agedb"}
_HEADS = {"table1": ("defense",), "table2": ("defense",), "table3": ("shadow",), "table4": ("shadow", "attack")}
# Column of the file: the metric, and the file's unit in the metric's own.
_METRICS = {
    "ssim": ("ssim", 1.0),
    "psnr_db": ("psnr_db", 1.0),
    "mse": ("mse", 1.0),
    "srra_percent": ("srra2", 0.01),
    "accuracy_percent": ("acc", 0.01),
}
#: The main setting, which is printed twice: shadow and attacker of the same architecture.
_MAIN_SHADOW, _MAIN_ATTACK = "resnet", "ResRec"


def folder() -> Path:
    """`results/paper` next to the package, or where an installed copy has it."""
    return shipped("results/paper", "paper")


def published(place: Path | None = None) -> Mapping[Key, float]:
    """Every published figure, in the benchmark's units (fractions, dB).

    Raises:
        DataError: a file is missing or damaged, names no source, or contradicts the paper's other tables.
    """
    place = place or folder()
    found: dict[Key, float] = {}
    for table, heads in _HEADS.items():
        path = place / f"{table}.csv"
        try:
            with path.open(encoding="utf-8", newline="") as file:
                rows = list(csv.DictReader(file))
            for row in rows:
                if not row["source"]:
                    raise DataError(f"{path}: a figure without its source: {row}")
                for column, (metric, unit) in _METRICS.items():
                    if column in row:
                        key = (table, tuple(row[head] for head in heads), _ROLES[row["dataset"]], metric)
                        found[key] = round(float(row[column]) * unit, 6)
        except (OSError, KeyError, ValueError, TypeError) as error:
            raise DataError(
                f"{path}: cannot be read as the paper's figures ({type(error).__name__}: {error})"
            ) from error
    check(found)
    return found


def check(figures: Mapping[Key, float]) -> None:
    """Checks consistency: the paper's main setting is in two tables.

    Raises:
        DataError: a figure contradicts another.
    """
    for role in _ROLES.values():
        same = [
            *(
                (("table1", ("AdvFace",), role, m), ("table4", (_MAIN_SHADOW, _MAIN_ATTACK), role, m))
                for m in ("ssim", "psnr_db")
            ),
            (("table2", ("AdvFace (online)",), role, "acc"), ("table3", (_MAIN_SHADOW,), role, "acc")),
        ]
        for one, other in same:
            if one not in figures or other not in figures or figures[one] != figures[other]:
                shown = [f"{key[0]} {' x '.join(key[1])} {figures.get(key)}" for key in (one, other)]
                raise DataError(f"the published {one[3]} on {role} differs: {shown[0]}, but {shown[1]}")
