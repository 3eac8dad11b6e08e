"""Decodes keyed templates to embeddings by what it learned from own people: from templates alone, or with their key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from attacks.exponent_one import ExponentOne
from attacks.key_inversion import KeyInversion
from attacks.slerp_inversion import SlerpInversion
from bench.contracts import InversionAttack, Key, KeyOracle, Knowledge, NotApplicable, OwnPeople, Rng, State
from bench.toolkit.template_learning import SetRecipe, learn_embeddings, learned_embeddings, numbers


@dataclass(frozen=True, kw_only=True)
class KeyDecoder(InversionAttack):
    """Learns the map from templates to embeddings on the records of own people: ridge regression and a small network.

    Without the victim's key, it enrols own faces in the attacked system and reads their records back. Where keys recur
    (everybody's, or a pool's), own records are under the keys of the victims, which need not be known. With `records`
    above 1 it steals so many templates of each person, from other applications, and decodes them as a set: what several
    keys of a pool say adds up.

    With the victim's key, the templates of own faces under own keys are inverted in closed form, by the inversion
    attack that fits the scheme, and the decoder learns what these miss. No network has to learn what a key does.

    Source: set attackers as in Idiap's biometric-template-leakage (deep sets, cosine and squared error). To start from
    a ridge regression and from closed forms is ours.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("biohash", {"keys": "pool", "pool": 1})
    required: ClassVar[float] = 0.5
    needs_key: ClassVar[bool] = False
    steals_auxiliary: ClassVar[bool] = True

    captures: int = 1  #: templates stolen per person, each from another application
    faces: int = 2000  #: maximum number of own faces
    own_keys: int = 32  #: number of own keys, with the victims' keys leaked
    search: bool = False  #: with the key: learn what the inversion attack misses after its iterations; takes longer
    recipe: SetRecipe = field(default_factory=SetRecipe)

    def __post_init__(self) -> None:
        if min(self.captures, self.own_keys) < 1 or self.faces < 4:
            raise ValueError("captures and own_keys must be at least 1, and faces at least 4")
        if self.captures > 1 and self.key == "leaked":
            raise ValueError("captures above 1 are for attacks without the victims' keys")

    @property
    def level(self) -> Knowledge:
        """Enrols own faces."""
        return Knowledge.ENROLMENT

    @property
    def records(self) -> int:
        """As `captures` says."""
        return self.captures

    def fit(self, oracle: KeyOracle, own: OwnPeople, rng: Rng) -> State:
        """Trains on own faces.

        Raises:
            NotApplicable: there are own faces of fewer than two people.
        """
        rows = range(min(len(own), self.faces))
        people, truth = [own.people[row] for row in rows], own.embeddings[: len(rows)]
        if self.key == "leaked":
            start = self._inverted(oracle, own, rows, rng)
            return learn_embeddings(start[:, None], truth, people, rng.child("learning"), self.recipe, start)
        return learn_embeddings(self._enrolled(oracle, own, rows), truth, people, rng.child("learning"), self.recipe)

    def _enrolled(self, oracle: KeyOracle, own: OwnPeople, rows: Sequence[int]) -> Tensor:
        """Own records as sets (N, R, F): of the face, then of another one of the person and of it in turn."""
        other = _another_face(own.people)
        parts = [numbers(oracle.enrol_own(rows).templates)]
        for number in range(self.captures - 1):
            shown = rows if number % 2 else [other[row] for row in rows]
            parts.append(numbers(oracle.enrol_own(shown, 2 + number, copy=number).templates))
        return torch.stack(parts, 1)

    def _inverted(self, oracle: KeyOracle, own: OwnPeople, rows: Sequence[int], rng: Rng) -> Tensor:
        """Inversions (N, D), of unit length, of own templates under own keys."""
        defense = oracle.defense
        keys = [oracle.own_key(number) for number in range(min(self.own_keys, len(rows)))]

        def key(number: int) -> Key:
            return keys[number % len(keys)]

        def one(number: int) -> Tensor:
            return own.embeddings[rows[number] : rows[number] + 1]

        def beside(number: int) -> Tensor | None:
            found = defense.auxiliary(one(number), key(number))
            return None if found is None else found[0]

        with torch.no_grad():
            made = torch.cat([defense.transform(one(number), key(number)) for number in range(len(rows))])
        trial = KeyOracle("leaked", defense, oracle.width, key, rng.child("trial"), auxiliary=beside)
        return self._start(trial, made, rng.child("start"))

    def _start(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """Embeddings (N, D), of unit length, by the first inversion that fits the scheme.

        Raises:
            NotApplicable: none fits.
        """
        hashes, smooth = KeyInversion(key="leaked"), ExponentOne(key="leaked")
        if not self.search:
            hashes, smooth = replace(hashes, newton=0, steps=0, starts=1), replace(smooth, steps=0)
        for attack in (SlerpInversion(key="leaked"), hashes, smooth):
            try:
                return functional.normalize(attack.invert(oracle, templates, rng).detach())
            except NotApplicable:
                continue
        raise NotApplicable(f"no inversion fits the templates of {type(oracle.defense).__name__}")

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """Decodes all templates at once."""
        if oracle.learned is None:
            raise ValueError("KeyDecoder has no trained state")
        if self.key == "leaked":
            start = self._start(oracle, templates, rng)
            return learned_embeddings(oracle.learned.tensors, start[:, None], start)
        further = [oracle.records(number) for number in range(len(templates))] if self.captures > 1 else []
        more = [numbers(part) for part in torch.stack(further, 1)] if further else []
        return learned_embeddings(oracle.learned.tensors, torch.stack([numbers(templates), *more], 1))


def _another_face(people: Sequence[str]) -> list[int]:
    """For each face, the next one of the same person; itself if there is no other."""
    every: dict[str, list[int]] = {}
    for row, person in enumerate(people):
        every.setdefault(person, []).append(row)
    return [every[p][(every[p].index(row) + 1) % len(every[p])] for row, p in enumerate(people)]
