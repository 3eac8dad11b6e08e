"""Checks verification pairs for errors before any image is aligned."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bench.contracts import Pairs
from bench.errors import DataError

TWICE = "pairs that occur twice in the list"


def check_pairs(pairs: Pairs, where: str, place: Callable[[int], str]) -> dict[str, Sequence[str]]:
    """Rejects invalid pairs; returns doubtful ones, by reason, with their locations.

    Args:
        where: the file that holds the pairs, or the dataset's label.
        place: returns the location of the i-th pair, for a message.

    Raises:
        DataError: a pair has the same image twice, is both genuine and impostor, or the protocol or one of its folds
            has
            pairs of one kind only.
    """
    if not len(pairs):
        return {}
    same = np.flatnonzero(pairs.left == pairs.right)
    if len(same):
        raise DataError(f"{place(int(same[0]))}: the pair compares an image with itself; remove it")
    doubtful = _repeated(pairs, place)
    for kind, there in (("genuine", pairs.genuine), ("impostor", ~pairs.genuine)):
        if there.all():
            raise DataError(f"{where}: {kind} pairs only; a threshold needs both kinds")
        for fold in np.unique(pairs.fold):
            if there[pairs.fold == fold].all():
                only = f"fold {fold + 1} has {kind} pairs only"
                raise DataError(f"{where}: {only}; every fold needs both kinds: assign the pairs to folds again")
    return doubtful


def _repeated(pairs: Pairs, place: Callable[[int], str]) -> dict[str, Sequence[str]]:
    seen: dict[frozenset[int], int] = {}
    again = []
    for index, (left, right) in enumerate(zip(pairs.left.tolist(), pairs.right.tolist(), strict=True)):
        first = seen.setdefault(frozenset((left, right)), index)
        if first == index:
            continue
        if pairs.genuine[first] != pairs.genuine[index]:
            raise DataError(
                f"{place(index)}: listed both as a genuine and as an impostor pair, here and at {place(first)}"
            )
        again.append(place(index))
    return {TWICE: again} if again else {}


def balanced_folds(genuine: Sequence[bool], folds: int, where: str) -> tuple[NDArray[np.int64], bool]:
    """Assigns a fold to every pair; also returns whether it deviated from consecutive folds.

    Folds are consecutive and of equal size, as is usual. If a fold would then have one kind of pair (for example
    because all genuine pairs come first), each kind is divided separately.

    Raises:
        DataError: there are fewer pairs of a kind than folds.
    """
    kinds = np.asarray(genuine, dtype=bool)
    for kind, count in (("genuine", int(kinds.sum())), ("impostor", int((~kinds).sum()))):
        if not count:
            other = "impostor" if kind == "genuine" else "genuine"
            raise DataError(f"{where}: {other} pairs only; a threshold needs both kinds")
        if count < folds:
            raise DataError(f"{where}: {count} {kind} pairs cannot make {folds} folds; set folds to {count} or less")
    straight = np.arange(len(kinds)) * folds // len(kinds)
    if all(len(set(kinds[straight == fold])) == 2 for fold in range(folds)):
        return straight, False
    dealt = np.zeros(len(kinds), dtype=np.int64)
    for some in (np.flatnonzero(kinds), np.flatnonzero(~kinds)):
        dealt[some] = np.arange(len(some)) * folds // len(some)
    return dealt, True
