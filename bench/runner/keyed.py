"""Computes the artefacts of keyed defences: keys, templates of two applications, comparisons, and attacks on them.

It exceeds 300 lines because all of these share one protector, which holds the keys.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.contracts import (
    CrossmatchAttack,
    InversionAttack,
    Key,
    KeyedDefense,
    KeyOracle,
    Pairs,
    Rng,
    State,
)
from bench.plan import Task
from bench.runner import artefacts
from bench.runner.attacking import gallery_of
from bench.runner.context import LoadedScene, RunContext
from bench.runner.keyed_service import FIRST, SECOND, running_service
from bench.storage.arrays import write_state
from bench.toolkit.progress import track

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
        self.ring = KeyRing(self.defense, found.shape[1], _seed(context, task))
        self.seconds, self.made = 0.0, 0
        self.comparing, self.compared = 0.0, 0

    def key(self, application: str, row: int) -> Key:
        """The key of a test image's person or record."""
        return self.ring.key(application, *_holder(self.loaded, row))

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

    def probes(self, rows: NDArray[np.int64] | list[int], key: Key) -> Tensor:
        """What test images present at a login under one key."""
        return self.presented(self.embeddings[rows], key)

    def presented(self, embeddings: Tensor, key: Key) -> Tensor:
        """What a client presents at a login for embeddings (B, D)."""
        with torch.no_grad():
            return self.defense.probe(embeddings, key)

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


def keyed(context: RunContext, label: str) -> KeyedDefense:
    """The keyed defence with this label."""
    defense = context.settings.defenses[label]
    assert isinstance(defense, KeyedDefense)
    return defense


def _seed(context: RunContext, task: Task) -> Rng:
    return context.rng(task.seed, "keys", type(context.settings.defenses[task.defense]).__name__)


def _holder(loaded: LoadedScene, row: int) -> tuple[str, str]:
    """(person, record) of a test image."""
    name = loaded.test.names[row]
    return (loaded.test.subjects[row] if loaded.test.subjects else name), name


def make_protected(context: RunContext, task: Task, folder: Path) -> None:
    """Enrols one image per person in each of two applications, and compares probes with what the first one stores.

    In the first application, the left image of one genuine pair per person is stored; the right one is stored in the
    second.
    """
    own = Protector(context, task)
    test, pairs = own.loaded.test, own.loaded.pairs
    targets, gallery = two_records(own.loaded)
    scores, stored = _compared(own, pairs, targets, gallery)
    first = torch.stack([stored[int(row)] for row in targets])
    second = torch.cat([own.templates([int(row)], own.key(SECOND, int(row))) for row in gallery])
    scores["replay"] = np.array(
        [_replayed(own, int(row), template) for row, template in zip(targets, first, strict=True)]
    )
    plain = _unprotected(own.embeddings.double().numpy(), pairs, targets, gallery)
    artefacts.Protected(first.cpu().numpy(), second.cpu().numpy(), targets, gallery, {**scores, **plain}).write(folder)
    info = {
        "template_bytes": _bytes(first[0]),
        "protect_ms": round(1000 * own.seconds / own.made, 4),
        "key_ms": round(1000 * own.ring.seconds / max(1, own.ring.drawn), 4),
        "compare_ms": round(1000 * own.comparing / max(1, own.compared), 4),
        **({"score_error": _error(scores, plain)} if own.defense.keeps_scores else {}),
        "keys": own.defense.keys,
        "width": own.embeddings.shape[1],
        "people": len(targets),
        "images": len(test),
    }
    write_state(folder, State(info=info))


def _replayed(own: Protector, row: int, template: Tensor) -> float:
    """The score of a stored template sent in place of a probe; -inf where it has not the form of one."""
    key = own.key(FIRST, row)
    probe = own.probes([row], key)[0]
    if template.shape != probe.shape or template.dtype != probe.dtype:
        return -np.inf
    return float(own.against(template, template[None], key)[0])


def _compared(
    own: Protector, pairs: Pairs, targets: NDArray[np.int64], gallery: NDArray[np.int64]
) -> tuple[dict[str, NDArray[Any]], dict[int, Tensor]]:
    """Scores of the protocol's pairs and of all targets with all gallery images, and the templates stored, by image.

    A genuine probe has the key of the claimed identity. An impostor's has the impostor's own (`normal`), or that of the
    claimed identity (`stolen`).
    """
    probing = np.unique(np.concatenate([gallery, pairs.right]))
    brought = {row: own.probes([row], own.key(FIRST, row))[0] for row in _by_person(own.loaded, probing)}
    place = {int(row): index for index, row in enumerate(targets)}
    found: dict[str, NDArray[Any]] = {name: np.zeros((len(targets), len(gallery))) for name in ("normal", "stolen")}
    found |= {f"{name}_pairs": np.zeros(len(pairs)) for name in ("normal", "stolen")}
    stored: dict[int, Tensor] = {}
    claimed = np.unique(np.concatenate([targets, pairs.left]))
    for row in track(_by_person(own.loaded, claimed), f"protecting {len(claimed)} records", len(claimed)):
        with_pairs = np.flatnonzero(pairs.left == row)
        probes = np.concatenate([pairs.right[with_pairs], gallery if row in place else gallery[:0]])
        key = own.key(FIRST, row)
        stored[row] = own.templates([row], key)[0]
        stolen = own.against(stored[row], own.probes(probes, key), key)
        normal = own.against(stored[row], torch.stack([brought[int(probe)] for probe in probes]), key)
        person = _holder(own.loaded, row)[0]
        same = np.array([_holder(own.loaded, int(probe))[0] == person for probe in probes])
        normal = np.where(same, stolen, normal)
        for name, scores in (("normal", normal), ("stolen", stolen)):
            found[f"{name}_pairs"][with_pairs] = scores[: len(with_pairs)]
            if row in place:
                found[name][place[row]] = scores[len(with_pairs) :]
    return found, stored


