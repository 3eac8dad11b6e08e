"""Computes the defender's artefacts: fitted states, templates and their embeddings."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import Defense, FaceSet, Pairs, Rng, State, System
from bench.contracts.oracle import client_alone
from bench.errors import NotApplicable
from bench.plan import Task
from bench.runner import artefacts
from bench.runner.batches import coupled_batches, halving, plain_batches, shared_pairs
from bench.runner.clock import Clock
from bench.runner.context import LoadedScene, RunContext
from bench.runner.noise import NoiseMeter
from bench.settings.controls import Control
from bench.storage.arrays import Rows, write_state
from bench.toolkit.fisher import van_trees
from bench.toolkit.progress import track

_BATCH = 50
_FLOOR_FACES = 16  #: public faces on which the information in templates is averaged


def make_identity(context: RunContext, task: Task, folder: Path) -> None:
    """Embeddings (N, D) of the unprotected pipeline, the reference for every defence's cosine."""
    loaded = context.loaded(task.scene)
    artefacts.write_identity(folder, _unprotected(context, loaded, loaded.test))


def make_attacker_identity(context: RunContext, task: Task, folder: Path) -> None:
    """Embeddings (N, D) of the attacker's public faces by the unprotected pipeline."""
    loaded = context.loaded(task.scene)
    artefacts.write_identity(folder, _unprotected(context, loaded, loaded.attacker))


def make_defender_identity(context: RunContext, task: Task, folder: Path) -> None:
    """Embeddings (N, D) of the defender's public faces by the unprotected pipeline."""
    loaded = context.loaded(task.scene)
    artefacts.write_identity(folder, _unprotected(context, loaded, loaded.defender))


def _unprotected(context: RunContext, loaded: LoadedScene, faces: FaceSet) -> NDArray[Any]:
    def embed(images: Tensor) -> NDArray[Any]:
        found: NDArray[Any] = loaded.network.embed(loaded.network.extract(images)).cpu().numpy()
        return found

    return _embedded(embed, faces, context.device)


def make_judge_identity(context: RunContext, task: Task, folder: Path) -> None:
    """Embeddings (N, D) of the test images by the judge, cut out as it wants them."""
    test = context.judged_faces(task.scene)
    artefacts.write_judged(folder, _embedded(context.judge(task.scene).embed, test, context.device), test.found)


