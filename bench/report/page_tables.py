"""The page's tables, as text and as what their columns are sorted by."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import pandas as pd

from bench.analysis.board import LEVELS, Board
from bench.analysis.embeddings import COLUMNS as EMBEDDING_COLUMNS
from bench.report.side_tables import Side
from bench.report.text import number_text
from bench.storage.records import Measure, Record

# Column of the leaderboard's frame, heading, decimals, what it says.
_LEADERBOARD = (
    ("acc", "ACC ↑", 3, "verification accuracy, both sides protected"),
    ("acc_raw_probe", "ACC, raw probe ↑", 3, "accuracy with an unprotected probe"),
    ("worst_ssim", "worst SSIM ↓", 3, "SSIM (7x7) of the attack that rebuilds most; ≥: an attack is missing"),
    ("worst_psnr_db", "PSNR dB ↓", 1, "of that attack"),
    ("worst_cosine", "cosine ↓", 3, "of the rebuilt face's embedding with the original's, that attack"),
    ("worst_lpips", "LPIPS ↑", 3, "of that attack, AlexNet"),
    ("encoder_ssim", "up to encoder ↓", 3, "SSIM of the best attack at the AdvFace paper's level"),
    ("algorithm_ssim", "up to algorithm ↓", 3, "SSIM of the best attack that knows at most the defence's algorithm"),
    ("enrolment_ssim", "up to enrolment ↓", 3, "SSIM of the best attack that at most enrols faces of its own"),
    ("whitebox_ssim", "up to whitebox ↓", 3, "SSIM of the best attack of all, gradients included"),
    ("bound_ssim", "oracle bound ↓", 3, "per image the best of all attacks: what no single attacker reaches"),
    ("best_known_ssim", "best known elsewhere", 3, "published SSIM on the same defence, other data; never ranked"),
    ("blind_ssim", "blind floor", 3, "SSIM of the best guess that never looked"),
    ("srra1", "SRRA I ↓", 3, "how often the rebuilt face is accepted against the same image's template"),
    ("srra2", "SRRA II ↓", 3, "how often it is accepted against another image of the person"),
    ("noise_rms", "noise rms", 3, "measured, in units of the feature"),
    ("snr_db", "SNR dB", 1, "measured signal-to-noise ratio of the template"),
    ("template_bytes", "bytes", 0, "of a stored template"),
)
_CELLS = (
    ("ssim", "SSIM", 3), ("psnr_db", "PSNR dB", 1), ("mse", "MSE", 4), ("lpips", "LPIPS", 3), ("cosine", "cosine", 3),
    ("srra1", "SRRA I", 3), ("srra2", "SRRA II", 3),
)  # fmt: skip


@dataclass(frozen=True)
class Value:
    """What stands in a table's cell."""

    text: str
    interval: str = ""
    sort: float | None = None  #: what a column of figures is sorted by; None: missing, always last
    badge: str = ""  #: the attacker's knowledge, shown behind the text
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column."""

    heading: str
    title: str = ""
    figures: bool = False


@dataclass(frozen=True)
class Table:
    """A sortable table; the first column names the row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    shown: str = ""  #: the heading of the column by which the rows stand already


def _figure(value: Any, low: Any = None, high: Any = None, decimals: int = 3) -> Value:
    text = number_text(value, decimals)
    if text == "–":
        return Value(text)
    certain = low is None or high is None or math.isnan(low) or math.isnan(high)
    interval = "" if certain else f"[{number_text(low, decimals)}, {number_text(high, decimals)}]"
    return Value(text, interval, float(value))


def _attack(label: str, level: str) -> Value:
    """`resrec@enrolment` as resrec, with its level behind it."""
    return Value(label.partition("@")[0] or "–", badge=level)


