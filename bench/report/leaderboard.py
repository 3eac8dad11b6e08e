"""The leaderboard: defences as rows, from the one that gives away least under its worst attack."""

from __future__ import annotations

import json
import math
from typing import Any, Literal

import pandas as pd

from bench.contracts import Knowledge
from bench.metrics.bootstrap import measure
from bench.records import Measure, Run
from bench.report.summary import LEVELS, UNKNOWN, Board, Entry, boards
from bench.seeds import derive_seed

Format = Literal["md", "csv", "tex", "json"]

# Column of the frame, heading, decimals. The frame also has NAME_low and NAME_high for those with an interval.
_COLUMNS = (
    ("acc", "ACC ↑", 3),
    ("acc_raw_probe", "ACC, raw probe ↑", 3),
    ("worst_ssim", "worst SSIM (7x7) ↓", 3),
    ("worst_psnr_db", "PSNR dB ↓", 1),
    ("worst_cosine", "cosine ↓", 3),
    ("worst_lpips", "LPIPS (alex) ↑", 3),
    ("paper_ssim", "at encoder level: SSIM ↓", 3),
    ("bound_ssim", "oracle bound SSIM ↓", 3),
    ("blind_ssim", "blind floor SSIM", 3),
    ("srra1", "SRRA I ↓", 3),
    ("srra2", "SRRA II ↓", 3),
    ("noise_rms", "noise rms", 3),
    ("snr_db", "SNR dB", 1),
)
_CELL_COLUMNS = (("ssim", "SSIM (7x7)", 3), ("psnr_db", "PSNR dB", 1), ("lpips", "LPIPS", 3), ("cosine", "cosine", 3))