def _embedded(embed: Callable[[Tensor], NDArray[Any]], faces: FaceSet, device: torch.device) -> NDArray[Any]:
    parts = []
    with torch.no_grad():
        for whole in track(plain_batches(len(faces)), "embedding faces", -(-len(faces) // _BATCH)):
            parts += [found for _, found in halving(lambda batch: embed(faces.batch(batch, device)), whole)]
    return np.concatenate(parts)


def make_defense_state(context: RunContext, task: Task, folder: Path) -> None:
    """Fits the defence on the defender's faces."""
    loaded = context.loaded(task.scene)
    plugin = context.settings.defenses[task.defense].at("fit")
    rng = context.rng(task.seed, "fit", type(plugin).__name__)
    write_state(folder, _timed(lambda: plugin.fit(loaded.network, loaded.defender, rng)))


def _timed(fit: Callable[[], State | None]) -> State | None:
    """What was learned, with the seconds that it took."""
    started = time.perf_counter()
    state = fit()
    return (
        None if state is None else replace(state, info={**state.info, "fit_s": round(time.perf_counter() - started, 2)})
    )


def make_surrogate_state(context: RunContext, task: Task, folder: Path) -> None:
    """Fits a copy of the defence on the attacker's faces, with access to the client's extractor only."""
    loaded = context.loaded(task.scene)
    plugin = context.settings.defenses[task.defense].at("fit")
    rng = context.rng(task.seed, "surrogate", type(plugin).__name__)
    write_state(folder, plugin.fit(client_alone(loaded.network), loaded.attacker, rng))


def make_server_state(context: RunContext, task: Task, folder: Path) -> None:
    """Trains the server's own part of the defence."""
    system = context.system(task, recognises=True)
    rng = context.rng(task.seed, "fit server", type(system.defense).__name__)
    faces = context.loaded(task.scene).defender
    write_state(folder, _timed(lambda: system.defense.fit_server(system, faces, rng)))


def batches_of(system: System, names: Sequence[str], rng: Rng, pairs: Pairs | None) -> list[NDArray[np.int64]]:
    """The batches in which images are protected."""
    size = system.defense.protect_batch
    return plain_batches(len(names)) if size is None else coupled_batches(len(names), size, rng, pairs)


def protect(
    system: System,
    images: Sequence[Tensor] | FaceSet,
    names: Sequence[str],
    rng: Rng,
    pairs: Pairs | None,
    clock: Clock | None = None,
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Yields (indices, features, templates) of each batch, in the batches that the defence requires.

    Args:
        clock: gets the seconds of `encode` and `protect`.
    """
    clock = clock or Clock(system.device)
    batches = batches_of(system, names, rng, pairs)

    def enrol(batch: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
        if isinstance(images, FaceSet):
            pixels = images.batch(batch, system.device)
        else:
            pixels = torch.stack([images[i] for i in batch]).to(system.device)
        with torch.no_grad():
            with clock.time("encode"):
                features = system.encode(pixels)
            with clock.time("protect"):
                templates = system.protect(features, rng.images([names[i] for i in batch]))
            return features, templates

    for whole in track(batches, f"protecting: {type(system.defense).__name__}", len(batches)):
        for batch, (features, templates) in halving(enrol, whole, splits=system.defense.protect_batch is None):
            yield batch, features, templates


def _disturb(
    context: RunContext, task: Task, system: System, control: Control
) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
    """Like `protect`, for a control: uses its defence's templates of the same images, in the same batches."""
    test, parent = context.loaded(task.scene).test, task.need("templates")
    assert parent is not None
    stored = artefacts.read_templates(context.ready(parent))
    rng = context.rng(task.seed, "protect", type(control.defense).__name__)
    other = context.rng(task.seed, "control", control.noise)
    for batch in batches_of(system, test.names, rng, context.loaded(task.scene).pairs):
        with torch.no_grad():
            features = system.encode(test.batch(batch, system.device))
            own = torch.from_numpy(stored[batch]).to(system.device, torch.float32)
            names = other.images([test.names[i] for i in batch])
            yield batch, features, control.instead(system.defense.reference(system, features), own, names)


def make_templates(context: RunContext, task: Task, folder: Path) -> None:
    """Protects every test image, streams the templates to disk and measures the noise that was added."""
    loaded = context.loaded(task.scene)
    system = context.system(task)
    noise, clock = NoiseMeter(), Clock(context.device)
    rng = context.rng(task.seed, "protect", type(system.defense).__name__)
    if isinstance(system.defense, Control):
        made = _disturb(context, task, system, system.defense)
    else:
        made = protect(system, loaded.test, loaded.test.names, rng, loaded.pairs, clock)
    dtype = np.dtype(system.defense.template_dtype)
    stored: Rows | None = None
    batches = []
    seconds = 0.0
    started = time.perf_counter()
    for batch, features, templates in made:
        seconds += time.perf_counter() - started
        if stored is None:
            shape = (len(loaded.test), *templates.shape[1:])
            stored = artefacts.create_templates(folder, dtype, shape)
        stored[batch] = templates.float().cpu().numpy()
        batches.append(batch)
        if system.defense.adds_noise:
            with torch.no_grad():
                noise.add(features, system.defense.reference(system, features), templates)
        started = time.perf_counter()
    assert stored is not None
    info = {
        "noise": noise.figures(),
        "template_bytes": _bytes(system.defense, stored),
        "encode_ms": clock.ms_each("encode", len(loaded.test)),
        "protect_ms": clock.ms_each("protect", len(loaded.test)),
        "protect_ms_per_image": round(1000 * seconds / len(loaded.test), 3),
        "pairs_sharing_a_batch": shared_pairs(batches, loaded.pairs, len(loaded.test))
        if system.defense.protect_batch is not None
        else 0,
        **_floor(context, task, system),
    }
    write_state(folder, State(info=info))


def _bytes(defense: Defense, stored: Rows) -> int:
    """The size of a stored template; values of fewer bits than their type's are packed."""
    if defense.value_bits is None:
        return stored.row_bytes
    return math.ceil(math.prod(stored.shape[1:]) * defense.value_bits / 8)


def _floor(context: RunContext, task: Task, system: System) -> dict[str, Any]:
    """The least mean squared error of any attacker, if the law of the noise is known (`Floor`)."""
    plugin, loaded = system.defense, context.loaded(task.scene)
    if type(plugin).noise_information is Defense.noise_information:
        return {}

    def features(images: Tensor) -> Tensor:
        return plugin.reference(system, system.encode(images))

    def weight(values: Tensor) -> Tensor:
        found = plugin.noise_information(system, values)
        assert found is not None
        return found

    with torch.no_grad():
        told = plugin.noise_information(system, features(loaded.defender.batch(slice(0, 1), system.device)))
    if told is None:
        return {}
    rng = context.rng(task.seed, "floor", type(plugin).__name__)
    try:
        found = van_trees(features, weight, loaded.defender, _FLOOR_FACES, rng, system.device)
    except NotApplicable:  # the recogniser has no gradients
        found = None
    return {} if found is None else {"floor": asdict(found)}


def make_embeddings(context: RunContext, task: Task, folder: Path) -> None:
    """Embeddings of the stored templates, and of probes as the client sends them, from the same server."""
    loaded = context.loaded(task.scene)
    rng = context.rng(task.seed, "probe", type(context.settings.defenses[task.defense]).__name__)
    templates_task = task.need("templates")
    assert templates_task is not None
    system = context.system(task, recognises=True)
    templates = artefacts.read_templates(context.ready(templates_task))

    def embed(batch: NDArray[np.int64]) -> tuple[NDArray[Any], NDArray[Any]]:
        values = torch.from_numpy(templates[batch]).to(context.device, torch.float32)
        names = rng.images([loaded.test.names[i] for i in batch])
        probes = system.embed(system.send(loaded.test.batch(batch, context.device), names))
        with clock.time("embed"):
            stored = system.embed(values)
        return stored.cpu().numpy(), probes.cpu().numpy()

    parts, clock = [], Clock(context.device)
    with torch.no_grad():
        for whole in track(plain_batches(len(loaded.test)), "embedding templates", -(-len(loaded.test) // _BATCH)):
            parts += [found for _, found in halving(embed, whole)]
    stored, probes = (np.concatenate(part) for part in zip(*parts, strict=True))
    artefacts.Embeddings(stored, probes).write(folder)
    write_state(folder, State(info={"embed_ms": clock.ms_each("embed", len(stored))}))
