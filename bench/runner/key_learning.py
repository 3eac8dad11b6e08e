"""Gives attacks on keyed templates what they may ask for, and trains those that learn."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts import Key, KeyedAttack, KeyedService, KeyOracle, OwnPeople, Rng, State, Stolen
from bench.plan import Task
from bench.runner import artefacts
from bench.runner.context import RunContext
from bench.runner.protector import KeyRing, application_name, beside, key_seed, keyed
from bench.storage.arrays import read_state, write_state


def make_key_attack_state(context: RunContext, task: Task, folder: Path) -> None:
    """Trains an attack on keyed templates on the attacker's own people."""
    attack = context.settings.attacks[task.attack]
    embeddings = task.need("attacker_identity")
    assert isinstance(attack, KeyedAttack) and embeddings is not None
    own = own_people(context, embeddings)
    oracle = KeyOracle(
        attack.knows, keyed(context, task.defense), own.embeddings.shape[1], _nobody,
        attack_rng(context, task, attack).child("learning"), level=attack.level, enrol=_Enrolment(context, task, own),
    )  # fmt: skip
    state = attack.fit(oracle, own, attack_rng(context, task, attack).child("fit"))
    if state is not None:
        state = State(state.tensors, {**state.info, "own faces": len(own), "queries": dict(oracle.queries)})
    write_state(folder, state)


def _nobody(number: int) -> Key:
    raise ValueError(f"fit() asked for the key of stolen template {number}, but nothing is stolen yet")


def own_people(context: RunContext, task: Task) -> OwnPeople:
    """The attacker's faces in which a face was found, from the artefact of their embeddings."""
    faces = context.loaded(task.scene).attacker
    rows = np.flatnonzero(faces.found)
    found = np.array(artefacts.read_identity(context.ready(task)), dtype=np.float32)[rows]
    people = faces.subjects or faces.names
    return OwnPeople(torch.from_numpy(found), tuple(people[row] for row in rows))


class _Enrolment:
    """Enrols own people in applications of the attacked system."""

    def __init__(self, context: RunContext, task: Task, own: OwnPeople) -> None:
        self.own, self.defense = own, keyed(context, task.defense)
        self.ring = KeyRing(self.defense, own.embeddings.shape[1], key_seed(context, task))

    def __call__(self, rows: Sequence[int], application: int, copy: int) -> Stolen:
        """As `bench.contracts.Enrol`; a person's key is drawn once."""
        made: dict[int, tuple[Tensor, Tensor | None]] = {}
        for row in sorted(set(rows), key=lambda row: self.own.people[row]):
            person, one = self.own.people[row], self.own.embeddings[row : row + 1]
            key = self.ring.key(application_name(application), f"own {person}", f"own {row}/{copy}")
            with torch.no_grad():
                made[row] = self.defense.transform(one, key)[0], beside(self.defense, one, key)
        parts = [part for part in (made[row][1] for row in rows) if part is not None]
        return Stolen(torch.stack([made[row][0] for row in rows]), torch.stack(parts) if parts else None)


def attack_rng(context: RunContext, task: Task, attack: KeyedAttack) -> Rng:
    """The source of an attack's randomness on one defence."""
    return context.rng(task.seed, "attack", type(attack).__name__, task.defense)


def width_of(context: RunContext, protected: Task) -> int:
    """The width of the embeddings behind templates."""
    state = read_state(context.ready(protected))
    assert state is not None
    return int(state.info["width"])


def oracle_of(
    context: RunContext,
    task: Task,
    attack: KeyedAttack,
    width: int,
    *,
    leaked: Callable[[int], Key] = _nobody,
    auxiliary: Callable[[int], Tensor | None] | None = None,
    records: Callable[[int], Tensor] | None = None,
    service: KeyedService | None = None,
) -> KeyOracle:
    """The oracle of an attack on stolen templates, with what it declared and with what it learned."""
    learned = task.need("key_attack_state")
    return KeyOracle(
        attack.knows, keyed(context, task.defense), width, leaked, attack_rng(context, task, attack).child("oracle"),
        attack.level, service, attack.shown,
        auxiliary=auxiliary if attack.steals_auxiliary else None,
        records=records if attack.records > 1 else None,
        learned=read_state(context.ready(learned)) if learned else None,
    )  # fmt: skip


def asked(oracle: KeyOracle) -> Mapping[str, Any]:
    """For the record: the queries, and the log of what it learned."""
    learned = {"learned": dict(oracle.learned.info)} if oracle.learned else {}
    return {"queries": dict(oracle.queries), **learned}
