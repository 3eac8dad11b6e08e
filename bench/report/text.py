"""Formats figures, and tables as Markdown and LaTeX."""

from __future__ import annotations

import math
import re
from typing import Any, Literal

Format = Literal["md", "csv", "tex", "json"]


def number_text(value: Any, decimals: int) -> str:
    """A figure as tables print it; a dash if there is none."""
    if value is None or math.isnan(value):
        return "–"
    if decimals == 0:
        return f"{value:,.0f}"
    text = f"{value:.{decimals}f}"
    return text.replace("0.", ".", 1) if decimals == 3 and text.startswith(("0.", "-0.")) else text


def figure_text(value: Any, low: Any, high: Any, decimals: int) -> str:
    """ ".812 [.790, .834]"."""
    text = number_text(value, decimals)
    return text if text == "–" else f"{text} {interval_text(low, high, decimals)}".rstrip()


def interval_text(low: Any, high: Any, decimals: int) -> str:
    """ "[.790, .834]"; empty if there is no interval.

    Limits that would look the same are rounded outwards: ".9996 to 1" is "[.999, 1.000]" and not "[1.000, 1.000]".
    """
    if low is None or high is None or not low < high:
        return ""
    ends = [number_text(end, decimals) for end in (low, high)]
    if ends[0] == ends[1]:
        steps = 10.0**decimals
        ends = [
            number_text(end, decimals) for end in (math.floor(low * steps) / steps, math.ceil(high * steps) / steps)
        ]
    return f"[{ends[0]}, {ends[1]}]"


def unbroken(sentence: str) -> str:
    """Keeps percentages and intervals on one line."""
    return _TOGETHER.sub(lambda match: match[0].replace(" ", "\N{NO-BREAK SPACE}"), sentence)


_TOGETHER = re.compile(r"[\d.]+ %( \[[^]]*\])?|\[[^]]*\]")


def plain(text: str) -> str:
    """Escapes text for Markdown: an error's message may contain lines, bars and angle brackets."""
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;").replace("*", "\\*")


def markdown(rows: list[list[str]]) -> str:
    """A table; the first row is its heading."""
    lines = ["| " + " | ".join(map(plain, cells)) + " |" for cells in rows]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
_SIGNS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "≥": r"$\geq$"}


def escape_tex(text: str) -> str:
    """Escapes text for LaTeX."""
    text = " ".join(text.split()).translate(_ESCAPES)
    for sign, tex in _SIGNS.items():
        text = text.replace(sign, tex)
    return text


def _shielded(cell: str) -> str:
    """Protects a cell that begins with a bracket, which would be parsed as the optional argument of a line break."""
    return f"{{}}{cell}" if cell.startswith("[") else cell


def booktabs(rows: list[list[str]], columns: str, caption: str) -> str:
    """A table that compiles as it is; the first row is its heading."""
    lines = [" & ".join(_shielded(escape_tex(cell)) for cell in row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"% Needs \usepackage{booktabs}",
            r"\begin{table*}",
            r"  \centering",
            r"  \scriptsize",
            r"  \setlength{\tabcolsep}{3pt}",
            f"  \\caption{{{escape_tex(caption)}. Brackets: 95\\,\\% intervals over identities.}}",
            f"  \\begin{{tabular}}{{{columns}}}",
            r"    \toprule",
            f"    {lines[0]}",
            r"    \midrule",
            *(f"    {line}" for line in lines[1:]),
            *(r"    \bottomrule", r"  \end{tabular}", r"\end{table*}"),
        ]
    )
