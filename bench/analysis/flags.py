"""What is suspicious about an evaluation, seen from all of a defence's cells together."""

from __future__ import annotations

import numpy as np

from bench.analysis.board import LEVELS, Board, Entry
from bench.analysis.selftest import blind_floor
from bench.labels import Knowledge, at_level
from bench.metrics.bootstrap import paired_difference
from bench.seeds import derive_seed

_FEW = 20  #: people behind an interval, below which it says little

UNFINISHED_SERVER = "server not converged"

#: What a flag means, by its beginning: one may end in a figure or a name.
EXPLAINED = {
    "randomised defence": (
        "The same image protected twice gives two templates. An attacker who averages over several copies, or over the "
        "defence's randomness, may do better than one who has a single template."
    ),
    "batch-coupled defence": (
        "A template depends on the images that were protected in the same batch. Batches are seeded, and a pair's two "
        "images never share one; in service the batch mates would be others, and figures may differ."
    ),
    "a pair's two images were protected in one batch": (
        "Two images that are compared were protected together, which can tie their templates. Accuracy may be too high."
    ),
    "gradients masked": (
        "No gradient passes the defence: the white-box attack took its noise for a constant, renewed now and then."
    ),
    "zero gradients": "The attack's objective did not move: it may be blind rather than beaten.",
    "exploding gradients": "The attack's first step was not finite, or enormous: it may be lost rather than beaten.",
    "attack not converged": (
        "The attack was still improving when its training or search ended, so its figure is a lower bound on what it "
        "could rebuild: give it more epochs or iterations before calling a defence safe."
    ),
    "defense not converged": (
        "What the defence learns was still improving when its training ended: it may protect better, or worse, than "
        "it does here."
    ),
    UNFINISHED_SERVER: (
        "The server's own recogniser was still improving when its training ended: accuracy may be higher than shown, "
        "and stands behind a ≥."
    ),
    "black box beats white box": (
        "Somebody who knows less did better than every attack with gradients: the white-box attacks are weak here."
    ),
    "more knowledge made it worse": (
        "The same attack did worse at a higher level of knowledge: what it learned there is worth less than it cost."
    ),
    "below the blind floor": (
        "The worst attack rebuilt less than a guess that never looked at the template. That is a reason to distrust "
        "the attack, or the metric, before praising the defence."
    ),
    "attack failed on the unprotected system": (
        "An attack does no better than a guess where nothing is protected: it says nothing about any defence."
    ),
    "too few people for the interval": f"Fewer than {_FEW} people are behind the worst case.",
    "attack void": "An attack failed the run's test of itself: its figures count neither for nor against a defence.",
    "metric lint": "Figures contradict each other: mean decibels cannot lie below the decibels of the mean error.",
}


def meaning(flag: str) -> str:
    """The explanation of a flag; empty where it has none."""
    return next((text for start, text in EXPLAINED.items() if flag.startswith(start)), "")


def defense_flags(board: Board, defense: str, worst: Entry | None) -> set[str]:
    """Flags of one defence: those of its records, and those that only show between cells."""
    found = {flag for e in board.entries if e.cell.defense == defense for r in e.records for flag in r.flags}
    attacks = [
        e
        for e in board.under(defense, "reconstruction")
        if not e.failed and e.cell.leaks == "template" and LEVELS[e.cell.level] > Knowledge.BLIND
    ]
    floor = blind_floor(board)
    bare = [e for e in board.entries if not e.failed and not e.cell.probe and e.records[0].info.get("stores_features")]
    if worst is not None and (worst.metric("ssim").value or 0.0) < floor:
        found.add("below the blind floor")
    if worst is not None and worst.scores is not None and worst.scores["subject"].nunique() < _FEW:
        found.add("too few people for the interval")
    white = [e for e in attacks if LEVELS[e.cell.level] == Knowledge.WHITEBOX]
    black = [e for e in attacks if LEVELS[e.cell.level] < Knowledge.WHITEBOX]
    if white and any(all(_beats(board, b, w) for w in white) for b in black):
        found.add("black box beats white box")
    for entry in attacks:
        name, level = at_level(entry.cell.attack)
        below = [e for e in attacks if at_level(e.cell.attack)[0] == name and e.cell.level != entry.cell.level]
        lower = [e for e in below if LEVELS[e.cell.level] < LEVELS[entry.cell.level]]
        if level and any(_beats(board, e, entry) for e in lower):
            found.add("more knowledge made it worse")
        plain = [e for e in bare if e.cell.attack == entry.cell.attack]
        if any((e.metric("ssim").value or 0.0) <= floor for e in plain):
            found.add("attack failed on the unprotected system")
    return found


def _beats(board: Board, one: Entry, other: Entry) -> bool:
    """Whether the first rebuilds more of the images that both attacked, by more than chance."""
    if one.scores is None or other.scores is None:
        return False
    first, second = (e.scores.set_index("name") for e in (one, other) if e.scores is not None)
    names = sorted(set(first.index) & set(second.index))
    if len(names) < 2:
        return False
    owners = first.loc[names, "subject"].to_numpy(dtype=object)
    values = [t.loc[names, "ssim"].to_numpy(dtype=np.float64) for t in (first, second)]
    return paired_difference(values[0], values[1], owners, seed=derive_seed("bootstrap", board.dataset))[1] > 0
