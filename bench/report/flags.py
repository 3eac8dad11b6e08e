"""What is suspicious about an evaluation, seen from all of a defence's cells together."""

from __future__ import annotations

import numpy as np

from bench.contracts import Knowledge
from bench.metrics.bootstrap import paired_difference
from bench.report.selftest import blind_floor
from bench.report.summary import LEVELS, Board, Entry
from bench.seeds import derive_seed

_FEW = 20  #: people behind an interval, below which it says little

EXPLAINED = {
    "randomised defence": "the same image gives another template each time; attacks had to cope with fresh noise",
    "batch-coupled defence": "a template depends on who else was protected in the same batch",
    "gradients masked": "no gradient passes the defence: the attack took its noise for a constant (BPDA)",
    "zero gradients": "the attack's objective did not move; it may be blind rather than beaten",
    "exploding gradients": "the attack's steps were not finite or enormous",
    "defense not converged": "what the defence learns was still improving when training ended",
    "server not converged": "the server's own training was still improving when it ended",
    "attack not converged": "the attack was still improving when it ended: more budget may open the defence further",
    "black box beats white box": "an attacker who knows less did better: the white-box attack is weak here",
    "more knowledge made it worse": "the same attack did worse at a higher level: its adaptation is weak here",
    "below the blind floor": "a guess that never looks at the template scores higher than the worst attack",
    "attack failed on the unprotected system": "an attack does no better than a guess where nothing is protected",
    "too few people for the interval": f"fewer than {_FEW} people are behind the worst case",
    "attack void": "an attack failed the run's test of itself; its figures do not count",
    "metric lint": "figures contradict each other",
}


def defense_flags(board: Board, defense: str, worst: Entry | None) -> set[str]:
    """Flags of one defence: those of its records, and those that only show between cells."""
    found = {flag for e in board.entries if e.cell.defense == defense for r in e.records for flag in r.flags}
    attacks = [
        e
        for e in board.under(defense, "reconstruction")
        if not e.failed and e.cell.leaks == "template" and LEVELS[e.cell.level] > Knowledge.BLIND
    ]
    floor = blind_floor(board)
    if worst is not None and (worst.metric("ssim").value or 0.0) < floor:
        found.add("below the blind floor")
    if worst is not None and worst.scores is not None and worst.scores["subject"].nunique() < _FEW:
        found.add("too few people for the interval")
    white = [e for e in attacks if LEVELS[e.cell.level] == Knowledge.WHITEBOX]
    black = [e for e in attacks if LEVELS[e.cell.level] < Knowledge.WHITEBOX]
    if white and any(all(_beats(board, b, w) for w in white) for b in black):
        found.add("black box beats white box")
    for entry in attacks:
        name, _, level = entry.cell.attack.partition("@")
        below = [e for e in attacks if e.cell.attack.partition("@")[0] == name and e.cell.level != entry.cell.level]
        lower = [e for e in below if LEVELS[e.cell.level] < LEVELS[entry.cell.level]]
        if level and any(_beats(board, e, entry) for e in lower):
            found.add("more knowledge made it worse")
        plain = board.find("reconstruction", "unprotected", entry.cell.attack)
        if plain is not None and not plain.failed and (plain.metric("ssim").value or 0.0) <= floor:
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
