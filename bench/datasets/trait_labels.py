"""Reads a user's table of traits (age, glasses, ...) of photographs or people, as CSV."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.datasets.decoding import suffixes
from bench.datasets.photographs import normal
from bench.errors import DataError
from bench.storage.files import file_hash, read_text

Traits = dict[str, NDArray[np.float32]]

_KEYS = ("file", "person")
_WORDS = {"": math.nan, "no": 0.0, "false": 0.0, "yes": 1.0, "true": 1.0}
_STRANGERS = "lines of the table of traits that belong to no photograph here"


@dataclass(frozen=True)
class TraitTable:
    """The table: what is known of each photograph, or of each person."""

    by: str  #: `file` or `person`
    names: tuple[str, ...]  #: of the traits
    rows: Mapping[str, tuple[float, ...]]  #: by photograph (without its suffix) or person; NaN where a cell is empty


def parse_traits(text: str, where: str) -> TraitTable:
    """Parses the table.

    The first column is called `file` (a photograph's path below the dataset's folder, with or without its suffix) or
    `person`. Every other column is a trait. Its cells are numbers, `yes`, `no`, `true` or `false`, or empty if unknown.

    Raises:
        DataError: a line is malformed; names the file, the line and the column.
    """
    lines = _lines(text, where)
    head = [cell.strip() for cell in next(lines, (1, []))[1]]
    if not head or head[0] not in _KEYS:
        found = repr(head[0]) if head else "nothing"
        raise DataError(f"{where}:1: the first column must be called 'file' or 'person', not {found}")
    names = head[1:]
    for number, name in enumerate(names, 2):
        if not name or names.count(name) > 1:
            wrong = f"{name!r} is also the name of another" if name else "it has no name"
            raise DataError(f"{where}:1: column {number}: {wrong}; give every trait a name of its own")
    if not names:
        raise DataError(f"{where}:1: no column of a trait after {head[0]!r}")
    rows: dict[str, tuple[float, ...]] = {}
    for line, cells in lines:
        if not any(cell.strip() for cell in cells):
            continue
        if len(cells) != len(head):
            raise DataError(f"{where}:{line}: {len(cells)} columns, but the first line has {len(head)}")
        key = _without_suffix(cells[0]) if head[0] == "file" else normal(cells[0].strip())
        if key in rows:
            raise DataError(f"{where}:{line}: a second line of {head[0]} {key!r}; keep one of them")
        rows[key] = tuple(
            _value(cell, f"{where}:{line}: column {name!r}") for name, cell in zip(names, cells[1:], strict=True)
        )
    return TraitTable(head[0], tuple(names), rows)


def _lines(text: str, where: str) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and cells."""
    reader = csv.reader(io.StringIO(text), strict=True)
    try:
        for cells in reader:
            yield reader.line_num, cells
    except csv.Error as error:
        raise DataError(f"{where}:{reader.line_num}: not CSV ({error})") from error


def _value(cell: str, where: str) -> float:
    text = cell.strip().lower()
    try:
        value = _WORDS[text] if text in _WORDS else float(text)
    except ValueError:
        value = math.inf
    if math.isinf(value) or (math.isnan(value) and text):
        raise DataError(f"{where}: {cell.strip()!r} is neither a number nor yes or no; leave it empty if unknown")
    return value


def _without_suffix(name: str) -> str:
    path = normal(name.strip())
    return path[: -len(Path(path).suffix)] if Path(path).suffix.lower() in suffixes() else path


def labels_revision(path: str) -> str:
    """Hash of the table's bytes; empty without a path.

    Raises:
        DataError: there is no such file, or a line is malformed.
    """
    if not path:
        return ""
    place = _existing(path)
    parse_traits(read_text(place), str(place))
    return file_hash(place)


def _existing(path: str) -> Path:
    place = Path(path).expanduser()
    if not place.is_file():
        raise DataError(f'{place}: no such table of traits; set traits to a CSV file, or traits = ""')
    return place


def read_traits(
    path: str, files: Sequence[str], people: Sequence[str] | None
) -> tuple[Traits, dict[str, Sequence[str]]]:
    """The traits of photographs, (N,) each, and which lines were not used; without a path, there are none.

    Args:
        files: (N,) their paths below the dataset's folder, with or without suffixes.
        people: (N,) whom they show; None if unknown.

    Raises:
        DataError: as for `parse_traits`; or no line belongs to any of these photographs.
    """
    if not path:
        return {}, {}
    place = _existing(path)
    table = parse_traits(read_text(place), str(place))
    if table.by == "person" and people is None:
        raise DataError(f"{place}:1: the people in this dataset are unknown; use a column 'file' instead of 'person'")
    keys = [_without_suffix(name) for name in files] if table.by == "file" else list(people or ())
    known = [table.rows.get(key) for key in keys]
    if not any(known):
        asked = f"; the first is called {keys[0]!r} here" if keys else ""
        raise DataError(f"{place}: none of its {len(table.rows)} lines names a {table.by} of this dataset{asked}")
    unknown = (math.nan,) * len(table.names)
    values = np.array([row or unknown for row in known], dtype=np.float32).T
    strangers = sorted(set(table.rows) - set(keys))
    return dict(zip(table.names, values, strict=True)), {_STRANGERS: strangers} if strangers else {}
