"""Flags of an evaluation that follow from all of a defence's cells together."""

from __future__ import annotations

import numpy as np

from bench.analysis.board import LEVELS, Board, Entry
from bench.analysis.floor import below_floor
from bench.analysis.selftest import blind_floor
from bench.labels import Knowledge, at_level
from bench.metrics.bootstrap import paired_difference
from bench.seeds import derive_seed

_FEW = 20  #: with fewer people, an interval means little

UNFINISHED_SERVER = "server not converged"

#: The meaning of a flag, by the beginning of its text, which may end in a figure or a name.
EXPLAINED = {
    "randomised defence": (
        "Protecting the same image twice gives two templates. An attacker who averages over several copies, or over "
        "the defence's randomness, may do better than one with a single template."
    ),
    "batch-coupled defence": (
        "A template depends on the images that were protected in the same batch. Batches are seeded, and a pair's two "
        "images never share one. In production the batches would differ, and so may the figures."
    ),
    "a pair's two images were protected in one batch": (
        "Two images that are compared were protected together, which can correlate their templates. Accuracy may be "
        "too high."
    ),
    "gradients masked": (
        "No gradient passes the defence: the white-box attack treats its noise as a constant and refreshes it."
    ),
    "zero gradients": "The objective did not change: the attack may be ineffective, rather than the defence effective.",
    "exploding gradients": "The attack's first step was enormous or not finite: it may have failed.",
    "attack not converged": (
        "The attack was still improving when its training or search ended, so its figure is a lower bound on what it "
        "could reconstruct: give it more epochs or iterations before calling a defence safe."
    ),
    "defense not converged": (
        "The defence was still improving when its training ended: fully trained, it may protect better or worse."
    ),
    UNFINISHED_SERVER: (
        "The server's own recogniser was still improving when its training ended: accuracy may be higher than shown, "
        "and is marked with ≥."
    ),
    "black box beats white box": (
        "An attack with less knowledge beat every attack with gradients: the white-box attacks are weak here."
    ),
    "more knowledge made it worse": (
        "The same attack did worse at a higher level of knowledge: its additional training did more harm than good."
    ),
    "below the blind floor": (
        "The best attack reconstructs less than a guess that ignores the template. That is a reason to distrust "
        "the attack or the metric before trusting the defence."
    ),
    "attack failed on the unprotected system": (
        "An attack does no better than a guess where nothing is protected: it says nothing about any defence."
    ),
    "too few people for the interval": f"The worst case is based on fewer than {_FEW} people.",
    "worst case not corrected": (
        "The best of several attacks is a little too good, because these people helped to choose it. Without scores of "
        "each image that cannot be corrected, so the figure is a plain maximum."
    ),
    "attack void": "An attack failed the run's self-test: its figures count neither for nor against a defence.",
    "below the van Trees floor": (
        "An attack on one template has a lower mean squared error than any attacker can have who knows no more of "
        "faces than their mean and covariance. Either its prior is better than that Gaussian, or something is wrong: "
        "it saw what it attacks, or the noise is not what the defence says."
    ),
    "metric lint": "Figures contradict each other: mean PSNR cannot be below the PSNR of the mean error.",
}


def meaning(flag: str) -> str:
    """The explanation of a flag; empty if it has none."""
    return next((text for start, text in EXPLAINED.items() if flag.startswith(start)), "")


def defense_flags(board: Board, defense: str, worst: Entry | None) -> set[str]:
    """Flags of one defence: those of its records, and those that follow from several cells."""
    shown = [e for e in board.entries if e.cell.defense == defense and e.cell.kind != "traits"]  # these have a table
    found = {flag for e in shown for r in e.records for flag in r.flags}
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
    low = below_floor(board, defense)
    if low:
        found.add(f"below the van Trees floor: {', '.join(low)}")
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
    """Whether the first attack is significantly better on the images that both attacked."""
    if one.scores is None or other.scores is None:
        return False
    first, second = (e.scores.set_index("name") for e in (one, other) if e.scores is not None)
    names = sorted(set(first.index) & set(second.index))
    if len(names) < 2:
        return False
    owners = first.loc[names, "subject"].to_numpy(dtype=object)
    values = [t.loc[names, "ssim"].to_numpy(dtype=np.float64) for t in (first, second)]
    return paired_difference(values[0], values[1], owners, seed=derive_seed("bootstrap", board.dataset))[1] > 0
