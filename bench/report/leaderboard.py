"""Renders the leaderboard: defences as rows, the most private under its worst attack first.

Only attacks on templates count; those on embeddings answer another question. If an attack is missing, the worst case is
marked as a lower bound and ranked below the defences that faced every attack, so that a defence cannot win by not being
attacked.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

import pandas as pd

from bench.analysis.board import Board, boards
from bench.analysis.columns import BY_NAME, COLUMNS, OPTIONAL
from bench.analysis.embeddings import embedding_attacks
from bench.analysis.files import file_notes
from bench.analysis.leaderboard import lower_bound
from bench.labels import Knowledge
from bench.metrics.catalogue import metric
from bench.report.embeddings import render_embedding_attacks
from bench.report.side_tables import sections
from bench.report.text import Format, booktabs, figure_text, markdown, number_text, plain
from bench.storage.records import Record, Run

# A page is narrow: it has fewer columns with shorter headings, and intervals for two of them. The CSV has everything.
_TEX_COLUMNS = {column.name: column.narrow for column in COLUMNS if column.narrow}
_TEX_INTERVALS = ("acc", "worst_ssim")
_SHOWN = 0.0005  #: a smaller correction would be rounded to .000
_CELL_METRICS = ("ssim", "psnr_db", "lpips", "cosine")
_JUDGED = ("judge_cosine", "judge_sar_0.01", "judge_sar_0.001")  #: shown where `run.judge` named one


# ------------------------------------------------------------------------------------------------------ rendering


def _table(frame: pd.DataFrame, columns: Sequence[str], intervals: Sequence[str]) -> list[list[str]]:
    """Headings, then a row per defence."""
    rows = [["defence", *(BY_NAME[name].heading for name in columns), "failed"]]
    if "worst_ssim" in columns:
        rows[0].insert(1 + list(columns).index("worst_ssim"), "worst attack (level)")
    for row in frame.to_dict("records"):
        cells = [str(row["defense"])]
        for name in columns:
            low, high = (row[f"{name}_low"], row[f"{name}_high"]) if name in intervals else (None, None)
            text = figure_text(row[name], low, high, BY_NAME[name].decimals)
            if name == "worst_ssim":
                cells.append(f"{row['worst_attack']} ({row['worst_level']})" if row["worst_attack"] else "–")
            # The result of a missing attack, or of further training, is unknown.
            text = f"≥ {text}" if lower_bound(row, name) and text != "–" else text
            cells.append("incomplete" if name == "bound_ssim" and row["bound_note"] else text)
        rows.append([*cells, row["failed"] or "0"])
    return rows


def _has_figures(frame: pd.DataFrame, name: str) -> bool:
    """Whether a column belongs into the table: of a judge, a floor or a level beside the ladder, only with a figure."""
    if name in ("lowest_mse", "mse_isotropic"):
        name = "mse_floor"  # to compare with the floor
    rare = "judge" in name or name == "mse_floor" or name in OPTIONAL
    return not rare or bool(frame[name].notna().any())


def _front(frame: pd.DataFrame) -> str:
    """Who is on the Pareto front up to each level; empty if nobody has all four figures."""
    named: dict[str, list[str]] = {}
    for row in frame.to_dict("records"):
        for level in filter(None, str(row["pareto"]).split(", ")):
            named.setdefault(level, []).append(plain(row["defense"]))
    if not named:
        return ""
    said = "; ".join(f"up to {level}: {', '.join(named[level])}" for level in map(str, Knowledge) if level in named)
    return f"\nPareto front over SSIM, ACC, bytes and ms (client and server): {said}.\n"


def _remarks(frame: pd.DataFrame) -> str:
    """Remarks needed to read a row: flags, and what is missing."""
    lines = []
    for row in frame.to_dict("records"):
        said = "; ".join(part for part in (row["flags"], row["bound_note"], _corrected(row)) if part)
        if said:
            lines.append(f"- {plain(row['defense'])}: {plain(said)}")
    return "\n" + "\n".join(lines) if lines else ""


def _corrected(row: Mapping[Any, Any]) -> str:
    """By how much the worst case was lowered because it was chosen; empty if that does not show in the table."""
    if not row["worst_optimism"] >= _SHOWN:
        return ""
    lowered, share = number_text(row["worst_optimism"], 3), 100 * row["worst_share"]
    return (
        f"worst SSIM lowered by {lowered}: {row['worst_attack']} is the best attack in {share:.0f} % of the resamples"
    )


def render(frame: pd.DataFrame, fmt: Format, run: Run | None = None, columns: Sequence[str] = ()) -> str:
    """The leaderboard as text.

    Args:
        fmt: `md` for people, `csv` and `json` with raw numbers, `tex` as a booktabs table that compiles as it is.
        run: for `md`: adds a table of all cells.
        columns: names from `bench.analysis.columns`; empty: all that the format has space for.
    """
    if columns and fmt in ("csv", "json"):
        kept = ["dataset", "recognizer", "defense", *(f"{c}{part}" for c in columns for part in ("", "_low", "_high"))]
        frame = frame[[name for name in kept if name in frame]]
    if fmt == "csv":
        return frame.to_csv(index=False)
    if fmt == "json":
        return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)
    parts = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        if fmt == "tex":
            parts.append(_tex(some, f"{dataset}, {recognizer}", columns))
        else:
            shown = [BY_NAME[name] for name in columns] or [c for c in COLUMNS if _has_figures(some, c.name)]
            table = _table(some, [c.name for c in shown], [c.name for c in shown if c.interval])
            missed = int(some["images_without_a_face"].max())
            note = f"{_NOTE} No face was found in {missed} images; they count as failures." if missed else _NOTE
            remarks = f"{_front(some)}{_remarks(some)}"
            parts.append(f"## {dataset}, {recognizer}\n\n{markdown(table)}\n\n{note}\n{remarks}".rstrip())
    if fmt == "md" and run is not None:
        stolen = embedding_attacks(run)
        parts += [render_embedding_attacks(stolen, fmt).rstrip()] if len(stolen) else []
        parts += [
            part
            for board in boards(run)
            for part in (*sections(board), *([_every_cell(board)] if board.defenses else []))
        ]
        odd = render_files(run.records())
        parts += [odd] if odd else []
    return "\n\n".join(parts) + "\n"


def render_files(records: Sequence[Record]) -> str:
    """Irregularities of the files, a list per dataset; empty if there are none."""
    parts = []
    for dataset, notes in file_notes(records).items():
        lines = [f"- {plain(note.what)}: {note.count} ({plain(note.some())})" for note in notes]
        parts.append(f"### Files: {dataset}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


_NOTE = (
    "95 % intervals over identities. *worst*: the single best attack, and what it reaches, as *up to* each level "
    "corrected for choosing the best of several attacks by their results; "
    "≥: an attack is missing, and the row is ranked below those that faced all, or, for accuracy, the server had not "
    "converged; *oracle bound*: the best of all attacks per image. Arrows point to better protection or better utility."
)


def as_html(frame: pd.DataFrame) -> str:
    """The leaderboard for a notebook: the columns of the printed page, a table per dataset and recogniser."""
    parts = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        head, *rows = _narrow(some)
        cells = ["".join(f"<td>{escape(text)}</td>" for text in row) for row in rows]
        parts.append(
            f"<p><b>{escape(f'{dataset}, {recognizer}')}</b></p><table><thead><tr>"
            + "".join(f"<th>{escape(text)}</th>" for text in head)
            + "</tr></thead><tbody>"
            + "".join(f"<tr>{row}</tr>" for row in cells)
            + "</tbody></table>"
        )
    return "".join(parts) + f"<p>{escape(_NARROW)}.</p>"


def _every_cell(board: Board) -> str:
    rows = []
    judged = any(e.metric(_JUDGED[0]).value is not None for e in board.entries)
    metrics = (*_CELL_METRICS, *(_JUDGED if judged else ()))
    for defense in board.defenses:
        for attack in board.attacks:
            entry = board.find("reconstruction", defense, attack)
            if entry is None or entry.failed:
                why = entry.why if entry else "not run"
                rows.append([defense, attack, entry.cell.level if entry else "", why, *[""] * (len(metrics) + 1)])
                continue
            figures = [
                m.note if m.value is None and m.note else figure_text(m.value, m.low, m.high, metric(name).decimals)
                for name in metrics
                for m in [entry.metric(name)]
            ]
            spread = figure_text(entry.spread.get("ssim"), None, None, 3)
            counts = [str(entry.metric("ssim").n), f"{len(entry.records)} (± {spread})" if entry.spread else "1"]
            rows.append([defense, attack, entry.cell.level, *figures, *counts])
        for entry in sorted(board.under(defense, "replay"), key=lambda e: e.cell.attack):
            srra = [figure_text(m.value, m.low, m.high, 3) for m in (entry.metric("srra1"), entry.metric("srra2"))]
            figures = [entry.why] if entry.failed else [f"SRRA I {srra[0]}", f"SRRA II {srra[1]}"]
            counted = "" if entry.failed else str(entry.metric("srra1").n)
            rows.append(
                [
                    defense,
                    entry.cell.attack,
                    entry.cell.level,
                    *figures,
                    *[""] * (len(metrics) - len(figures)),
                    counted,
                    "",
                ]
            )
    headings = ["defence", "attack", "level", *(metric(name).heading for name in metrics), "n", "seeds"]
    return f"### Every cell: {board.dataset}, {board.recognizer}\n\n{markdown([headings, *rows])}"


_NARROW = "SSIM (7x7): worst attack, best attack up to each level of knowledge, oracle bound over all, best blind guess"


def _narrow(frame: pd.DataFrame) -> list[list[str]]:
    """Headings and rows for a narrow page."""
    rows = _table(frame, list(_TEX_COLUMNS), _TEX_INTERVALS)
    rows[0] = ["defence", "ACC ↑", "worst attack (level)", *list(_TEX_COLUMNS.values())[1:], "failed"]
    return rows


def _tex(frame: pd.DataFrame, caption: str, columns: Sequence[str] = ()) -> str:
    if columns:
        rows = _table(frame, columns, [name for name in columns if BY_NAME[name].interval])
        return booktabs(rows, f"l{'r' * (len(rows[0]) - 2)}l", caption)
    figures = "rl" + "r" * (len(_TEX_COLUMNS) - 1)  # the attack's name is before the second figure
    return booktabs(_narrow(frame), f"l{figures}l", f"{caption}. {_NARROW}")
