"""Writes the paper's tables as Markdown, CSV and LaTeX (booktabs): measured, published, deviation and label."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

import pandas as pd

from bench.paper.gather import Cell, Filled
from bench.paper.layouts import METRICS, ROLES
from bench.paper.status import MARKS
from bench.report.text import escape_tex, markdown
from bench.storage.files import replacing

_WIDE = 6  #: number of columns that fit next to each other, including brackets
_LEGEND = "Cells: ours (published; deviation) label"


def frame(filled: Filled) -> pd.DataFrame:
    """A line per cell, in plain units (fractions, dB); `detail` gives the reason for a label."""
    rows = []
    for cell in filled.cells:
        slot, measure = cell.slot, cell.measure
        rows.append(
            {
                "table": filled.layout.name,
                "row": " / ".join(slot.row),
                "column": " / ".join(slot.column),
                "paper_dataset": ROLES[slot.role],
                "dataset": filled.datasets.get(slot.role, ""),
                "recognizer": filled.recognizer,
                "defense": slot.defense,
                "attack": slot.attack,
                "metric": slot.metric,
                "value": measure.value if measure else None,
                "low": measure.low if measure else None,
                "high": measure.high if measure else None,
                "n": measure.n if measure else None,
                "published": cell.published,
                "deviation": cell.deviation,
                "status": cell.status.label,
                "detail": cell.status.detail,
            }
        )
    return pd.DataFrame(rows)


def _text(cell: Cell) -> tuple[str, str]:
    """The measured figure, and in brackets the published one and the deviation; empty if there is none."""
    metric = METRICS[cell.slot.metric]

    def printed(value: float, sign: str = "") -> str:
        return f"{value * metric.factor:{sign}.{metric.decimals}f}"

    own = "" if cell.measure is None or cell.measure.value is None else printed(cell.measure.value)
    if cell.published is None:
        return own, ""
    known, deviation = printed(cell.published), cell.deviation
    return own, f"({known})" if deviation is None else f"({known}; {printed(deviation, '+')})"


_Head = tuple[str, ...]


def _grid(filled: Filled) -> tuple[list[_Head], list[_Head], dict[tuple[_Head, _Head], Cell]]:
    rows = list(dict.fromkeys(cell.slot.row for cell in filled.cells))
    columns = list(dict.fromkeys(cell.slot.column for cell in filled.cells))
    return rows, columns, {(cell.slot.row, cell.slot.column): cell for cell in filled.cells}


def notes(filled: Filled) -> list[str]:
    """The reason for each label, one per line, with its columns; then the layout's own note."""
    found: dict[tuple[str, str], list[Cell]] = {}
    for cell in filled.cells:
        # A stand-in differs in several ways, an error has one text.
        stand_in = cell.status.label == "stand-in"
        for part in cell.status.detail.split("; ") if stand_in else [cell.status.detail]:
            found.setdefault((cell.status.label, part), []).append(cell)
    lines = []
    for (label, detail), cells in found.items():
        roles = {cell.slot.role for cell in cells}
        alike = [c for c in filled.cells if c.slot.role in roles]
        where = ", ".join(title for role, title in ROLES.items() if role in roles)
        part = "" if len(cells) == len(alike) else ", some cells"
        lines.append(f"[{MARKS[label]}] {label} ({where}{part})" + (f": {detail}" if detail else ""))
    return lines + ([filled.layout.note] if filled.layout.note else [])


def caption(filled: Filled) -> str:
    """Data, recogniser, n and the kind of interval."""
    parts = []
    for role, title in ROLES.items():
        own = [c.measure for c in filled.cells if c.slot.role == role and c.measure]
        n = sorted({measure.n for measure in own if measure.n})
        count = f"n = {n[0]}" if len(n) == 1 else f"n = {n[0]} to {n[-1]}" if n else "no figures"
        parts.append(f"{title}: {filled.datasets[role]}, {count}" if role in filled.datasets else f"{title}: missing")
    return f"{filled.layout.title}. Recogniser {filled.recognizer}. {'; '.join(parts)}."


def _marked(cell: Cell) -> str:
    """`0.27 (0.28; -0.01) [s]`; a cell without a figure shows its label."""
    own, beside = _text(cell)
    return " ".join(filter(None, (own or cell.status.label, beside, f"[{MARKS[cell.status.label]}]")))


