"""Collects the rows of the public leaderboard: one per archive, dataset, recogniser and defence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.analysis.board import KEYED, LEVELS, Board, boards
from bench.analysis.columns import BY_NAME
from bench.analysis.keyed import COLUMNS as KEYED_COLUMNS
from bench.analysis.keyed import board_templates
from bench.analysis.leaderboard import leaderboard, lower_bound
from bench.analysis.submission import unpacked
from bench.analysis.verdict import verdicts
from bench.labels import Knowledge, at_level, family
from bench.report.keyed import PARTS, remarks
from bench.report.provenance import flags, origins, parameters
from bench.report.text import interval_text, number_text, unbroken
from bench.storage.command import Command, read_command
from bench.storage.files import file_name
from bench.storage.records import Measure, Record, Run

#: The families of defences, in the order of the pages, and what a defence of each stores.
FAMILIES = {
    "features": "the recogniser's feature maps, perturbed or not",
    "frequency": "frequencies of the image: what is left of its block-wise cosine transform",
    "templates": "the recogniser's embedding, transformed under a key",
}

#: What an attacker on keyed templates knows of the key, by the ending of a column's name.
KEYS = {"key": "leaked", "none": "none"}


@dataclass(frozen=True)
class Figure:
    """A figure as a table shows it."""

    text: str
    interval: str = ""
    sort: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Bar:
    """A row of an interval plot: a figure, and where it and its limits lie on an axis from 0 to 1."""

    name: str
    badge: str
    figure: Figure
    at: float | None = None
    low: float | None = None
    high: float | None = None
    note: str = ""


@dataclass(frozen=True, kw_only=True)
class Row:
    """One defence in one archive, on one dataset, behind one recogniser."""

    family: str
    archive: str  #: the file's name
    dataset: str
    recognizer: str
    judge: str
    defense: str
    sentence: str  #: the verdict in words; for keyed defences, what the keys are
    figures: Mapping[str, Figure]  #: by column
    levels: tuple[str, ...]  #: at which it was attacked; under keys, the `KEYS`
    ladder: Sequence[Bar]  #: the best attack up to each level
    attacks: Sequence[Bar]  #: every attack
    floor: float | None  #: the best guess without the template, on the plots' axis
    cost: Mapping[str, str]
    settings: Mapping[str, str]  #: parameters as JSON, by their owner
    flags: Sequence[Mapping[str, Any]]
    origins: Sequence[Mapping[str, Any]]
    command: str  #: empty if the archive does not say
    version: str
    people: int | None
    images: int
    seeds: int

    @property
    def page(self) -> str:
        """The file of the defence's page."""
        return defense_page(self.defense)

    @property
    def anchor(self) -> str:
        """The place of the row on that page."""
        return file_name(self.archive, self.dataset, self.recognizer, self.defense).replace(" ", "_")


def defense_page(label: str) -> str:
    """The file of a defence's page; sweeps and variants of a defence share one."""
    return f"{file_name('defence', family(label))}.html"


def read(archives: Sequence[Path]) -> list[Row]:
    """The rows of all archives, by family, dataset, recogniser and archive; those that no attack faced are last.

    Raises:
        DataError: an archive cannot be read, or was changed after it was made.
    """
    found: list[Row] = []
    for place in archives:
        with unpacked(place) as run:
            told = read_command(run.folder)
            some = boards(run)
            found += _feature_rows(run, some, place.name, told)
            for board in some:
                found += _keyed_rows(board, place.name, told)
    order = list(FAMILIES)
    return sorted(found, key=lambda r: (order.index(r.family), not r.levels, r.dataset, r.recognizer, r.archive))


# ----------------------------------------------------------------------------------------- features and frequencies


def _feature_rows(run: Run, some: Sequence[Board], archive: str, told: Command | None) -> list[Row]:
    frame = leaderboard(run)
    said = {(v.dataset, v.recognizer, v.defense): v.sentence for v in verdicts(frame)}
    places = {(board.dataset, board.recognizer): board for board in some}
    found = []
    for row in frame.to_dict("records"):
        board = places[row["dataset"], row["recognizer"]]
        label = str(row["defense"])
        entries = [e for e in board.under(label, "reconstruction") if e.cell.leaks == "template"]
        order = list(LEVELS)
        attacks = [
            _bar(at_level(e.cell.attack)[0], e.cell.level, e.metric("ssim"), e.failed)
            for e in sorted(entries, key=lambda e: (order.index(e.cell.level), e.cell.attack))
        ]
        tried = tuple(level for level in order if _has(row.get(f"{level}_ssim")) and level != str(Knowledge.BLIND))
        ladder = [_bar(str(row[f"{level}_attack"]), level, _measure(row, f"{level}_ssim")) for level in tried]
        figures = {name: _shown(row, name) for name in BY_NAME if _has(row.get(name))}
        ms = row.get("protect_ms_per_image")
        found.append(
            Row(
                family=_family(label, told), defense=label, figures=figures, levels=tried, ladder=ladder,
                attacks=attacks, floor=_unit(row.get("blind_ssim")),
                sentence=unbroken(said[board.dataset, board.recognizer, label]),
                cost={"milliseconds per image to protect": number_text(ms, 1)} if _has(ms) else {},
                **_common(board, label, archive, told, row),
            )
        )  # fmt: skip
    return found


