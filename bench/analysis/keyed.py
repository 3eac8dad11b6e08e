"""The leaderboard of keyed defences, in the terms of ISO/IEC 24745."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from bench.analysis.board import UNKNOWN, Board, Entry, boards
from bench.analysis.selftest import void_attacks
from bench.storage.records import Measure, Run


@dataclass(frozen=True)
class Column:
    """A column of the table."""

    name: str
    heading: str
    decimals: int = 3


UNPROTECTED = "unprotected embedding"  #: the row of the embeddings themselves
MEAN_FACE = "mean face"  #: the row of what somebody shows who knows nothing
YARDSTICKS = {UNPROTECTED: "plain_", MEAN_FACE: "floor_"}  #: prefix of their figures

#: The columns of each table; a figure's interval is in NAME_low and NAME_high.
RECOGNITION = (
    Column("acc_plain", "ACC, unprotected ↑"),
    Column("acc_normal", "ACC, normal ↑"),
    Column("acc_stolen", "ACC, stolen token ↑"),
    Column("eer_normal", "EER, normal ↓"),
    Column("eer_stolen", "EER, stolen token ↓"),
    Column("link_own", "linking AUC, own score ↓"),
    Column("link_best", "linking AUC, best score ↓"),
    Column("d_sys_own", "D_sys, own score ↓"),
    Column("d_sys", "D_sys, best score ↓"),
    Column("d_sys_null", "D_sys by chance, 95 % point"),
    Column("renewed", "FMR of renewed templates ↓"),
    Column("replayed", "replayed template accepted ↓"),
    Column("template_bytes", "bytes", 0),
    Column("protect_ms", "ms", 3),
    Column("compare_ms", "ms, comparison", 3),
    Column("score_error", "error of a score", 7),
)
INVERSION = (
    Column("cosine_key", "recovered cosine, with key ↓"),
    Column("isr_key", "ISR, with key ↓"),
    Column("preimage_key", "pre-image, with key ↓"),
    Column("renewed_login_key", "pre-image after renewal ↓"),
    Column("ssim_key", "picture SSIM, with key ↓"),
    Column("ssim_other_key", "the same, another person's face"),
    Column("sar_key", "picture SAR, with key ↓"),
    Column("picture_isr_key", "picture accepted, with key ↓"),
    Column("login_key", "picture login, with key ↓"),
    Column("cosine_none", "recovered cosine, no key ↓"),
    Column("isr_none", "ISR, no key ↓"),
    Column("ssim_none", "picture SSIM, no key ↓"),
    Column("sar_none", "picture SAR, no key ↓"),
)
COLUMNS = (*RECOGNITION, *INVERSION)


def template_leaderboard(run: Run) -> pd.DataFrame:
    """One row per dataset, recogniser and keyed defence, the lowest ISR with the key first; empty if there is none.

    `cosine_key`, `isr_key`, `preimage_key`: of the attack that recovers most with the leaked key, `attack_key`;
    `*_none`: without it. `isr_*` and `preimage_*` are for the same image, and, like `renewed`, at `fmr`, the lowest
    rate for which all have enough impostors. `ssim_*`, `sar_*` (at FMR 1e-2, by `run.judge`), `picture_isr_*` and
    `login_*` are of the faces that `run.pictures` makes of these embeddings; `ssim_other_*` with another person's. If
    there are any, the last rows are the `YARDSTICKS`: faces of the true embeddings, and the mean face. `link_best`: the
    AUC of the best of the scheme's own score and of all attacks'; `link_attack` names it. `d_sys` likewise, with
    `d_sys_attack`; it exceeds `d_sys_null` in 5 % of cases if the templates could not be linked. Both are chosen on
    half of the people, and their figures are of the other half; with too few people, choice and figures are of all, and
    `choice` says so. A recovered embedding is the best by `inverted_excess`. Attacks that failed the self-test do not
    count.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    frames = [frame for board in boards(run) if len(frame := board_templates(board))]
    return pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()


def board_templates(board: Board) -> pd.DataFrame:
    """Like `template_leaderboard`, for one dataset and recogniser."""
    frame = pd.DataFrame([*(_row(board, label) for label in board.keyed), *_yardsticks(board)])
    if frame.empty:
        return frame
    for column in COLUMNS:
        for name in (column.name, f"{column.name}_low", f"{column.name}_high"):
            if name in frame:
                frame[name] = pd.to_numeric(frame[name])
    order = frame.sort_values(["isr_key", "cosine_key", "defense"], na_position="last", kind="stable")
    last = list(YARDSTICKS)
    return pd.concat([order[~order["defense"].isin(last)], frame[frame["defense"].isin(last)]], ignore_index=True)


