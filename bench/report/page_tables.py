"""Builds the HTML page's tables, with text and sort keys."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any

import pandas as pd

from bench.analysis.board import LEVELS, Board
from bench.analysis.columns import BY_NAME, COLUMNS, MORE
from bench.analysis.embeddings import METRICS as EMBEDDING_METRICS
from bench.analysis.keyed import board_templates
from bench.analysis.leaderboard import lower_bound
from bench.analysis.verdict import LEVELS as ATTACKING
from bench.analysis.verdict import best_of, floor_of
from bench.labels import at_level
from bench.metrics.catalogue import of_kind
from bench.report.keyed import PARTS, remarks, shown_columns
from bench.report.side_tables import Side
from bench.report.text import interval_text, number_text
from bench.storage.records import Measure, Record

_CELLS = (*of_kind("reconstruction"), *of_kind("replay"))


@dataclass(frozen=True)
class Value:
    """A table cell."""

    text: str
    interval: str = ""
    sort: float | None = None  #: sort key of a column of figures; None: missing, always last
    best: bool = False
    badge: str = ""  #: the attacker's level of knowledge, shown after the text
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A table column."""

    heading: str
    title: str = ""
    figures: bool = False


@dataclass(frozen=True)
class Table:
    """A sortable table; the first column names the row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    shown: str = ""  #: the heading of the column by which the rows are sorted initially


def _figure(value: Any, low: Any = None, high: Any = None, decimals: int = 3) -> Value:
    text = number_text(value, decimals)
    if text == "–":
        return Value(text)
    return Value(text, interval_text(low, high, decimals), float(value))


def _attack(label: str, level: str) -> Value:
    """Shows `resrec@enrolment` as resrec followed by its level."""
    return Value(at_level(label)[0] or "–", badge=level)


def verdict_tables(frame: pd.DataFrame) -> list[Table]:
    """A narrow table per dataset and recogniser: accuracy, and by level the best SSIM and the accepted logins."""
    tables = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        rows = some.to_dict("records")
        names = {"acc": "accuracy ↑"} | {f"{level}_ssim": f"SSIM, {level} ↓" for level in ATTACKING}
        names |= {f"{level}_srra1": f"login, {level} ↓" for level in ATTACKING}
        names = {name: heading for name, heading in names.items() if some[name].notna().any()}
        columns = [Column("defence"), *(Column(names[name], BY_NAME[name].says, True) for name in names)]
        best = {name: best_of(rows, name) for name in names}
        cells = []
        for row in rows:
            figures = [
                _figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), 2 if "srra" in name else 3)
                for name in names
            ]
            marked = [
                replace(figure, best=figure.sort is not None and figure.sort == best[name] and not row["bound_note"])
                for name, figure in zip(names, figures, strict=True)
            ]
            whole = [
                replace(figure, text=f"≥ {figure.text}", title=why)
                if figure.sort is not None and (why := lower_bound(row, name))
                else figure
                for name, figure in zip(names, marked, strict=True)
            ]
            cells.append([Value(row["defense"]), *whole])
        floor = floor_of(rows)
        guess = f" A blind guess reaches an SSIM of {number_text(floor.value, 3)}." if floor else ""
        caption = f"{dataset}, {recognizer}: up to each level of knowledge, SSIM of the best attack and share of logins"
        tables.append(Table(f"{caption} with a rebuilt face that succeed (SRRA I).{guess}", columns, cells))
    return tables


def leaderboard_tables(frame: pd.DataFrame) -> list[Table]:
    """A table per dataset and recogniser; columns without any figure are omitted."""
    tables = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        names = [column for column in (*COLUMNS, *MORE) if some[column.name].notna().any()]
        columns = [Column("defence"), *(Column(column.heading, column.says, True) for column in names)]
        columns.insert(1, Column("worst attack", "the single best attack and its level of knowledge"))
        rows = []
        for row in some.to_dict("records"):
            cells = [Value(row["defense"]), _attack(row["worst_attack"], row["worst_level"])]
            for name, decimals in ((column.name, column.decimals) for column in names):
                cell = _figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), decimals)
                if lower_bound(row, name) and cell.sort is not None:
                    cell = Value(f"≥ {cell.text}", cell.interval, cell.sort, title=lower_bound(row, name))
                elif row["bound_note"] and name == "bound_ssim":
                    cell = Value("incomplete", title=row["bound_note"])
                cells.append(cell)
            rows.append([*cells, Value(row["failed"] or "none")])
        missed = int(some["images_without_a_face"].max())
        note = f" No face was found in {missed} images; they count as failures." if missed else ""
        caption = f"{dataset}, {recognizer}: the most private defence first.{note}"
        # An incomplete row is last, whatever its figure.
        shown = "" if some["bound_note"].any() else BY_NAME["worst_ssim"].heading
        tables.append(Table(caption, [*columns, Column("failed")], rows, shown))
    return tables


def keyed_tables(board: Board) -> list[Table]:
    """The leaderboard of keyed defences in its two parts, sorted by the defence; empty if there is none."""
    records = board_templates(board).to_dict("records")
    tables = []
    for part in PARTS if records else ():
        names = shown_columns(part, records)
        columns = [Column("defence"), Column("keys"), *(Column(c.heading, "", True) for c in names), Column("remarks")]
        rows = [
            [
                Value(str(row["defense"])),
                Value(str(row["keys"])),
                *(_figure(row[c.name], row.get(f"{c.name}_low"), row.get(f"{c.name}_high"), c.decimals) for c in names),
                Value(remarks(part, row)),
            ]
            for row in records
            if any(pd.notna(row[column.name]) for column in names) or row["skipped"]
        ]
        caption = f"{part.title}: {board.dataset}, {board.recognizer}. {part.note.replace('*', '')}"
        tables.append(Table(caption, columns, rows))
    return tables


def embedding_tables(rows: Sequence[Mapping[Any, Any]]) -> list[Table]:
    """The rows of `bench.analysis.embeddings` in one table; None if there are none."""
    if not rows:
        return []
    metrics = [m for m in EMBEDDING_METRICS if any(pd.notna(row[m.name]) for row in rows)]
    columns = [
        Column("defence"), Column("attack"), Column("data"), Column("targets", "", True),
        Column("queries each", "", True),
        *(Column(m.title, "", True) for m in metrics),
    ]  # fmt: skip
    cells = [
        [
            Value(row["defense"]),
            _attack(row["attack"], row["level"]),
            Value(f"{row['dataset']}, {row['recognizer']}"),
            _figure(row["targets"], decimals=0),
            _figure(row["queries"], decimals=0),
            *(_figure(row[n], row[f"{n}_low"], row[f"{n}_high"], m.decimals) for m in metrics for n in [m.name]),
        ]
        for row in rows
    ]
    return [Table("Attacks on stolen embeddings: they have no part in the worst case above.", columns, cells)]


def cells_table(board: Board) -> Table:
    """Every attack and replay on every defence, including failed ones."""
    entries = [
        e
        for defense in board.defenses
        for kind in ("reconstruction", "replay")
        for e in sorted(board.under(defense, kind), key=lambda e: (LEVELS[e.cell.level].place, e.cell.attack))
    ]
    # A column without a figure stays if a note explains why.
    used = [c for c in _CELLS if any(e.metric(c.name).value is not None or e.metric(c.name).note for e in entries)]
    rows = []
    for entry in entries:
        counts = [entry.metric(m.name).n for m in used]
        rows.append(
            [
                Value(entry.cell.defense),
                _attack(entry.cell.attack, entry.cell.level),
                *(_measured(entry.metric(m.name), m.decimals) for m in used),
                _figure(max(counts, default=0) or None, decimals=0),
                Value(entry.failed or "ok"),
            ]
        )
    columns = [Column("defence"), Column("attack"), *(Column(m.heading, "", True) for m in used)]
    columns += [Column("n", "number of images or pairs behind the figures", True), Column("outcome")]
    return Table(f"Every attack on every defence: {board.dataset}, {board.recognizer}", columns, rows)


def side_table(board: Board, side: Side) -> Table:
    """A table beside the leaderboard: the run's self-test, controls, names without pictures."""
    head, *rows = side.rows
    caption = f"{side.title}: {board.dataset}, {board.recognizer}. {side.note.replace('*', '')}"
    return Table(caption, [Column(heading) for heading in head], [[Value(text) for text in row] for row in rows])


def _measured(measure: Measure, decimals: int) -> Value:
    value = _figure(measure.value, measure.low, measure.high, decimals)
    return Value("–", title=measure.note) if value.sort is None else value


def keys_table(records: Sequence[Record]) -> Table:
    """The key and the duration of each cell."""
    columns = [Column("cell"), Column("status"), Column("seed", "", True), Column("seconds", "", True)]
    columns += [Column("key", "sha256 of all inputs of the cell"), Column("artefacts", "", True)]
    rows = [
        [
            Value(record.cell.name),
            Value(record.status),
            _figure(record.cell.seed, decimals=0),
            _figure(record.time_s, decimals=1),
            Value(record.key[:16], title=record.key),
            Value(str(len(record.artefacts)), sort=len(record.artefacts), title="\n".join(record.artefacts)),
        ]
        for record in sorted(records, key=lambda record: record.cell.name)
    ]
    artefacts = len(set(chain.from_iterable(record.artefacts for record in records)))
    caption = f"Cells with their keys and times, including {artefacts} shared artefacts"
    return Table(caption, columns, rows)