def _family(label: str, told: Command | None) -> str:
    named = told.families.get(label, "features") if told else "features"
    return named if named in FAMILIES and named != "templates" else "features"


# ----------------------------------------------------------------------------------------------------- under keys


def _keyed_rows(board: Board, archive: str, told: Command | None) -> list[Row]:
    found = []
    for row in board_templates(board).to_dict("records"):
        label = str(row["defense"])
        figures = {
            c.name: _figure(row[c.name], row.get(f"{c.name}_low"), row.get(f"{c.name}_high"), c.decimals)
            for c in KEYED_COLUMNS
            if _has(row.get(c.name))
        }
        rated = [c for c in KEYED_COLUMNS if c.name in figures and c.heading[-1] in "↑↓"]
        shares = [c for c in rated if 0 <= float(row[c.name]) <= 1]
        said = [f"keys: {row['keys']}"] if row["keys"] else []
        said += dict.fromkeys(text for part in PARTS if (text := remarks(part, row)))
        ends = {name.rpartition("_")[2] for name in figures}
        found.append(
            Row(
                family="templates", defense=label, figures=figures, ladder=(), floor=None,
                levels=tuple(KEYS[end] for end in KEYS if end in ends),
                attacks=[_bar(c.heading, "", _measure(row, c.name)) for c in shares], sentence="; ".join(said),
                cost={}, **_common(board, label, archive, told, row),
            )
        )  # fmt: skip
    return found


# ---------------------------------------------------------------------------------------------------------- common


def _common(board: Board, label: str, archive: str, told: Command | None, row: Mapping[Any, Any]) -> dict[str, Any]:
    records = [r for e in board.entries if e.cell.defense == label for r in e.records]
    seen = {flag for flag in str(row.get("flags") or "").split("; ") if flag}
    keyed = any(r.cell.kind in KEYED for r in records)
    return {
        "archive": archive,
        "dataset": board.dataset,
        "recognizer": board.recognizer,
        "judge": next((str(r.info["judge"]) for r in records if r.info.get("judge")), ""),
        "settings": parameters(records),
        "flags": flags(records, {label: sorted(seen)} if not keyed else {}),
        "origins": origins(records),
        "command": _command(told, records),
        "version": _version(records),
        "people": next((int(r.info["people"]) for r in records if "people" in r.info), None),
        "images": max((m.n for r in records for name, m in r.metrics.items() if name == "ssim"), default=0),
        "seeds": len({r.cell.seed for r in records}),
    }


def _command(told: Command | None, records: Sequence[Record]) -> str:
    """The command that repeats a run; float32 is named, because a machine with bfloat16 would use that."""
    single = {record.provenance.get("precision") for record in records} == {"float32"}
    return f"{'VEILBENCH_PRECISION=float32 ' if single else ''}{told.text()}" if told else ""


def _version(records: Sequence[Record]) -> str:
    versions = {str(dict(r.provenance.get("versions", {})).get("veilbench", "?")) for r in records}
    return ", ".join(sorted(versions))


def _has(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and value == value


def _unit(value: Any) -> float | None:
    """The value if it lies on the plots' axis."""
    return min(1.0, max(0.0, float(value))) if _has(value) else None


def _measure(row: Mapping[Any, Any], name: str) -> Measure:
    value, low, high = (row.get(f"{name}{part}") for part in ("", "_low", "_high"))
    return Measure(float(value), low, high) if _has(value) and value is not None else Measure(None)


def _bar(name: str, badge: str, measure: Measure, why: str = "") -> Bar:
    figure = _figure(measure.value, measure.low, measure.high, 3)
    return Bar(name, badge, figure, _unit(measure.value), _unit(measure.low), _unit(measure.high), why or measure.note)


def _figure(value: Any, low: Any = None, high: Any = None, decimals: int = 3) -> Figure:
    text = number_text(value, decimals)
    return Figure(text) if text == "–" else Figure(text, interval_text(low, high, decimals), float(value))


def _shown(row: Mapping[Any, Any], name: str) -> Figure:
    shown = _figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), BY_NAME[name].decimals)
    why = lower_bound(row, name)
    return Figure(f"≥ {shown.text}", shown.interval, shown.sort, why) if why else shown
