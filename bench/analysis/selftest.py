"""The run's self-test: attacks on systems known to be broken and on one known to be safe."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pandas as pd

from bench.analysis.board import LEVELS, Board, Entry, boards
from bench.labels import Knowledge, harness_part, is_canary
from bench.metrics.bootstrap import interval
from bench.seeds import derive_seed
from bench.storage.records import Run

_SHARE = 0.5  #: a valid attack closes this fraction of the gap between the blind floor and 1, unless it declares less
_NAMED = 0.5  #: a valid linkage attack names this fraction of those whom a login names, unless it declares less
_KEPT = 0.5  #: a valid attack on traits keeps this much of what it has above chance on clean features, or as declared
_CHANCE_AUC = 0.5
_ERROR = 0.05  #: probability that a valid attack fails on the safe system, over all attacks of a board together


@dataclass(frozen=True)
class Trial:
    """One attack on one canary."""

    dataset: str
    recognizer: str
    attack: str
    canary: str  #: open, fixed, secret, affine (known broken) or closed (known safe)
    passed: bool
    said: str  #: the figures behind the result


def trials(run: Run) -> list[Trial]:
    """Every attack's trials; empty if the run had no canaries."""
    return [trial for board in boards(run) for trial in board_trials(board)]


def board_trials(board: Board) -> list[Trial]:
    """Like `trials`, for one dataset and recogniser.

    Known broken: the attack's mean SSIM must close half of the gap between the blind floor and 1, or the share that it
    declares, since attacks without pairs are known to reach less. Known safe: the
    template is independent of the image, so reconstructions must not be more similar to their own image than to another
    person's. The interval of the difference must contain 0, at a level that accounts for all attacks.

    An attack that links templates to people must name half as many as a login does on a broken system, or the share
    that it declares, and no more than chance allows on the safe one. An attack on traits must keep half of what its
    balanced accuracy exceeds chance by on clean features, or the share that it declares, and be no better than chance
    on the safe one. An attack on keyed templates must reach the cosine or
    AUC that it declares on the defence that it declares, and be no better than chance on `sealed`.
    """
    kinds = ("reconstruction", "linkage", "traits", "crossmatch", "inversion")
    tested = [e for e in board.entries if is_canary(e.cell.defense) and e.cell.kind in kinds]
    floor = blind_floor(board)
    attacks = {e.cell.attack for e in tested}
    found = []
    for entry in tested:
        kind = harness_part(entry.cell.defense)[1]
        if entry.skipped:
            continue
        if entry.failed:
            passed, said = False, entry.failed
        elif entry.cell.kind == "linkage":
            passed, said = _links(entry, kind == "closed")
        elif entry.cell.kind == "traits":
            passed, said = _infers(entry, kind == "closed")
        elif entry.cell.kind in ("crossmatch", "inversion"):
            passed, said = _reads_keyed(board, entry, kind.startswith("sealed"), len(attacks))
        elif kind == "closed":
            passed, said = _ignorant(board, entry, len(attacks))
        else:
            share = float(entry.records[0].info.get("required", _SHARE))
            reached, wanted = entry.metric("ssim").value or 0.0, floor + share * (1 - floor)
            passed, said = reached >= wanted, f"SSIM {reached:.3f}, required {wanted:.3f}"
        found.append(Trial(board.dataset, board.recognizer, entry.cell.attack, kind, passed, said))
    return found


def _chance(entry: Entry) -> float:
    """The probability to name a person by guessing."""
    return 1 / max(1, int(entry.records[0].info.get("gallery", 1)))


def _links(entry: Entry, safe: bool) -> tuple[bool, str]:
    named, login = entry.metric("rank1"), entry.metric("rank1_login")
    chance = _chance(entry)
    reached = named.value or 0.0
    if safe:
        return (named.low or 0.0) <= chance, f"rank 1 {reached:.3f}, chance {chance:.3f}"
    share = float(entry.records[0].info.get("required", _NAMED))
    wanted = max(share * (login.value or 0.0), 2 * chance)
    return reached >= wanted, f"rank 1 {reached:.3f}, at least {wanted:.3f} wanted"


def _infers(entry: Entry, safe: bool) -> tuple[bool, str]:
    reached, clean = entry.metric("trait_accuracy"), entry.metric("clean_trait_accuracy")
    chance = float(entry.records[0].info.get("chance", 0.5))
    if clean.value is None or reached.value is None:
        return False, "no trait recognised in clean features"
    if safe:
        return (reached.low or 0.0) <= chance, f"balanced accuracy {reached.value:.3f}, chance {chance:.3f}"
    share = float(entry.records[0].info.get("required", _KEPT))
    wanted = chance + share * (clean.value - chance)
    return reached.value >= wanted, f"balanced accuracy {reached.value:.3f}, at least {wanted:.3f} wanted"


def _reads_keyed(board: Board, entry: Entry, safe: bool, attacks: int) -> tuple[bool, str]:
    """Whether an attack on keyed templates links or inverts them as it must, and not at all if they are safe."""
    if safe and entry.cell.kind == "inversion":
        return _no_better(board, entry.scores, "inverted_excess", attacks, "cosine with own minus other person")
    name, heading = ("link_auc", "AUC") if entry.cell.kind == "crossmatch" else ("inverted_cosine", "cosine")
    reached = entry.metric(name)
    value = reached.value or 0.0
    if safe:
        return (reached.low or 0.0) <= _CHANCE_AUC, f"{heading} {value:.3f}, chance {_CHANCE_AUC:.1f}"
    wanted = float(entry.records[0].info.get("required", 1.0))
    return value >= wanted, f"{heading} {value:.3f}, at least {wanted:.2f} wanted"


def _ignorant(board: Board, entry: Entry, attacks: int) -> tuple[bool, str]:
    scores = entry.scores
    if scores is None or "ssim_other" not in scores:
        return False, "no scores against other people's images"
    excess = scores.assign(excess=scores["ssim"] - scores["ssim_other"])
    return _no_better(board, excess, "excess", attacks, "own minus other image")


def _no_better(board: Board, scores: pd.DataFrame | None, column: str, attacks: int, heading: str) -> tuple[bool, str]:
    """Whether the interval of a column's mean contains 0, at a level that accounts for all attacks."""
    if scores is None or column not in scores:
        return False, "no scores against other people's images"
    difference = scores[column].to_numpy(dtype=np.float64)
    level = 1 - _ERROR / attacks
    owners = scores["subject"].to_numpy(dtype=object)
    seed = derive_seed("bootstrap", board.dataset)
    mean, low, high = interval(difference, owners, seed=seed, resamples=4000, level=level)
    ends = f" [{low:+.4f}, {high:+.4f}]" if low < high else ""
    return low <= 0 <= high, f"{heading}: {mean:+.4f}{ends}"


def blind_floor(board: Board) -> float:
    """The best SSIM of any attack that ignores the template; 0 if there is none."""
    blind = [e for e in board.entries if e.cell.kind == "reconstruction" and LEVELS[e.cell.level] == Knowledge.BLIND]
    return max((e.metric("ssim").value or 0.0 for e in blind), default=0.0)


@lru_cache(maxsize=4)  # every row of a board's tables asks
def void_attacks(board: Board) -> frozenset[str]:
    """Attacks whose figures are not trusted, for or against any defence."""
    return frozenset(trial.attack for trial in board_trials(board) if not trial.passed)