def render_markdown(filled: Filled) -> str:
    """The paper's layout; the intervals are in the CSV."""
    rows, columns, cells = _grid(filled)
    head = [*filled.layout.heads, *(" ".join(column) for column in columns)]
    body = [[*row, *(_marked(cells[row, column]) for column in columns)] for row in rows]
    title = f"# {filled.layout.name[:-1].capitalize()} {filled.layout.name[-1]}. {caption(filled)}"
    said = "\n".join(f"- {line}" for line in notes(filled))
    return f"{title}\n\n{_LEGEND}. 95 % intervals: in the CSV beside this.\n\n{markdown([head, *body])}\n\n{said}\n"


def render_latex(filled: Filled) -> str:
    """A `table*` that compiles with booktabs, graphicx and the T1 encoding's defaults."""
    rows, columns, cells = _grid(filled)
    heads = filled.layout.heads
    lines = []
    if len(columns[0]) > 1:
        groups = [(key, len(list(some))) for key, some in groupby(column[0] for column in columns)]
        spans = [rf"\multicolumn{{{count}}}{{c}}{{{escape_tex(key)}}}" for key, count in groups]
        lines.append(" & ".join([*("" for _ in heads), *spans]) + r" \\")
        first = len(heads) + 1
        for _, count in groups:
            lines.append(rf"\cmidrule(lr){{{first}-{first + count - 1}}}")
            first += count
    lines.append(" & ".join([*map(_tex, heads), *(_tex(column[-1]) for column in columns)]) + r" \\")
    lines.append(r"\midrule")
    previous: tuple[str, ...] = ()
    for row in rows:
        if previous and len(row) > 1 and row[0] != previous[0]:
            lines.append(r"\midrule")
        # Omit a heading that repeats the line above, as the paper does.
        shown = [
            "" if row[: i + 1] == previous[: i + 1] and i < len(row) - 1 else _tex(part) for i, part in enumerate(row)
        ]
        lines += _lines(shown, [cells[row, column] for column in columns])
        previous = row
    said = r" \\ ".join(_tex(line) for line in notes(filled))
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs,graphicx}",
            r"\begin{table*}",
            r"  \centering",
            rf"  \caption{{{_tex(caption(filled))} {_tex(_LEGEND)}; --: none.}}",
            rf"  \label{{tab:{filled.layout.name}}}",
            r"  \resizebox{\ifdim\width>\textwidth\textwidth\else\width\fi}{!}{%",
            rf"  \begin{{tabular}}{{{'l' * len(heads)}{'c' * len(columns)}}}",
            r"    \toprule",
            *(f"    {line}" for line in lines),
            r"    \bottomrule",
            r"  \end{tabular}}",
            rf"  \par\smallskip\parbox{{\textwidth}}{{\scriptsize\raggedright {said}}}",
            r"\end{table*}",
            "",
        ]
    )


def _lines(heads: list[str], cells: list[Cell]) -> list[str]:
    """One line; in a wide table two, with the brackets below the measured figure."""
    texts = [_text(cell) for cell in cells]
    own = [f"{_tex(ours) or '--'}$^{{{MARKS[c.status.label]}}}$" for c, (ours, _) in zip(cells, texts, strict=True)]
    beside = [_tex(text) for _, text in texts]
    if len(cells) <= _WIDE or not any(beside):
        both = [f"{ours} {text}".strip() for ours, text in zip(own, beside, strict=True)]
        return [" & ".join([*heads, *both]) + r" \\"]
    under = [rf"{{\scriptsize {text}}}" for text in beside]
    return [" & ".join([*heads, *own]) + r" \\", " & ".join([*("" for _ in heads), *under]) + r" \\ \addlinespace"]


def _tex(text: str) -> str:
    # A bracket after a line break would be parsed as its optional argument.
    return escape_tex(text).replace("[", "{[}").replace("]", "{]}")


def write_table(filled: Filled, folder: Path) -> list[Path]:
    """Writes NAME.md, NAME.csv and NAME.tex."""
    texts = {
        "md": render_markdown(filled),
        "csv": frame(filled).to_csv(index=False),
        "tex": render_latex(filled),
    }
    written = []
    for suffix, text in texts.items():
        path = folder / f"{filled.layout.name}.{suffix}"
        with replacing(path) as temporary:
            temporary.write_text(text, encoding="utf-8")
        written.append(path)
    return written
