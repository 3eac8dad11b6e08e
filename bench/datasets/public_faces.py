"""Chooses the public faces that the defender and the attacker may train on, disjoint from the judged faces."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any, Literal

import numpy as np

from bench.contracts import FaceSet, Rng
from bench.datasets.copies import copies
from bench.errors import UserError
from bench.seeds import derive_seed

Side = Literal["defender", "attacker"]

SIDES: tuple[Side, ...] = ("defender", "attacker")
REST = "rest"  #: the label for people of the judged set who are in no pair


@dataclass(frozen=True)
class PublicSources:
    """Which datasets supply the public faces, and how many: the settings `[run] public_*`."""

    defender: str  #: a dataset's label, or `rest`
    attacker: str
    limit: int | None = None  #: maximum number of images per side

    @property
    def halved(self) -> bool:
        """Whether one set supplies both sides, so that each gets half of its people."""
        return self.defender == self.attacker

    def source(self, side: Side) -> str:
        """The label of the set that supplies this side."""
        return self.defender if side == "defender" else self.attacker

    def identity(
        self, side: Side, revision: Callable[[str], str], left_out: Collection[str] = frozenset()
    ) -> dict[str, Any]:
        """What this side's faces depend on, as part of a key.

        Args:
            revision: returns a set's revision by its label, `rest` included.
            left_out: the people of `left_out`, named by another set too.
        """
        return {
            "revision": revision(self.source(side)),
            "side": side if self.halved else "all",
            "limit": self.limit,
            **({"left_out": sorted(left_out)} if left_out else {}),
        }

    def left_out(self, judged: Collection[str], public: Callable[[str], Collection[str]]) -> dict[Side, frozenset[str]]:
        """The people whose faces each side does without, because another set names them too.

        A set that lends faces to another one leaves out the judged people. Where the sides have different sets, the
        attacker also leaves out the defender's people, so that what the defender learns is the same whoever attacks.

        Args:
            judged: the names of the judged people.
            public: returns the names of a set's public people by its label, `rest` included.

        Raises:
            UserError: nobody is left on a side.
        """
        lent = {side: frozenset(public(self.source(side))) for side in SIDES}
        found: dict[Side, frozenset[str]] = {}
        for side in SIDES:
            others = set() if self.source(side) == REST else _keys(judged)
            if side == "attacker" and not self.halved:
                others |= _keys(lent["defender"])
            found[side] = frozenset(person for person in lent[side] if person_key(person) in others)
            if found[side] and found[side] == lent[side]:
                taken = "judged, or the defender has them" if side == "attacker" and not self.halved else "judged"
                raise UserError(
                    f"nobody is left among the {side}'s public faces: all {len(lent[side])} people of "
                    f"{self.source(side)!r} are {taken}; name another set in run.public_{side}"
                )
        return found

    def count(self, side: Side, size: Callable[[str], int]) -> int:
        """The approximate number of images that this side gets; `size` returns the size of a set, `rest` included."""
        found = size(self.source(side)) // (2 if self.halved else 1)
        return found if self.limit is None else min(found, self.limit)

    def divide(
        self,
        test: FaceSet,
        judged: FaceSet,
        load: Callable[[str], FaceSet],
        left_out: Mapping[Side, Collection[str]] | None = None,
    ) -> PublicFaces:
        """Selects the defender's and the attacker's faces.

        Leaves out photographs without a face, and people whom another set names too. Among the people of the judged set
        who are in no pair, also leaves out copies of judged photographs and duplicates; published sets contain a few.

        Args:
            test: the judged faces, which nobody may train on.
            judged: these, and the other faces of their set that a longer run would judge.
            load: returns a set's public faces by its label, `rest` included.
            left_out: the people whom each side does without, from `left_out`; None: nobody.

        Raises:
            UserError: two of the three sets share a person, an image or a photograph, or a side's set has no face left.
        """
        notes: dict[str, Sequence[str]] = {}

        def usable(side: Side) -> FaceSet:
            source = self.source(side)
            faces, faceless = with_a_face(load(source))
            notes.update(faceless)
            if source == REST:
                faces, copied = _without_copies(faces, judged)
                notes.update(copied)
            if left_out and left_out[side]:
                faces = _without_people(faces, left_out[side])
                notes[_SHARED.format("public" if self.halved else f"{side}'s")] = sorted(left_out[side])
            if not len(faces) and source != REST:
                raise UserError(f"no face is left among those of {source!r} for the {side}; set run.public_{side}")
            return faces

        if self.halved:
            defender, attacker = split_public(usable("defender"), Rng(derive_seed("public faces")))
            if self.defender != REST and not (len(defender) and len(attacker)):
                raise UserError(
                    f"too few people are left among the public faces of {self.defender!r} for the defender and the "
                    "attacker; set run.public_defender and run.public_attacker"
                )
        else:
            defender, attacker = usable("defender"), usable("attacker")
        refuse_overlap(test=test, defender=defender, attacker=attacker)
        if self.limit is not None:
            defender, attacker = (s.subset(range(min(len(s), self.limit))) for s in (defender, attacker))
        return PublicFaces(defender, attacker, notes)


@dataclass(frozen=True, eq=False)
class PublicFaces:
    """The faces of both sides, and which photographs were left out, by reason."""

    defender: FaceSet
    attacker: FaceSet
    notes: Mapping[str, Sequence[str]]


def with_a_face(public: FaceSet) -> tuple[FaceSet, dict[str, Sequence[str]]]:
    """The photographs that show a face, and the names of the others."""
    missed = [public.names[i] for i in np.flatnonzero(~public.found)]
    return (public.subset(np.flatnonzero(public.found)), {_FACELESS: missed}) if missed else (public, {})


def judged_without_a_face(judged: FaceSet) -> dict[str, Sequence[str]]:
    """Judged photographs that show no face: they stay in every denominator, as failures, and that is said."""
    missed = [judged.names[i] for i in np.flatnonzero(~judged.found)]
    return {_FACELESS_JUDGED: missed} if missed else {}


def person_key(name: str) -> str:
    """A name in the form in which two sets are compared: Leonardo_DiCaprio and Leonardo Dicaprio are one person.

    Case, accents, punctuation and the sign between words do not count. Empty for a name without letters, which is a
    number that means somebody else in each set.
    """
    plain = unicodedata.normalize("NFKD", name).casefold()
    kept = (c for c in plain if not unicodedata.combining(c) and c not in "'’`.,")
    words = re.sub(r"[\W_]+", " ", "".join(kept)).strip()
    return words if any(c.isalpha() for c in words) else ""


def _keys(people: Collection[str]) -> set[str]:
    return {person_key(person) for person in people} - {""}


def _without_people(faces: FaceSet, people: Collection[str]) -> FaceSet:
    subjects = faces.subjects or ("",) * len(faces)
    return faces.subset([index for index, person in enumerate(subjects) if person not in people])


_SHARED = "people whom another set names too, left out of the {} faces"
_FACELESS = "public photographs without a face, left out"
_FACELESS_JUDGED = "judged photographs without a face, counted as failures"
_JUDGED = "public photographs that are copies of judged ones, left out"
_TWICE = "public photographs that are copies of another person's, left out"
_DOUBTFUL = "judged photographs that are copies of one another"
_SHOWN = 3  #: parts of a file's path that tell it from others: CFP's are 001/frontal/01.jpg


def _without_copies(public: FaceSet, judged: FaceSet) -> tuple[FaceSet, dict[str, Sequence[str]]]:
    """The judged set's public faces, without photographs that the set also has under another name."""
    if public.originals is None or judged.originals is None:
        return public, {}
    own, theirs, people = public.originals, judged.originals, public.subjects or public.names
    known = {j: _same(own.files[j], theirs.files[i]) for i, j in copies(theirs, own)}
    again = {
        j: _same(own.files[j], own.files[i])
        for i, j in copies(own, own)
        if i < j and people[i] != people[j] and i not in known and j not in known
    }
    kept = [index for index in range(len(public)) if index not in known and index not in again]
    notes = {_JUDGED: list(known.values()), _TWICE: list(again.values())}
    return public.subset(kept), {why: names for why, names in notes.items() if names}


