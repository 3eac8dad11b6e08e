"""The leaderboard: defences as rows, from the one that gives away least under its worst attack.

Only attacks on templates count; one on embeddings answers another question. Where an attack is missing, the worst case
is marked as a lower bound, and stands below the defences that faced every attack: nobody wins by not being attacked.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from bench.contracts import Knowledge
from bench.metrics.bootstrap import measure
from bench.records import Measure, Run
from bench.report.best_known import best_known
from bench.report.embeddings import embedding_attacks, render_embedding_attacks
from bench.report.flags import defense_flags
from bench.report.sections import sections
from bench.report.selftest import void_attacks
from bench.report.summary import LEVELS, UNKNOWN, Board, Entry, boards
from bench.report.text import Format, booktabs, figure_text, markdown, plain
from bench.seeds import derive_seed
from bench.submission import unpacked

# Column of the frame, heading, decimals. The frame also has NAME_low and NAME_high for those with an interval.
_COLUMNS = (
    ("acc", "ACC ↑", 3),
    ("acc_raw_probe", "ACC, raw probe ↑", 3),
    ("worst_ssim", "worst SSIM (7x7) ↓", 3),
    ("worst_psnr_db", "PSNR dB ↓", 1),
    ("worst_cosine", "cosine ↓", 3),
    ("worst_lpips", "LPIPS (alex) ↑", 3),
    ("encoder_ssim", "up to encoder: SSIM ↓", 3),
    ("algorithm_ssim", "up to algorithm ↓", 3),
    ("enrolment_ssim", "up to enrolment ↓", 3),
    ("whitebox_ssim", "up to whitebox ↓", 3),
    ("bound_ssim", "oracle bound SSIM ↓", 3),
    ("best_known_ssim", "best known elsewhere: SSIM", 3),
    ("blind_ssim", "blind floor SSIM", 3),
    ("srra1", "SRRA I ↓", 3),
    ("srra2", "SRRA II ↓", 3),
    ("noise_rms", "noise rms", 3),
    ("snr_db", "SNR dB", 1),
    ("template_bytes", "bytes a template", 0),
)
_INTERVALS = tuple(
    name for name, _, _ in _COLUMNS if name not in ("best_known_ssim", "noise_rms", "snr_db", "template_bytes")
)
# A page is narrow: these columns under shorter headings, and intervals for two of them. The CSV has everything.
_TEX_COLUMNS = {
    "acc": "ACC ↑",
    "worst_ssim": "SSIM ↓",
    "worst_psnr_db": "PSNR dB ↓",
    "worst_cosine": "cosine ↓",
    "worst_lpips": "LPIPS ↑",
    "encoder_ssim": "encoder",
    "algorithm_ssim": "algorithm",
    "enrolment_ssim": "enrolment",
    "whitebox_ssim": "white box",
    "bound_ssim": "bound",
    "blind_ssim": "blind floor",
    "srra1": "SRRA I ↓",
    "srra2": "II ↓",
}
_TEX_INTERVALS = ("acc", "worst_ssim")
_CELL_COLUMNS = (("ssim", "SSIM (7x7)", 3), ("psnr_db", "PSNR dB", 1), ("lpips", "LPIPS", 3), ("cosine", "cosine", 3))


def leaderboard(run: Run) -> pd.DataFrame:
    """One row a dataset, recogniser and defence; figures with their 95 % intervals as NAME, NAME_low, NAME_high.

    `worst_*`: the single attack that rebuilds most, by SSIM, at any level. `encoder_*` (the paper's attacker),
    `algorithm_*`, `enrolment_*`, `whitebox_*`: the same among those who know at most so much; empty where nobody at
    that very level attacked. Attacks that failed the run's test of itself don't count. `best_known_*`: published
    elsewhere, on other data, and never part of a ranking. `bound_ssim`: per image the best of all attacks, averaged (an
    upper bound that no single attacker reaches); absent, with `bound_note`, where an attack that others faced is
    missing: `worst_*` then is what is known, and a lower bound. `blind_*`: the best guess of an attacker who never
    looked. `failed`: cells without a figure.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    rows = [_row(board, defense) for board in boards(run) for defense in board.defenses]
    frame = pd.DataFrame(rows)
    for name in (column + part for column, _, _ in _COLUMNS for part in ("", "_low", "_high")):
        if name in frame:  # a column of None alone would hold objects, which don't sort
            frame[name] = pd.to_numeric(frame[name])
    return _ranked(frame)


def merged(places: Sequence[Path]) -> pd.DataFrame:
    """The leaderboards of several runs or archives as one; a defence carries where it came from: `advface (mine.zip)`.

    Raises:
        DataError: one of them cannot be read.
    """
    frames = []
    for place in places:
        with unpacked(place) as run:
            frame = leaderboard(run)
        frames.append(frame.assign(defense=[f"{name} ({place.name})" for name in frame["defense"]]))
    return _ranked(pd.concat(frames, ignore_index=True))


def _ranked(frame: pd.DataFrame) -> pd.DataFrame:
    order = frame.assign(incomplete=frame["bound_note"] != "").sort_values(
        ["dataset", "recognizer", "incomplete", "worst_ssim"], na_position="last"
    )
    return frame.loc[order.index].reset_index(drop=True)


def _row(board: Board, defense: str) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": defense}
    utility = board.find("utility", defense)
    attacks = [e for e in board.under(defense, "reconstruction") if e.cell.leaks == "template"]
    good = [e for e in attacks if not e.failed]
    void = void_attacks(board)
    real = [e for e in good if LEVELS[e.cell.level] > Knowledge.BLIND and e.cell.attack not in void]
    worst = _strongest(real)
    blind = _strongest([e for e in good if LEVELS[e.cell.level] == Knowledge.BLIND])

    def put(name: str, figure: Measure) -> None:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high

    for name in ("acc", "acc_raw_probe"):
        put(name, utility.metric(name) if utility else UNKNOWN)
    row["worst_attack"] = worst.cell.attack if worst else ""
    row["worst_level"] = worst.cell.level if worst else ""
    for name in ("ssim", "psnr_db", "cosine", "lpips"):
        put(f"worst_{name}", worst.metric(name) if worst else UNKNOWN)
    for level in Knowledge:
        if level > Knowledge.BLIND:
            below = [e for e in real if LEVELS[e.cell.level] <= level]
            best = _strongest(below) if any(LEVELS[e.cell.level] == level for e in below) else None
            row[f"{level}_attack"] = best.cell.attack if best else ""
            for name in ("ssim", "psnr_db"):
                put(f"{level}_{name}", best.metric(name) if best else UNKNOWN)
    known = best_known(defense)
    row["best_known_ssim"], row["best_known_source"] = (known.ssim, known.source) if known else (None, "")
    for name in ("ssim", "psnr_db"):
        put(f"blind_{name}", blind.metric(name) if blind else UNKNOWN)
    bound, note = _bound(board, [e for e in attacks if e.skipped], [e for e in good if e.cell.attack not in void])
    put("bound_ssim", bound)
    row["bound_note"] = note
    replays = [
        e
        for e in board.under(defense, "replay")
        if not e.failed and _presents_template_images(board, e) and e.metric("srra1").value is not None
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
    flags = defense_flags(board, defense, worst)
    faced = sorted(void & {e.cell.attack for e in good})
    if faced:
        flags.add(f"attack void: {', '.join(faced)}")
    row["flags"] = "; ".join(sorted(flags))
    everything = [e for e in board.entries if e.cell.defense == defense]
    failed = [e for e in everything if e.failed and not e.skipped]
    row["failed"] = "; ".join(sorted(e.cell.attack or e.cell.kind for e in failed))
    return row


def _strongest(some: Sequence[Entry]) -> Entry | None:
    return max(some, key=lambda e: e.metric("ssim").value or -math.inf, default=None)


def _presents_template_images(board: Board, replay: Entry) -> bool:
    """Whether a replay presents images that were rebuilt from templates; embeddings have a table of their own."""
    info = replay.records[0].info
    wrapped = board.find("reconstruction", replay.cell.defense, str(info.get("wraps")))
    return info.get("presents") == "image" and (wrapped is None or wrapped.cell.leaks == "template")


def _bound(board: Board, skipped: list[Entry], good: list[Entry]) -> tuple[Measure, str]:
    """Per image the most that any attack rebuilt (design: oracle upper bound)."""
    missing = sorted(set(board.attacks) - void_attacks(board) - {e.cell.attack for e in [*good, *skipped]})
    if missing or not good:
        return UNKNOWN, f"incomplete: {', '.join(missing) or 'no attack'}"
    tables = [e.scores.set_index("name") for e in good if e.scores is not None]
    names = sorted(set.intersection(*(set(t.index) for t in tables))) if tables else []
    if not names:
        return UNKNOWN, "incomplete: no image that all attacks rebuilt"
    best = pd.concat([t.loc[names, "ssim"] for t in tables], axis=1).max(axis=1)
    owners = tables[0].loc[names, "subject"].to_numpy(dtype=object)
    return measure(best.to_numpy(), owners, seed=derive_seed("bootstrap", board.dataset)), ""


# ------------------------------------------------------------------------------------------------------ rendering


def _table(frame: pd.DataFrame, columns: Sequence[str], intervals: Sequence[str]) -> list[list[str]]:
    """Headings, then a row a defence."""
    known = {name: (heading, decimals) for name, heading, decimals in _COLUMNS}
    rows = [["defence", *(known[name][0] for name in columns), "failed"]]
    rows[0].insert(1 + list(columns).index("worst_ssim"), "worst attack (level)")
    for row in frame.to_dict("records"):
        cells = [str(row["defense"])]
        for name in columns:
            low, high = (row[f"{name}_low"], row[f"{name}_high"]) if name in intervals else (None, None)
            text = figure_text(row[name], low, high, known[name][1])
            if name == "worst_ssim":
                cells.append(f"{row['worst_attack']} ({row['worst_level']})" if row["worst_attack"] else "–")
                # What a missing attack would have rebuilt is not known.
                text = f"≥ {text}" if row["bound_note"] and text != "–" else text
            cells.append("incomplete" if name == "bound_ssim" and row["bound_note"] else text)
        rows.append([*cells, row["failed"] or "0"])
    return rows


def _remarks(frame: pd.DataFrame) -> str:
    """What must be known to read a row: flags, and what is missing."""
    lines = []
    for row in frame.to_dict("records"):
        said = "; ".join(part for part in (row["flags"], row["bound_note"]) if part)
        if said:
            lines.append(f"- {plain(row['defense'])}: {plain(said)}")
    return "\n" + "\n".join(lines) if lines else ""


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
            table = _table(some, [name for name, _, _ in _COLUMNS], _INTERVALS)
            missed = int(some["images_without_a_face"].max())
            note = f"{_NOTE} No face was found in {missed} images; they count as failures." if missed else _NOTE
            parts.append(f"## {dataset}, {recognizer}\n\n{markdown(table)}\n\n{note}\n{_remarks(some)}".rstrip())
    if fmt == "md" and run is not None:
        stolen = embedding_attacks(run)
        parts += [render_embedding_attacks(stolen, fmt).rstrip()] if len(stolen) else []
        parts += [part for board in boards(run) for part in (*sections(board), _every_cell(board))]
    return "\n\n".join(parts) + "\n"


_NOTE = (
    "95 % intervals by bootstrap over identities. *worst*: the single attack that rebuilds most, and what it reaches; "
    "≥: an attack is missing, and the row stands below those that faced all; *oracle bound*: per image the best of all "
    "attacks. Arrows point to better protection or better use."
)


def _every_cell(board: Board) -> str:
    rows = []
    for defense in board.defenses:
        for attack in board.attacks:
            entry = board.find("reconstruction", defense, attack)
            if entry is None or entry.failed:
                why = entry.why if entry else "not run"
                rows.append([defense, attack, entry.cell.level if entry else "", why, "", "", "", "", ""])
                continue
            figures = [
                m.note if m.value is None and m.note else figure_text(m.value, m.low, m.high, decimals)
                for name, _, decimals in _CELL_COLUMNS
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
                [defense, entry.cell.attack, entry.cell.level, *figures, *[""] * (4 - len(figures)), counted, ""]
            )
    headings = ["defence", "attack", "level", *(heading for _, heading, _ in _CELL_COLUMNS), "n", "seeds"]
    return f"### Every cell: {board.dataset}, {board.recognizer}\n\n{markdown([headings, *rows])}"


def _tex(frame: pd.DataFrame, caption: str) -> str:
    rows = _table(frame, list(_TEX_COLUMNS), _TEX_INTERVALS)
    rows[0] = ["defence", "ACC ↑", "worst attack (level)", *list(_TEX_COLUMNS.values())[1:], "failed"]
    note = (
        "SSIM (7x7): worst attack, best attack up to each level of knowledge, oracle bound over all, best blind guess"
    )
    figures = "rl" + "r" * (len(_TEX_COLUMNS) - 1)  # the attack's name stands before the second figure
    return booktabs(rows, f"l{figures}l", f"{caption}. {note}")