def _row(board: Board, defense: str) -> dict[str, Any]:
    void = void_attacks(board)
    protection = board.find("protection", defense)
    row: dict[str, Any] = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": defense}

    def put(name: str, figure: Measure) -> None:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high

    accuracy = protection if protection and not protection.failed else None
    for name in ("acc_plain", "acc_normal", "acc_stolen", "eer_normal", "eer_stolen"):
        put(name, accuracy.metric(name) if accuracy else UNKNOWN)
    inversions = [e for e in board.under(defense, "inversion") if not e.failed and e.cell.attack not in void]
    known = {
        "key": _most(e for e in inversions if e.records[0].info.get("key") == "leaked"),
        "none": _most(e for e in inversions if e.records[0].info.get("key") != "leaked"),
    }
    row["fmr"] = _lowest_rate([accuracy, *known.values()])
    for knowledge, best in known.items():
        row[f"attack_{knowledge}"] = best.cell.attack if best else ""
        put(f"cosine_{knowledge}", best.metric("inverted_cosine") if best else UNKNOWN)
        for name, metric in _ACCEPTED.items():
            put(f"{name}_{knowledge}", best.metric(f"{metric}_{row['fmr']}") if best else UNKNOWN)
        seen = board.find("picture", defense, best.cell.attack) if best else None
        for name, metric in _seen(row["fmr"]).items():
            put(f"{name}_{knowledge}", seen.metric(metric) if seen else UNKNOWN)
    scores = [e for e in board.under(defense, "crossmatch") if not e.failed and e.cell.attack not in void]
    own = next((e for e in scores if not e.cell.attack), None)
    halved = bool(scores) and all("held_auc" in e.metrics and "held_d_sys" in e.metrics for e in scores if _tells(e))
    chosen = {name: _best(scores, name, halved) for name in ("auc", "d_sys")}
    put("link_own", own.metric("link_auc") if own else UNKNOWN)
    put("link_best", chosen["auc"].metric("held_auc" if halved else "link_auc") if chosen["auc"] else UNKNOWN)
    put("d_sys_own", own.metric("d_sys") if own else UNKNOWN)
    put("d_sys", chosen["d_sys"].metric("held_d_sys" if halved else "d_sys") if chosen["d_sys"] else UNKNOWN)
    row["d_sys_null"] = _chance(chosen["d_sys"], "held_d_sys" if halved else "d_sys")
    for name, entry in (("link_attack", chosen["auc"]), ("d_sys_attack", chosen["d_sys"])):
        row[name] = (entry.cell.attack or "own score") if entry else ""
    row["choice"] = "" if halved or not row["link_attack"] else "chosen and reported on the same people"
    for name in ("renewed", "replayed"):
        put(name, accuracy.metric(f"{name}_{row['fmr']}") if accuracy else UNKNOWN)
    info = accuracy.records[0].info if accuracy else {}
    row["keys"] = info.get("keys", "")
    for name in ("template_bytes", "protect_ms", "compare_ms", "score_error"):
        row[name] = info.get(name)
    everything = [e for e in board.entries if e.cell.defense == defense]
    row["void"] = "; ".join(sorted(void & {e.cell.attack for e in everything}))
    row["failed"] = "; ".join(sorted(e.cell.attack or e.cell.kind for e in everything if e.failed and not e.skipped))
    row["skipped"] = protection.failed if protection and protection.skipped else ""
    return row


#: Columns of an inversion, and their figures at a false match rate.
_ACCEPTED = {"isr": "isr1", "preimage": "preimage1", "renewed_login": "preimage_renewed"}


def _seen(fmr: str) -> dict[str, str]:
    """Columns of pictures, and their figures; the judge's rate is 1e-2, since it has few impostors."""
    return {
        "ssim": "picture_ssim",
        "ssim_other": "picture_ssim_other",
        "sar": "picture_judge_sar_0.01",
        "picture_isr": f"picture_isr1_{fmr}",
        "login": f"picture_login1_{fmr}",
    }


def _yardsticks(board: Board) -> list[dict[str, Any]]:
    """Faces made of unprotected embeddings, and the mean face; none if no faces were made."""
    pictures = [e for label in board.keyed for e in board.under(label, "picture") if not e.failed]
    fmr = _lowest_rate(pictures, ("plain_picture_isr1",))
    rows = []
    for name, prefix in YARDSTICKS.items() if pictures else ():
        row: dict[str, Any] = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": name, "fmr": fmr}
        row |= dict.fromkeys(f"{c.name}{end}" for c in COLUMNS for end in ("", "_low", "_high"))
        row |= dict.fromkeys(
            ("attack_key", "attack_none", "link_attack", "d_sys_attack", "choice", "keys", "void", "failed", "skipped"),
            "",
        )
        for column, metric in _seen(fmr).items():
            figure = pictures[0].metric(f"{prefix}{metric}")
            row |= {f"{column}_key": figure.value, f"{column}_key_low": figure.low, f"{column}_key_high": figure.high}
        rows.append(row)
    return rows


def _tells(entry: Entry) -> bool:
    """Whether the score differs between pairs."""
    return entry.metric("link_auc").value is not None


def _best(entries: Iterable[Entry], figure: str, halved: bool) -> Entry | None:
    """The entry with the highest AUC or D_sys on the half of the people where it is chosen, or on all."""
    name = f"choice_{figure}" if halved else {"auc": "link_auc"}.get(figure, figure)
    return max((e for e in entries if _tells(e)), key=lambda e: e.metric(name).value or 0.0, default=None)


def _chance(entry: Entry | None, name: str) -> float | None:
    """The 95 % point of a D_sys when people are shuffled, averaged over seeds."""
    nulls = [record.info.get("null", {}).get(name) for record in entry.records] if entry else []
    found = [float(null["upper"]) for null in nulls if null]
    return sum(found) / len(found) if found else None


def _most(entries: Iterable[Entry]) -> Entry | None:
    """By the cosine beyond a stranger's, since an average face has a cosine above 0 with everybody."""
    return max(entries, key=lambda e: e.metric("inverted_excess").value or -1.0, default=None)


def _lowest_rate(entries: Iterable[Entry | None], names: tuple[str, ...] = ("isr1", "preimage1", "renewed")) -> str:
    """The lowest FMR at which every entry has its figures: all have values at the rates for which impostors suffice."""
    rates = ("0.001", "0.01")
    for rate in rates:
        figures = [e.metric(f"{name}_{rate}") for e in entries if e for name in names if f"{name}_{rate}" in e.metrics]
        if figures and all(figure.value is not None for figure in figures):
            return rate
    return rates[-1]
