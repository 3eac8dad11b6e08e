"""Protects embeddings under keys: who holds which key, and templates, auxiliary data and probes of test images."""

from __future__ import annotations

import time

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import Key, KeyedDefense, Rng
from bench.plan import Task
from bench.runner import artefacts
from bench.runner.context import LoadedScene, RunContext
from bench.runner.keyed_service import FIRST, SECOND

_KEPT = 4  #: keys in memory


class KeyRing:
    """Every key of a defence, drawn when it is asked for from a seed that names its holder."""

    def __init__(self, defense: KeyedDefense, width: int, rng: Rng) -> None:
        self.defense, self.width, self.rng = defense, width, rng
        self._drawn: dict[tuple[str, ...], Key] = {}
        self.seconds = 0.0  #: spent on drawing keys
        self.drawn = 0

    def key(self, application: str, person: str, record: str) -> Key:
        """The key under which an application protects a record of a person."""
        scope = self.defense.keys
        if scope == "pool":
            seed = self.rng.child("whose", application, record).seed
            return self._of("pool", str(seed % self.defense.pool))
        holder = {"system": (), "subject": (person,), "record": (person, record)}[scope]
        return self._of(application, *holder)

    def _of(self, *holder: str) -> Key:
        if holder not in self._drawn:
            while len(self._drawn) >= _KEPT:
                del self._drawn[next(iter(self._drawn))]
            began = time.perf_counter()
            self._drawn[holder] = self.defense.draw_key(self.rng.child(*holder), self.width)
            self.seconds += time.perf_counter() - began
            self.drawn += 1
        return self._drawn[holder]


class Protector:
    """One keyed defence on the test images of a scene."""

    def __init__(self, context: RunContext, task: Task) -> None:
        self.context, self.loaded = context, context.loaded(task.scene)
        self.defense = keyed(context, task.defense)
        identity = task.need("identity")
        assert identity is not None
        found = np.array(artefacts.read_identity(context.ready(identity)), dtype=np.float32)
        self.embeddings = torch.from_numpy(found)
        self.ring = KeyRing(self.defense, found.shape[1], key_seed(context, task))
        self.seconds, self.made = 0.0, 0
        self.comparing, self.compared = 0.0, 0

    def key(self, application: str, row: int) -> Key:
        """The key of a test image's person or record."""
        return self.ring.key(application, *holder(self.loaded, row))

    def templates(self, rows: NDArray[np.int64] | list[int], key: Key) -> Tensor:
        """Templates of test images under one key.

        Raises:
            ValueError: the defence returned another number of them, or values that are not finite.
        """
        began = time.perf_counter()
        with torch.no_grad():
            found = self.defense.transform(self.embeddings[rows], key)
        self.seconds, self.made = self.seconds + time.perf_counter() - began, self.made + len(found)
        if len(found) != len(rows) or not torch.isfinite(found).all():
            raise ValueError(f"{len(rows)} embeddings became templates {tuple(found.shape)}, or some are not finite")
        return found

    def auxiliary(self, row: int, key: Key) -> Tensor | None:
        """What is stored beside a test image's template, (...); None if nothing.

        Raises:
            ValueError: the defence returned values that are not finite, or not one row.
        """
        return beside(self.defense, self.embeddings[row : row + 1], key)

    def probes(self, rows: NDArray[np.int64] | list[int], key: Key, auxiliary: Tensor | None = None) -> Tensor:
        """What test images present at a login to a record with this key and auxiliary data."""
        return self.presented(self.embeddings[rows], key, auxiliary)

    def presented(self, embeddings: Tensor, key: Key, auxiliary: Tensor | None = None) -> Tensor:
        """What a client presents at a login for embeddings (B, D).

        Raises:
            ValueError: the defence returned another number of probes.
        """
        with torch.no_grad():
            found = self.defense.probe_beside(embeddings, key, auxiliary)
        if len(found) != len(embeddings):
            raise ValueError(f"{len(embeddings)} embeddings became probes {tuple(found.shape)}")
        return found

    def against(self, stored: Tensor, probes: Tensor, key: Key) -> NDArray[np.float64]:
        """Scores (B,) of one stored template, under this key, against protected probes (B, ...)."""
        began = time.perf_counter()
        found = scored(self.defense, stored.expand(len(probes), *stored.shape), probes, key)
        self.comparing, self.compared = self.comparing + time.perf_counter() - began, self.compared + len(found)
        return found


def scored(defense: KeyedDefense, stored: Tensor, probes: Tensor, key: Key | None = None) -> NDArray[np.float64]:
    """Scores (B,) of stored templates with probes, row by row; without the key, of templates under different keys.

    Raises:
        ValueError: the defence returned another shape, or scores that are not finite.
    """
    with torch.no_grad():
        found = defense.score(stored, probes) if key is None else defense.compare(stored, probes, key)
    if tuple(found.shape) != (len(probes),) or not torch.isfinite(found).all():
        raise ValueError(f"score returned {tuple(found.shape)} for {len(probes)} pairs, or some that are not finite")
    return np.asarray(found.double().cpu().numpy())


def beside(defense: KeyedDefense, embedding: Tensor, key: Key) -> Tensor | None:
    """The auxiliary data (...) of one embedding (1, D); None if the defence stores none.

    Raises:
        ValueError: the defence returned values that are not finite, or not one row.
    """
    with torch.no_grad():
        found = defense.auxiliary(embedding, key)
    if found is None:
        return None
    if len(found) != 1 or not torch.isfinite(found).all():
        raise ValueError(f"auxiliary data of one embedding are {tuple(found.shape)}, or some are not finite")
    return found[0]


def application_name(number: int) -> str:
    """The name of an application, from which its keys are drawn; 0: the attacked one."""
    return (FIRST, SECOND)[number] if number < 2 else f"other {number}"


def keyed(context: RunContext, label: str) -> KeyedDefense:
    """The keyed defence with this label."""
    defense = context.settings.defenses[label]
    assert isinstance(defense, KeyedDefense)
    return defense


def key_seed(context: RunContext, task: Task) -> Rng:
    """The source of a defence's keys, on judged and on own people."""
    return context.rng(task.seed, "keys", type(context.settings.defenses[task.defense]).__name__)


def holder(loaded: LoadedScene, row: int) -> tuple[str, str]:
    """(person, record) of a test image."""
    name = loaded.test.names[row]
    return (loaded.test.subjects[row] if loaded.test.subjects else name), name
