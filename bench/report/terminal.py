"""Renders the leaderboard on a terminal: a table that fits its width, a sentence per defence, flags as footnotes."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

import pandas as pd
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from bench.analysis.columns import BY_NAME
from bench.analysis.leaderboard import lower_bound
from bench.analysis.rivals import Rivalry
from bench.analysis.verdict import LEVELS, Figure, best_of, floor_of, levels_of, verdicts
from bench.report.text import figure_text, interval_text, number_text, unbroken

_RAISED = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_ACCURACY, _SSIM, _LOGIN = "acc", "{}_ssim", "{}_srra1"
_LONGEST_NAME = 24  #: a longer label is wrapped

#: Variants from full to minimal: (intervals of accuracy, intervals of attacks, levels at which no attack ran).
_DETAIL = ((True, True, True), (True, False, True), (False, False, True), (False, False, False))
_NOTE = (
    "[ ]: 95 % intervals. SSIM: the best attack up to each level of knowledge, corrected for having been chosen; "
    "login: the share of logins with a rebuilt face that succeed (SRRA I). The best is bold."
)


def verdict_table(frame: pd.DataFrame, width: int) -> Group:
    """For each dataset and recogniser: the table in at most `width` columns if possible, then the sentences.

    Two lines per defence: SSIM of the best attack up to each level, and the share of logins with the reconstruction
    that succeed (SRRA I). The best of a column is bold; a defence that lacks an attack cannot be the best.
    """
    marks = _marks(frame)
    sentences = {(v.dataset, v.recognizer, v.defense): v.sentence for v in verdicts(frame)}
    parts: list[RenderableType] = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        rows = some.to_dict("records")
        parts += [Text(f"{dataset}, {recognizer}", style="bold"), _fitting(rows, marks, width), ""]
        said = Table.grid(padding=(0, 2, 0, 0))
        said.add_column(overflow="fold", max_width=_LONGEST_NAME)
        said.add_column(no_wrap=True)
        names = min(_LONGEST_NAME, max(len(str(row["defense"])) for row in rows))
        for row in rows:
            sentence = sentences[str(row["dataset"]), str(row["recognizer"]), str(row["defense"])]
            # Rich would break a line at a no-break space.
            lines = textwrap.wrap(unbroken(sentence), max(20, width - names - 2))
            said.add_row(Text(str(row["defense"])), Text("\n".join(lines)))
        parts += [said, ""]
    parts += [Text(_NOTE, style="dim")]
    for flag, number in marks.items():
        parts.append(Text(f"{str(number).translate(_RAISED)} {flag}", style="dim"))
    return Group(*parts)


def rivals_table(found: Sequence[Rivalry], rival: str, against: Sequence[str]) -> Group:
    """An attack's result on each defence, with the other attack's and the floor; then its failures in the self-test.

    Args:
        rival: the other attack's label; empty if there is none.
        against: the result of `bench.analysis.rivals.selftest`.
    """
    table = _empty()
    for heading in ("defence", "level"):
        table.add_column(heading, overflow="fold", max_width=_LONGEST_NAME)
    for heading in ("SSIM or rank 1", *([rival, "difference"] if rival else []), "floor"):
        table.add_column(heading, justify="right", no_wrap=True)
    for one in found:
        floor = number_text(one.floor, 3) if one.floor is not None else "–"
        figures = [figure_text(m.value, m.low, m.high, 3) for m in (one.own, one.other, one.difference)]
        shown = figures if rival else figures[:1]
        table.add_row(Text(one.defense), one.level, *shown, floor)
    said = []
    for standing, text in _STANDINGS.items():
        some = [f"{one.defense} ({one.level})" for one in found if one.standing == standing]
        said += [Text(f"{text.format(rival)} {', '.join(some)}.")] if some else []
    said += [Text(f"{one.defense}: {one.why}") for one in found if one.why]
    trusted = "It passed every trial of the self-test: it breaks the broken systems, and finds nothing in the safe one."
    verdict = [Text(f"VOID: {text}", style="red") for text in against] or [Text(trusted)]
    return Group(table, "", *said, *verdict, Text(_NOTE.partition(" SSIM")[0], style="dim"))


_STANDINGS = {
    "more": "It does better than {} on",
    "as much": "No significant difference to {} on",
    "less": "It does worse than {} on",
}


def wide_table(frame: pd.DataFrame, columns: Sequence[str]) -> Group:
    """The selected columns, a line per defence, at their full width.

    Args:
        columns: names from `bench.analysis.columns`.
    """
    parts: list[RenderableType] = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        table = _empty()
        table.add_column("defence", no_wrap=True)
        for name in columns:
            table.add_column(BY_NAME[name].heading, justify="right", no_wrap=True)
        rows = some.to_dict("records")
        best = {name: best_of(rows, name) for name in columns}
        for row in rows:
            cells = [_cell(row, name, best[name], BY_NAME[name].decimals, inline=True) for name in columns]
            table.add_row(Text(str(row["defense"])), *cells)
        parts += [Text(f"{dataset}, {recognizer}", style="bold"), table, ""]
    return Group(*parts)


def needed_width(table: RenderableType, console: Console) -> int:
    """Number of columns that it needs without wrapping."""
    return console.measure(table, options=console.options.update_width(10_000)).maximum


def _empty() -> Table:
    return Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, collapse_padding=True)


def _fitting(rows: Sequence[Mapping[Any, Any]], marks: Mapping[str, int], width: int) -> Table:
    """The table with as many intervals as fit."""
    measuring = Console(width=10_000)
    tables = (_table(rows, marks, *detail) for detail in _DETAIL)
    last = None
    for last in tables:
        if needed_width(last, measuring) <= width:
            break
    assert last is not None
    return last


def _table(
    rows: Sequence[Mapping[Any, Any]], marks: Mapping[str, int], of_accuracy: bool, of_attacks: bool, untried: bool
) -> Table:
    levels = [level for level in levels_of(rows) if untried or any(Figure.of(r, _SSIM.format(level)) for r in rows)]
    best = {name: best_of(rows, name) for name in (_ACCURACY, *_names())}
    table = _empty()
    table.add_column("defence", overflow="fold", max_width=_LONGEST_NAME)
    table.add_column("accuracy ↑", justify="right", no_wrap=True)
    table.add_column("up to", no_wrap=True)
    for level in levels:
        table.add_column(str(level), justify="right", no_wrap=True)
    for row in rows:
        flags = [str(number).translate(_RAISED) for number in sorted(marks[flag] for flag in _flags(row))]
        accuracy = _cell(row, _ACCURACY, best[_ACCURACY], 3, inline=of_attacks, interval=of_accuracy)
        figures = [
            Text("\n").join(
                _cell(row, name.format(level), best[name.format(level)], decimals, inline=True, interval=of_attacks)
                for name, decimals in ((_SSIM, 3), (_LOGIN, 2))
            )
            for level in levels
        ]
        name = Text.assemble(str(row["defense"]), (f" {' '.join(flags)}" if flags else "", "dim"))
        table.add_row(name, accuracy, "SSIM ↓\nlogin ↓", *figures)
    floor = floor_of(rows)
    if floor is not None:
        ends = f" {interval_text(floor.low, floor.high, 3)}".rstrip() if of_attacks else ""
        guess = f"{number_text(floor.value, 3)}{ends}"
        table.add_row(Text("floor: a blind guess", style="dim"), "", Text("SSIM", style="dim"), guess)
    return table


def _names() -> tuple[str, ...]:
    return tuple(chain.from_iterable((_SSIM.format(level), _LOGIN.format(level)) for level in LEVELS))


def _flags(row: Mapping[Any, Any]) -> list[str]:
    said = [flag for flag in str(row["flags"]).split("; ") if flag]
    return [*said, *([str(row["bound_note"])] if row["bound_note"] else [])]


def _marks(frame: pd.DataFrame) -> dict[str, int]:
    """Numbers of the footnotes by flag."""
    found = chain.from_iterable(_flags(row) for row in frame.to_dict("records"))
    return {flag: number for number, flag in enumerate(dict.fromkeys(found), 1)}


def _cell(
    row: Mapping[Any, Any], name: str, best: float | None, decimals: int, *, inline: bool, interval: bool = True
) -> Text:
    figure = Figure.of(row, name)
    if figure is None:
        return Text("–", style="dim")
    text = number_text(figure.value, decimals)
    same = best is not None and not row["bound_note"] and text == number_text(best, decimals)
    cell = Text(f"≥ {text}" if lower_bound(row, name) else text, style="bold" if same else "")
    ends = interval_text(figure.low, figure.high, decimals) if interval and BY_NAME[name].interval else ""
    return cell.append(f"{' ' if inline else chr(10)}{ends}", style="not bold") if ends else cell
