"""Canaries of attacks on keyed templates: defences that they must break, and some that tell them nothing."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor

from bench import labels
from bench.contracts import Attack, Defense, InversionAttack, Key, KeyedAttack, KeyedDefense, Rng

_SEALED = "sealed"


@dataclass(frozen=True, kw_only=True)
class Sealed(KeyedDefense):
    """A keyed system known to be safe: signs of Haar-distributed projections, with a fresh key for each record.

    For unit embeddings these bits are independent of the person, so an attacker without keys learns nothing from any
    number of them.
    """

    keys: Literal["subject", "record", "system", "pool"] = "record"

    def draw_key(self, rng: Rng, width: int) -> Key:
        """(D, D) orthonormal columns."""
        return {"projection": rng.orthonormal(width, width)}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Bits (B, D)."""
        return embeddings @ key["projection"] > 0

    def margins(self, embeddings: Tensor, template: Tensor, key: Key) -> Tensor:
        """The projections, on the sides that the bits say."""
        return embeddings @ key["projection"] * (2.0 * template.float() - 1)


def keyed_canaries(attacks: Sequence[Attack], find: Callable[[str], type[Any]]) -> dict[str, Defense]:
    """The canaries of attacks on keyed templates, by label: `sealed`, and the defences that the attacks must break.

    Args:
        find: the class of a defence by its name.
    """
    keyed = [attack for attack in attacks if isinstance(attack, KeyedAttack)]
    broken = {_broken(a): a.breaks for a in keyed if a.breaks is not None and keyed_canary_faces(_broken(a), a)}
    sealed: dict[str, Defense] = {_SEALED: Sealed()} if any(keyed_canary_faces(_SEALED, a) for a in keyed) else {}
    for attack in keyed:
        if attack.sealed is not None and keyed_canary_faces(_sealed(attack), attack):
            name, parameters = attack.sealed
            sealed[_sealed(attack)] = find(name)(**parameters)
    made = {kind: find(name)(**parameters) for kind, (name, parameters) in broken.items()}
    return {labels.canary(kind): defense for kind, defense in {**made, **sealed}.items()}


def keyed_canary_faces(kind: str, attack: KeyedAttack) -> bool:
    """Whether an attack is tested on this canary: with what it needs on what it must break, without keys on a safe one.

    An inversion attack without the victim's key is only tested on `sealed`, unless it declares that it needs none.
    """
    if kind.startswith(_SEALED):
        return kind == _sealed(attack) and attack.knows != "leaked" and not attack.logs_in
    helpless = isinstance(attack, InversionAttack) and attack.needs_key and attack.knows == "own"
    return kind == _broken(attack) and not helpless


def _sealed(attack: KeyedAttack) -> str:
    return f"{_SEALED}_{labels.swept(*attack.sealed)}" if attack.sealed else _SEALED


def _broken(attack: KeyedAttack) -> str:
    return labels.swept(*attack.breaks) if attack.breaks else ""