def leaderboard_tables(frame: pd.DataFrame) -> list[Table]:
    """A table a dataset and recogniser; columns in which nobody has a figure are left out."""
    tables = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        names = [column for column in _LEADERBOARD if some[column[0]].notna().any()]
        columns = [Column("defence"), *(Column(heading, title, True) for _, heading, _, title in names)]
        columns.insert(1, Column("worst attack", "the single attack that rebuilds most, and what it knows"))
        rows = []
        for row in some.to_dict("records"):
            cells = [Value(row["defense"]), _attack(row["worst_attack"], row["worst_level"])]
            for name, _, decimals, _ in names:
                cell = _figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), decimals)
                if row["bound_note"] and name == "worst_ssim" and cell.sort is not None:
                    cell = Value(f"≥ {cell.text}", cell.interval, cell.sort, title=row["bound_note"])
                elif row["bound_note"] and name == "bound_ssim":
                    cell = Value("incomplete", title=row["bound_note"])
                cells.append(cell)
            rows.append([*cells, Value(row["failed"] or "none")])
        missed = int(some["images_without_a_face"].max())
        note = f" No face was found in {missed} images; they count as failures." if missed else ""
        caption = f"{dataset}, {recognizer}: the defence that gives away least first.{note}"
        # Where a row is incomplete it stands last, whatever its figure.
        shown = "" if some["bound_note"].any() else "worst SSIM ↓"
        tables.append(Table(caption, [*columns, Column("failed")], rows, shown))
    return tables


def embedding_tables(rows: Sequence[Mapping[Any, Any]]) -> list[Table]:
    """What `bench.report.embeddings` found, in one table; none where there is nothing."""
    if not rows:
        return []
    columns = [
        Column("defence"), Column("attack"), Column("data"), Column("targets", "", True),
        Column("queries each", "", True),
        *(Column(heading, "", True) for heading, _ in EMBEDDING_COLUMNS.values()),
    ]  # fmt: skip
    cells = [
        [
            Value(row["defense"]),
            _attack(row["attack"], row["level"]),
            Value(f"{row['dataset']}, {row['recognizer']}"),
            _figure(row["targets"], decimals=0),
            _figure(row["queries"], decimals=0),
            *(_figure(row[n], row[f"{n}_low"], row[f"{n}_high"], d) for n, (_, d) in EMBEDDING_COLUMNS.items()),
        ]
        for row in rows
    ]
    return [Table("Attacks on stolen embeddings: they have no part in the worst case above.", columns, cells)]


def cells_table(board: Board) -> Table:
    """Every attack and replay on every defence, also those that failed."""
    entries = [
        e
        for defense in board.defenses
        for kind in ("reconstruction", "replay")
        for e in sorted(board.under(defense, kind), key=lambda e: (LEVELS[e.cell.level], e.cell.attack))
    ]
    # A column without a figure stays where a note says why there is none.
    used = [c for c in _CELLS if any(e.metric(c[0]).value is not None or e.metric(c[0]).note for e in entries)]
    rows = []
    for entry in entries:
        counts = [entry.metric(name).n for name, _, _ in used]
        rows.append(
            [
                Value(entry.cell.defense),
                _attack(entry.cell.attack, entry.cell.level),
                *(_measured(entry.metric(name), decimals) for name, _, decimals in used),
                _figure(max(counts, default=0) or None, decimals=0),
                Value(entry.failed or "ok"),
            ]
        )
    columns = [Column("defence"), Column("attack"), *(Column(heading, "", True) for _, heading, _ in used)]
    columns += [Column("n", "images or pairs behind the figures", True), Column("outcome")]
    return Table(f"Every attack on every defence: {board.dataset}, {board.recognizer}", columns, rows)


def side_table(board: Board, side: Side) -> Table:
    """A table beside the leaderboard: the run's test of itself, controls, names without pictures."""
    head, *rows = side.rows
    caption = f"{side.title}: {board.dataset}, {board.recognizer}. {side.note.replace('*', '')}"
    return Table(caption, [Column(heading) for heading in head], [[Value(text) for text in row] for row in rows])


def _measured(measure: Measure, decimals: int) -> Value:
    value = _figure(measure.value, measure.low, measure.high, decimals)
    return Value("–", title=measure.note) if value.sort is None else value


def keys_table(records: Sequence[Record]) -> Table:
    """What each cell was made from, and how long it took."""
    columns = [Column("cell"), Column("status"), Column("seed", "", True), Column("seconds", "", True)]
    columns += [Column("key", "sha256 of everything that the cell was made from"), Column("artefacts", "", True)]
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
    caption = f"Cells with the key of what made them and the time they took, {artefacts} shared artefacts included"
    return Table(caption, columns, rows)