def two_records(loaded: LoadedScene) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(targets, gallery): the two images of one genuine pair per person, where a face was found in both.

    Raises:
        ValueError: there are fewer than two such people.
    """
    targets, gallery = gallery_of(loaded.pairs, loaded.test)
    usable = loaded.test.found[targets] & loaded.test.found[gallery]
    if usable.sum() < 2:
        raise ValueError("a keyed defence needs genuine pairs of two people or more")
    return targets[usable], gallery[usable]


def _by_person(loaded: LoadedScene, rows: NDArray[np.int64]) -> list[int]:
    """The rows in an order in which a person's key is drawn once."""
    return sorted(map(int, rows), key=lambda row: _holder(loaded, row))


def _unprotected(
    embeddings: NDArray[np.float64], pairs: Pairs, targets: NDArray[np.int64], gallery: NDArray[np.int64]
) -> dict[str, NDArray[Any]]:
    """The same comparisons of embeddings by their cosine."""
    return {
        "plain_pairs": (embeddings[pairs.left] * embeddings[pairs.right]).sum(1),
        "plain": embeddings[targets] @ embeddings[gallery].T,
    }


def _error(scores: dict[str, NDArray[Any]], plain: dict[str, NDArray[Any]]) -> float:
    """The largest error of a score where the probe has the claimed identity's key."""
    parts = (np.abs(scores[f"stolen{end}"] - plain[f"plain{end}"]).max(initial=0.0) for end in ("", "_pairs"))
    return float(f"{max(parts):.2g}")


def _bytes(template: Tensor) -> int:
    """Bytes of a stored template; bits count as packed."""
    return -(-template.numel() // 8) if template.dtype == torch.bool else template.numel() * template.element_size()


def make_crossmatch(context: RunContext, task: Task, folder: Path) -> None:
    """Scores all templates of one application against all of another: with the scheme's own score, or an attack's."""
    protected = task.need("protected")
    assert protected is not None
    found = artefacts.Protected.read(context.ready(protected))
    first, second = (torch.from_numpy(np.array(part)) for part in (found.first, found.second))
    defense = keyed(context, task.defense)
    if task.attack:
        attack = context.settings.attacks[task.attack]
        assert isinstance(attack, CrossmatchAttack)
        with torch.no_grad():
            made = attack.score(defense, first, second)
        if tuple(made.shape) != (len(first), len(second)) or not torch.isfinite(made).all():
            raise ValueError(f"{task.attack} returned scores {tuple(made.shape)}, or some that are not finite")
        scores = made.double().cpu().numpy()
    else:
        scores = np.stack([scored(defense, one.expand(len(second), *one.shape), second) for one in first])
    artefacts.Linkage(scores, found.targets, found.gallery).write(folder)
    write_state(folder, None)


def shown_as_probes(own: Protector, found: artefacts.Protected, embeddings: Tensor) -> NDArray[np.float64]:
    """Scores (3, T) of embeddings (T, D) that log in as the first T people, each with that person's key.

    Against the stolen template; against one of the person's other image, under the same key; and against what the
    second application stores, under its key, as after the first one was renewed.
    """
    shown = np.zeros((3, len(embeddings)))
    for number, probe in enumerate(embeddings[:, None]):
        target, other = int(found.targets[number]), int(found.gallery[number])
        key, renewed = own.key(FIRST, target), own.key(SECOND, other)
        stored, again = (torch.from_numpy(np.array(part[number])) for part in (found.first, found.second))
        old, new = own.presented(probe, key), own.presented(probe, renewed)
        pairs = ((stored, old, key), (own.templates([other], key)[0], old, key), (again, new, renewed))
        shown[:, number] = [own.against(*pair)[0] for pair in pairs]
    return shown


def make_inversion(context: RunContext, task: Task, folder: Path) -> None:
    """Recovers embeddings from the first application's templates, and presents them to it as probes.

    `run.images` limits their number, as it does that of reconstructions.
    """
    protected = task.need("protected")
    attack = context.settings.attacks[task.attack]
    assert protected is not None and isinstance(attack, InversionAttack)
    own = Protector(context, task)
    found = artefacts.Protected.read(context.ready(protected))
    stored = torch.from_numpy(np.array(found.first[: context.settings.run.images]))
    width = own.embeddings.shape[1]

    def leaked(number: int) -> Key:
        return own.key(FIRST, int(found.targets[number]))

    rng = context.rng(task.seed, "attack", type(attack).__name__, task.defense)
    service = running_service(context, task, own, stored, found.targets) if attack.needs_service else None
    oracle = KeyOracle(
        attack.knows, own.defense, width, leaked, rng.child("oracle"), attack.level, service, attack.shown
    )
    began = time.perf_counter()
    made = attack.invert(oracle, stored, rng.child("invert")).detach().float()
    seconds = time.perf_counter() - began
    if tuple(made.shape) != (len(stored), width) or not torch.isfinite(made).all():
        raise ValueError(f"{task.attack} returned embeddings {tuple(made.shape)}, or some that are not finite")
    made = functional.normalize(made)
    artefacts.write_inversion(folder, made.cpu().numpy(), shown_as_probes(own, found, made))
    info = {"queries": dict(oracle.queries), "ms_per_template": round(1000 * seconds / len(stored), 3)}
    write_state(folder, State(info=info))