def copies_among(judged: FaceSet) -> dict[str, Sequence[str]]:
    """Judged photographs that occur twice; reported, but left in."""
    if judged.originals is None:
        return {}
    files = judged.originals.files
    found = [_same(files[j], files[i]) for i, j in copies(judged.originals, judged.originals) if i < j]
    return {_DOUBTFUL: found} if found else {}


def _same(one: str, other: str) -> str:
    """Two copies, without the folders above their set: records are published."""
    return " = ".join("/".join(Path(file).parts[-_SHOWN:]) for file in (one, other))


def split_public(public: FaceSet, rng: Rng) -> tuple[FaceSet, FaceSet]:
    """Splits public faces into two halves (defender's, attacker's) of similar size that share no person.

    If identities are unknown, each image counts as a person.
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
    """Checks that no two sets share a person (or an image, if identities are unknown) or a photograph.

    Raises:
        UserError: they do; names the sets and some of the people, or two files.
    """
    for (one, first), (other, second) in combinations(sets.items(), 2):
        shared = set(first.names) & set(second.names)
        if first.subjects is not None and second.subjects is not None:
            shared |= set(first.subjects) & set(second.subjects)
        if shared:
            some = ", ".join(sorted(shared)[:3])
            raise UserError(
                f"the {one} and {other} faces share {len(shared)} people or images ({some}, ...): {_WORTHLESS}"
            )
        if first.originals is None or second.originals is None:
            continue
        twice = copies(first.originals, second.originals)
        if twice:
            i, j = twice[0]
            count = len({copied for _, copied in twice})
            copy = f"{second.originals.files[j]} is a copy of {first.originals.files[i]}"
            raise UserError(
                f"the {one} and {other} faces share {count} photographs under other names ({copy}): "
                f"{_WORTHLESS}, or remove the copies"
            )


_WORTHLESS = "the result would be invalid; choose disjoint sets in [run] public_defender and public_attacker"
