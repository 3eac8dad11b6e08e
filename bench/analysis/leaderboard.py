"""Builds the leaderboard: the best attack on each defence, up to each level of knowledge."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import pandas as pd

from bench.analysis.best_known import best_known
from bench.analysis.board import LEVELS, UNKNOWN, Board, Entry, boards
from bench.analysis.columns import BY_NAME
from bench.analysis.cost import accuracy_costs
from bench.analysis.flags import UNFINISHED_SERVER, defense_flags
from bench.analysis.floor import mse_floor, single_template_errors
from bench.analysis.pareto import fronts
from bench.analysis.selftest import void_attacks
from bench.analysis.strongest import strongest, strongest_up_to
from bench.analysis.submission import unpacked
from bench.errors import UserError, near_miss
from bench.labels import Knowledge
from bench.metrics.bootstrap import measure
from bench.seeds import derive_seed
from bench.storage.records import Measure, Run

_SAR = "judge_sar_0.01"  #: of the two rates the one that a small protocol has enough pairs for


def leaderboard(run: Run) -> pd.DataFrame:
    """One row per dataset, recogniser and defence; figures with their 95 % intervals as NAME, NAME_low, NAME_high.

    `worst_*`: the single best attack by SSIM, at any level. `encoder_*` (the paper's attacker), `algorithm_*`,
    `enrolment_*`, `whitebox_*`, `database_*`, `server_*`: the best attack at that level or one that it includes
    (`Knowledge` is a partial order); empty if none ran at that level. These figures are
    corrected for choosing the best of several attacks (`bench.analysis.strongest`): `worst_optimism` was subtracted
    from the SSIM of `worst_attack`, which is the best in `worst_share` of the resamples. Not corrected: `*_srra1`, the
    replay that is accepted most often there, and `judge_sar`, the attack whose faces the judge accepts most often.
    `acc_cost`: accuracy of the undefended system minus this one's. Attacks that failed the run's self-test do not
    count. `best_known_*`: published elsewhere, on other data, never ranked. `bound_ssim`: the best attack per image,
    averaged (an upper bound that no single attack reaches). If an attack that other defences faced is missing, it is
    empty, `bound_note` says so, and `worst_*` is a lower bound, as are the levels' figures for which `LEVEL_bound_note`
    names an attack. `blind_*`: the best guess that ignores the template.
    `mse_floor`: the van Trees bound, for noise of a known law; `lowest_mse`: the best attack's on one template.
    `pareto`: the levels up to which the row is on the front over privacy, accuracy, size and time
    (`bench.analysis.pareto`). `failed`: cells without a figure. Keyed defences have a leaderboard of their own
    (`bench.analysis.keyed`).

    Raises:
        DataError: there are no records, or damaged ones.
    """
    return _leaderboard(run.folder.absolute(), run.state()).copy()


@lru_cache(maxsize=2)  # a report needs it for its tables, its page and its figures
def _leaderboard(folder: Path, _: object) -> pd.DataFrame:
    run, rows = Run(folder), []
    for board in boards(run):
        costs = accuracy_costs(run, board)
        rows += [_row(board, defense, costs[defense]) for defense in board.defenses]
    frame = pd.DataFrame(rows)
    figures = [name for column in BY_NAME for name in (column, f"{column}_low", f"{column}_high") if name in frame]
    # A column of None only would have the type object, which cannot be sorted.
    return _ranked(frame.assign(**{name: pd.to_numeric(frame[name]) for name in figures}).copy())


def lower_bound(row: Mapping[Any, Any], name: str) -> str:
    """The reason why a figure of a row is only a lower bound ("≥"); empty if it is not."""
    if name == "worst_ssim":
        return str(row["bound_note"])
    level, _, metric = name.partition("_")
    if level in LEVELS and metric in ("ssim", "psnr_db"):
        return str(row.get(f"{level}_bound_note", ""))
    trained_on = name in ("acc", "acc_raw_probe") and UNFINISHED_SERVER in row["flags"].split("; ")
    return UNFINISHED_SERVER if trained_on else ""


def merged(places: Sequence[Path]) -> pd.DataFrame:
    """The leaderboards of several runs or archives as one; a defence is followed by its source: `advface (mine.zip)`.

    Raises:
        DataError: one of them cannot be read.
    """
    frames = []
    for place in places:
        with unpacked(place) as run:
            frame = leaderboard(run)
        frames.append(frame.assign(defense=[f"{name} ({place.name})" for name in frame["defense"]]))
    return _ranked(pd.concat(frames, ignore_index=True))


def sorted_by(frame: pd.DataFrame, column: str) -> pd.DataFrame:
    """The rows sorted by a column, best first, within each dataset and recogniser; `defense` alphabetically.

    Raises:
        UserError: there is no such column.
    """
    check_columns([column], "--sort", {*BY_NAME, "defense"})
    up = column != "defense" and "↑" in BY_NAME[column].heading
    order = frame.sort_values(
        ["dataset", "recognizer", column], ascending=[True, True, not up], na_position="last", kind="stable"
    )
    return order.reset_index(drop=True)


def check_columns(names: Sequence[str], option: str, known: Collection[str] = BY_NAME) -> None:
    """Rejects unknown columns.

    Raises:
        UserError: a column is unknown; suggests the nearest name.
    """
    for name in names:
        if name not in known:
            raise UserError(f"{option}: no column {name!r}.{near_miss(name, known)}")


def _ranked(frame: pd.DataFrame) -> pd.DataFrame:
    if frame.empty:  # a run with keyed defences only
        return pd.DataFrame(columns=["dataset", "recognizer", "defense", "flags", "bound_note", "pareto", *BY_NAME])
    frame = frame.assign(pareto=fronts(frame))
    order = frame.assign(incomplete=frame["bound_note"] != "").sort_values(
        ["dataset", "recognizer", "incomplete", "worst_ssim"], na_position="last"
    )
    return frame.loc[order.index].reset_index(drop=True)


def _row(board: Board, defense: str, cost: Measure) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": defense}
    utility = board.find("utility", defense)
    attacks = [e for e in board.under(defense, "reconstruction") if e.cell.leaks == "template"]
    good = [e for e in attacks if not e.failed]
    void = void_attacks(board)
    real = [e for e in good if LEVELS[e.cell.level] > Knowledge.BLIND and e.cell.attack not in void]
    up_to, worst = strongest(board, real)
    blind = strongest_up_to(board, [e for e in good if LEVELS[e.cell.level] == Knowledge.BLIND]).get(Knowledge.BLIND)

    def put(name: str, figure: Measure) -> None:
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high

    for name in ("acc", "acc_raw_probe"):
        put(name, utility.metric(name) if utility else UNKNOWN)
    put("acc_cost", cost)
    row["worst_attack"] = worst.entry.cell.attack if worst else ""
    row["worst_level"] = worst.entry.cell.level if worst else ""
    row["worst_share"] = worst.share if worst else None
    row["worst_optimism"] = worst.optimism.get("ssim", 0.0) if worst else None
    for name in ("ssim", "psnr_db", "cosine", "judge_cosine", "lpips"):
        put(f"worst_{name}", worst.metric(name) if worst else UNKNOWN)
    missing = _missing(board, attacks, void)
    levels = {e.cell.attack: LEVELS[e.cell.level] for e in board.entries if e.cell.kind == "reconstruction"}
    for level in Knowledge:
        if level > Knowledge.BLIND:
            best = up_to.get(level)
            below = [name for name in missing if levels[name] <= level]
            row[f"{level}_bound_note"] = f"incomplete: {', '.join(below)}" if best and below else ""
            row[f"{level}_attack"] = best.entry.cell.attack if best else ""
            for name in ("ssim", "psnr_db"):
                put(f"{level}_{name}", best.metric(name) if best else UNKNOWN)
    known = best_known(defense)
    row["best_known_ssim"], row["best_known_source"] = (known.ssim, known.source) if known else (None, "")
    for name in ("ssim", "psnr_db"):
        put(f"blind_{name}", blind.metric(name) if blind else UNKNOWN)
    bound, note = _bound(board, missing, [e for e in good if e.cell.attack not in void])
    put("bound_ssim", bound)
    row["bound_note"] = note
    replays = [
        e
        for e in board.under(defense, "replay")
        if not e.failed and _presents_template_images(board, e) and e.metric("srra1").value is not None
        and e.records[0].info.get("wraps") not in void
    ]  # fmt: skip
    admitted = _most_admitted(replays)
    for name in ("srra1", "srra2"):
        put(name, admitted.metric(name) if admitted else UNKNOWN)
    for level in Knowledge:
        if level > Knowledge.BLIND:
            known_to = [e for e in replays if Knowledge.BLIND < LEVELS[e.cell.level] <= level]
            tried = any(LEVELS[e.cell.level] == level for e in known_to)
            admitted = _most_admitted(known_to) if tried else None
            put(f"{level}_srra1", admitted.metric("srra1") if admitted else UNKNOWN)
    taken = max(real, key=lambda e: e.metric(_SAR).value or 0.0, default=None)
    put("judge_sar", taken.metric(_SAR) if taken else UNKNOWN)
    errors = [pair for pair in single_template_errors(board, defense) if pair[0].cell.attack not in void]
    put("lowest_mse", errors[0][1] if errors else UNKNOWN)
    row["lowest_mse_attack"] = errors[0][0].cell.attack if errors else ""
    row["mse_floor"], row["mse_isotropic"] = mse_floor(utility), mse_floor(utility, "mse_isotropic")
    record = utility.records[0] if utility and not utility.failed else None
    row["undefended"] = bool(record and record.info.get("stores_features"))
    row["noise_rms"] = record.noise.get("rms") if record else None
    row["snr_db"] = record.noise.get("snr_db") if record else None
    row["template_bytes"] = record.info.get("template_bytes") if record else None
    costs = record.info.get("costs", {}) if record else {}
    row["client_ms"], row["server_ms"] = costs.get("client_ms"), costs.get("server_ms")
    row["training_min"] = costs["training_s"] / 60 if "training_s" in costs else None
    row["queries"] = _queries(worst.entry) if worst else None
    row["images_without_a_face"] = record.info.get("images_without_a_face", 0) if record else 0
    row["protect_ms_per_image"] = record.info.get("protect_ms_per_image") if record else None
    flags = defense_flags(board, defense, worst.entry if worst else None)
    flags |= {best.note for best in up_to.values() if best.note}
    faced = sorted(void & {e.cell.attack for e in good})
    if faced:
        flags.add(f"attack void: {', '.join(faced)}")
    row["flags"] = "; ".join(sorted(flags))
    everything = [e for e in board.entries if e.cell.defense == defense]
    failed = [e for e in everything if e.failed and not e.skipped]
    row["failed"] = "; ".join(sorted(e.cell.attack or e.cell.kind for e in failed))
    return row


def _queries(attack: Entry) -> int:
    """The number of images about which an attack asked the oracle, in its training and in the attack itself."""
    info = attack.records[0].info
    asked = [info.get(kind, {}).get("queries", {}) for kind in ("attack_state", "reconstruction")]
    return sum(int(count) for some in asked for name, count in some.items() if name.endswith("_images"))


def _most_admitted(replays: Sequence[Entry]) -> Entry | None:
    return max(replays, key=lambda e: e.metric("srra1").value or 0.0, default=None)


def _presents_template_images(board: Board, replay: Entry) -> bool:
    """Whether a replay presents reconstructions from templates; those from embeddings have their own table."""
    info = replay.records[0].info
    wrapped = board.find("reconstruction", replay.cell.defense, str(info.get("wraps")))
    return info.get("presents") == "image" and (wrapped is None or wrapped.cell.leaks == "template")


def _missing(board: Board, attacks: Sequence[Entry], void: Collection[str]) -> list[str]:
    """The attacks that other defences faced, and this one did not, though they apply to it."""
    faced = {e.cell.attack for e in attacks if e.skipped or not e.failed}
    return sorted(set(board.attacks) - set(void) - faced)


def _bound(board: Board, missing: Sequence[str], good: list[Entry]) -> tuple[Measure, str]:
    """The highest SSIM of any attack per image (the oracle upper bound)."""
    if missing or not good:
        return UNKNOWN, f"incomplete: {', '.join(missing) or 'no attack'}"
    tables = [e.scores.set_index("name") for e in good if e.scores is not None]
    names = sorted(set.intersection(*(set(t.index) for t in tables))) if tables else []
    if not names:
        return UNKNOWN, "incomplete: the attacks have no image in common"
    best = pd.concat([t.loc[names, "ssim"] for t in tables], axis=1).max(axis=1)
    owners = tables[0].loc[names, "subject"].to_numpy(dtype=object)
    return measure(best.to_numpy(), owners, seed=derive_seed("bootstrap", board.dataset)), ""
