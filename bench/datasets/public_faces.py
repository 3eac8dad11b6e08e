"""Keeps the test set, the defender's and the attacker's public faces apart."""

from __future__ import annotations

from itertools import combinations

import numpy as np

from bench.contracts import FaceSet, Rng
from bench.errors import UserError


def split_public(public: FaceSet, rng: Rng) -> tuple[FaceSet, FaceSet]:
    """Two halves (defender's, attacker's) that share no person, about equally large.

    Where identities are unknown each image counts as a person.
    """
    people = public.subjects or public.names
    images: dict[str, list[int]] = {}
    for index, person in enumerate(people):
        images.setdefault(person, []).append(index)
    names = sorted(images)
    halves: tuple[list[int], list[int]] = ([], [])
    for turn in rng.numpy().permutation(len(names)):
        smaller = min(halves, key=len)
        smaller.extend(images[names[turn]])
    defender, attacker = (public.subset(np.array(sorted(half), dtype=np.int64)) for half in halves)
    return defender, attacker


def refuse_overlap(**sets: FaceSet) -> None:
    """Sees that no two sets share a person (or an image, where identities are unknown).

    Raises:
        UserError: they do; names the sets and some of the people.
    """
    for (one, first), (other, second) in combinations(sets.items(), 2):
        shared = set(first.names) & set(second.names)
        if first.subjects is not None and second.subjects is not None:
            shared |= set(first.subjects) & set(second.subjects)
        if shared:
            some = ", ".join(sorted(shared)[:3])
            raise UserError(
                f"the {one} and {other} faces share {len(shared)} people or images ({some}, ...): "
                "a result would be worthless; choose disjoint sets in [run] public_defender and public_attacker"
            )