def leaderboard(run: Run) -> pd.DataFrame:
    """One row a dataset, recogniser and defence; figures with their 95 % intervals as NAME, NAME_low, NAME_high.

    `worst_*`: the single attack that rebuilds most, by SSIM, at any level. `paper_*`: the same among those at level
    `encoder`. `bound_ssim`: per image the best of all attacks, averaged (an upper bound that no single attacker
    reaches); absent, with `bound_note`, where an attack that others faced is missing. `failed`: cells without a figure.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    rows = [_row(board, defense) for board in boards(run) for defense in board.defenses]
    frame = pd.DataFrame(rows)
    return frame.sort_values(["dataset", "recognizer", "worst_ssim"], na_position="last", ignore_index=True)


def _row(board: Board, defense: str) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": defense}
    utility = board.find("utility", defense)
    attacks = [e for e in board.under(defense, "reconstruction") if e.cell.leaks == "template"]
    good = [e for e in attacks if not e.failed]
    real = [e for e in good if LEVELS[e.cell.level] > Knowledge.BLIND]
    worst, paper, blind = (
        max(some, key=lambda e: e.metric("ssim").value or -math.inf, default=None)
        for some in (
            real,
            [e for e in real if LEVELS[e.cell.level] == Knowledge.ENCODER],
            [e for e in good if LEVELS[e.cell.level] == Knowledge.BLIND],
        )
    )

    def put(name: str, figure: Measure) -> None:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high

    for name in ("acc", "acc_raw_probe"):
        put(name, utility.metric(name) if utility else UNKNOWN)
    row["worst_attack"] = worst.cell.attack if worst else ""
    row["worst_level"] = worst.cell.level if worst else ""
    for name in ("ssim", "psnr_db", "cosine", "lpips"):
        put(f"worst_{name}", worst.metric(name) if worst else UNKNOWN)
    row["paper_attack"] = paper.cell.attack if paper else ""
    for name in ("ssim", "psnr_db"):
        put(f"paper_{name}", paper.metric(name) if paper else UNKNOWN)
        put(f"blind_{name}", blind.metric(name) if blind else UNKNOWN)
    bound, note = _bound(board, good)
    put("bound_ssim", bound)
    row["bound_note"] = note
    replays = [
        e
        for e in board.under(defense, "replay")
        if not e.failed and e.records[0].info.get("presents") == "image" and e.metric("srra1").value is not None
    ]
    strongest = max(replays, key=lambda e: e.metric("srra1").value or 0.0, default=None)
    for name in ("srra1", "srra2"):
        put(name, strongest.metric(name) if strongest else UNKNOWN)
    record = utility.records[0] if utility and not utility.failed else None
    row["noise_rms"] = record.noise.get("rms") if record else None
    row["snr_db"] = record.noise.get("snr_db") if record else None
    row["template_bytes"] = record.info.get("template_bytes") if record else None
    row["images_without_a_face"] = record.info.get("images_without_a_face", 0) if record else 0
    row["protect_ms_per_image"] = record.info.get("protect_ms_per_image") if record else None
    flags = {flag for e in board.entries if e.cell.defense == defense for r in e.records for flag in r.flags}
    if worst and blind and (worst.metric("ssim").value or 0) < (blind.metric("ssim").value or 0):
        flags.add("below the blind floor")
    row["flags"] = "; ".join(sorted(flags))
    everything = [e for e in board.entries if e.cell.defense == defense]
    row["failed"] = "; ".join(sorted(e.cell.attack or e.cell.kind for e in everything if e.failed))
    return row


def _bound(board: Board, good: list[Entry]) -> tuple[Measure, str]:
    """Per image the most that any attack rebuilt (design: oracle upper bound)."""
    missing = sorted(set(board.attacks) - {e.cell.attack for e in good})
    if missing or not good:
        return UNKNOWN, f"incomplete: {', '.join(missing) or 'no attack'}"
    tables = [e.scores.set_index("name") for e in good if e.scores is not None]
    names = sorted(set.intersection(*(set(t.index) for t in tables)))
    best = pd.concat([t.loc[names, "ssim"] for t in tables], axis=1).max(axis=1)
    owners = tables[0].loc[names, "subject"].to_numpy(dtype=object)
    return measure(best.to_numpy(), owners, seed=derive_seed("bootstrap", board.dataset)), ""


# ------------------------------------------------------------------------------------------------------ rendering


def _number(value: Any, decimals: int) -> str:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return "–"
    text = f"{value:.{decimals}f}"
    return text.replace("0.", ".", 1) if decimals == 3 and text.startswith(("0.", "-0.")) else text


def _figure(value: Any, low: Any, high: Any, decimals: int) -> str:
    text = _number(value, decimals)
    if text == "–" or low is None or math.isnan(low):
        return text
    return f"{text} [{_number(low, decimals)}, {_number(high, decimals)}]"


def _text_rows(frame: pd.DataFrame) -> list[list[str]]:
    rows = []
    for row in frame.to_dict("records"):
        cells = [str(row["defense"]), *_figures(row)]
        cells[1 + [name for name, _, _ in _COLUMNS].index("worst_ssim")] += f" {row['worst_attack']}"
        if row["bound_note"]:
            cells[1 + [name for name, _, _ in _COLUMNS].index("bound_ssim")] = row["bound_note"].split(":")[0]
        rows.append([*cells, row["failed"] or "0"])
    return rows


def _figures(row: dict[Any, Any]) -> list[str]:
    return [_figure(row[n], row.get(f"{n}_low"), row.get(f"{n}_high"), d) for n, _, d in _COLUMNS]


_HEADINGS = ["defence", *(heading for _, heading, _ in _COLUMNS), "failed cells"]


def render(frame: pd.DataFrame, fmt: Format, run: Run | None = None) -> str:
    """The leaderboard as text.

    Args:
        fmt: `md` for people, `csv` and `json` with raw numbers, `tex` as a booktabs table that compiles as it is.
        run: for `md`: adds a table of all cells.
    """
    if fmt == "csv":
        return frame.to_csv(index=False)
    if fmt == "json":
        return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)
    parts = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        if fmt == "tex":
            parts.append(_tex(some, f"{dataset}, {recognizer}"))
        else:
            missed = int(some["images_without_a_face"].max())
            note = f"{_NOTE} No face was found in {missed} images; they count as failures." if missed else _NOTE
            parts.append(f"## {dataset}, {recognizer}\n\n{_markdown(_HEADINGS, _text_rows(some))}\n\n{note}")
    if fmt == "md" and run is not None:
        parts += [_every_cell(board) for board in boards(run)]
    return "\n\n".join(parts) + ("" if fmt == "md" else "\n")


_NOTE = (
    "95 % intervals by bootstrap over identities. *worst*: the single attack that rebuilds most; *oracle bound*: per "
    "image the best of all attacks. Arrows point to better protection or better use."
)


def _markdown(headings: list[str], rows: list[list[str]]) -> str:
    def line(cells: list[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"

    return "\n".join([line(headings), "|" + "---|" * len(headings), *map(line, rows)])


def _every_cell(board: Board) -> str:
    rows = []
    for defense in board.defenses:
        for attack in board.attacks:
            entry = board.find("reconstruction", defense, attack)
            if entry is None or entry.failed:
                why = entry.failed if entry else "not run"
                rows.append([defense, attack, entry.cell.level if entry else "", f"failed: {why}", "", "", ""])
                continue
            figures = [
                m.note if m.value is None and m.note else _figure(m.value, m.low, m.high, decimals)
                for name, _, decimals in _CELL_COLUMNS
                for m in [entry.metric(name)]
            ]
            rows.append([defense, attack, entry.cell.level, *figures])
        for entry in sorted(board.under(defense, "replay"), key=lambda e: e.cell.attack):
            srra = [_figure(m.value, m.low, m.high, 3) for m in (entry.metric("srra1"), entry.metric("srra2"))]
            figures = [f"failed: {entry.failed}"] if entry.failed else [f"SRRA I {srra[0]}", f"SRRA II {srra[1]}"]
            rows.append([defense, entry.cell.attack, entry.cell.level, *figures, *[""] * (4 - len(figures))])
    headings = ["defence", "attack", "level", *(heading for _, heading, _ in _CELL_COLUMNS)]
    return f"### Every cell: {board.dataset}, {board.recognizer}\n\n{_markdown(headings, rows)}"


_ESCAPES = str.maketrans(
    {c: f"\\{c}" for c in "&%$#_{}"}
    | {"~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "\\": r"\textbackslash{}"}
)
_SIGNS = {"↑": r"$\uparrow$", "↓": r"$\downarrow$", "–": "--", "≥": r"$\geq$"}


def escape_tex(text: str) -> str:
    """Text that LaTeX prints as it is."""
    text = text.translate(_ESCAPES)
    for sign, tex in _SIGNS.items():
        text = text.replace(sign, tex)
    return text


def _tex(frame: pd.DataFrame, caption: str) -> str:
    rows = [_HEADINGS, *_text_rows(frame)]
    lines = [" & ".join(escape_tex(cell) for cell in row) + r" \\" for row in rows]
    return "\n".join(
        [
            r"\begin{table*}",
            r"  \centering",
            r"  \scriptsize",
            f"  \\caption{{{escape_tex(caption)}. Brackets: 95\\,\\% intervals by bootstrap over identities.}}",
            f"  \\begin{{tabular}}{{l{'r' * (len(_HEADINGS) - 2)}l}}",
            r"    \toprule",
            f"    {lines[0]}",
            r"    \midrule",
            *(f"    {line}" for line in lines[1:]),
            r"    \bottomrule",
            r"  \end{tabular}",
            r"\end{table*}",
        ]
    )
