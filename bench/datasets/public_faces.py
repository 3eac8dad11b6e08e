"""Whose faces may be learned from: the defender's, the attacker's, and neither those that are judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any, Literal

import numpy as np

from bench.contracts import FaceSet, Rng
from bench.errors import UserError
from bench.seeds import derive_seed

Side = Literal["defender", "attacker"]

SIDES: tuple[Side, ...] = ("defender", "attacker")
REST = "rest"  #: stands for the people of the judged set who are in no pair


@dataclass(frozen=True)
class Lending:
    """Which datasets lend faces to whom, and how many; what `[run] public_*` says."""

    defender: str  #: a dataset's label, or `rest`
    attacker: str
    limit: int | None = None  #: at most so many images a side

    @property
    def halved(self) -> bool:
        """Whether one set serves both: then each gets half of its people."""
        return self.defender == self.attacker

    def lender(self, side: Side) -> str:
        """The label of the set that lends to this side."""
        return self.defender if side == "defender" else self.attacker

    def identity(self, side: Side, revision: Callable[[str], str]) -> dict[str, Any]:
        """What this side's faces depend on, for a key.

        Args:
            revision: a set's revision by its label, `rest` included.
        """
        return {
            "revision": revision(self.lender(side)),
            "side": side if self.halved else "all",
            "limit": self.limit,
        }

    def count(self, side: Side, size: Callable[[str], int]) -> int:
        """About how many images this side gets, where `size` says how many a set lends, `rest` included."""
        found = size(self.lender(side)) // (2 if self.halved else 1)
        return found if self.limit is None else min(found, self.limit)

    def divide(self, test: FaceSet, lend: Callable[[str], FaceSet]) -> tuple[FaceSet, FaceSet]:
        """(defender's, attacker's) faces.

        Args:
            test: the judged faces, whom nobody may learn from.
            lend: a set's public faces by its label, `rest` included.

        Raises:
            UserError: two of the three sets share a person or an image.
        """
        if self.halved:
            defender, attacker = split_public(lend(self.defender), Rng(derive_seed("public faces")))
        else:
            defender, attacker = lend(self.defender), lend(self.attacker)
        refuse_overlap(test=test, defender=defender, attacker=attacker)
        if self.limit is not None:
            defender, attacker = (s.subset(range(min(len(s), self.limit))) for s in (defender, attacker))
        return defender, attacker


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
