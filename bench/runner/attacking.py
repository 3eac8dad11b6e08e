"""Computes the attacker's artefacts: trained attacks, reconstructions and presented templates."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import (
    Attack,
    FaceSet,
    ImageRng,
    Knowledge,
    Leak,
    LinkageAttack,
    Oracle,
    Pairs,
    ReconstructionAttack,
    Rng,
    State,
    System,
    TraitAttack,
)
from bench.plan import Task, images_of
from bench.runner import artefacts
from bench.runner.batches import attacked_first, halving, plain_batches
from bench.runner.context import RunContext
from bench.runner.defending import protect
from bench.runner.parts import guesses, in_all, parts_of
from bench.runner.traits import answered, questions
from bench.storage.arrays import Rows, read_state, write_state
from bench.toolkit.progress import track


def _attack(context: RunContext, task: Task) -> ReconstructionAttack | LinkageAttack | TraitAttack:
    attack = context.settings.attacks[task.attack]
    for _ in range(task.bases):
        attack = attack.base  # type: ignore[attr-defined]
    assert isinstance(attack, ReconstructionAttack | LinkageAttack | TraitAttack)
    return attack


def _oracle(
    context: RunContext, task: Task, attack: Attack, system: System, rng: Rng, stored: Tensor | None = None
) -> Oracle:
    copy = task.need("surrogate_state")
    surrogate = read_state(context.ready(copy)) if copy else None
    taken = stolen_values(context, task, attack)
    return Oracle(attack.level, system, rng.child("oracle"), stored, surrogate, taken, show=attack.shown)


def stolen_values(context: RunContext, task: Task, attack: Attack) -> Rows | None:
    """What `Oracle.stolen` reads: what the attack steals, of all test images; None if it does not ask."""
    if not attack.asks_stolen:
        return None
    if attack.leaks == "embedding":
        leaked, read = task.need("embeddings"), artefacts.read_stored_embeddings
    else:
        leaked, read = task.need("templates"), artefacts.read_templates
    assert leaked is not None
    return read(context.ready(leaked))


def make_attack_state(context: RunContext, task: Task, folder: Path) -> None:
    """Trains an attack on the attacker's faces."""
    loaded = context.loaded(task.scene)
    attack = _attack(context, task)
    # The attack can only use the defence's state if that is among its needs; otherwise any defence with the same E will
    # do.
    system = context.system(task, attack.depends_on_server)
    rng = context.rng(task.seed, "attack", type(attack).__name__)
    oracle = _oracle(context, task, attack, system, rng)
    base = task.need("attack_state")
    state: State | None
    if isinstance(attack, TraitAttack):
        state = attack.fit(oracle, answered(loaded.attacker, questions(loaded)), rng.child("fit"))
    elif base is not None:
        state = attack.adapt(oracle, loaded.attacker, rng.child("adapt"), read_state(context.ready(base)))
    else:
        state = attack.fit(oracle, loaded.attacker, rng.child("fit"))
    if state is not None:
        state = State(state.tensors, {**state.info, "queries": dict(oracle.queries)})
    write_state(folder, state)


def make_reconstruction(context: RunContext, task: Task, folder: Path) -> None:
    """Reconstructs images from stolen templates; stores them clamped, with the indices of their test images."""
    loaded = context.loaded(task.scene)
    attack = _attack(context, task)
    fitted, leaked = task.need("attack_state"), task.needs[0]
    assert isinstance(attack, ReconstructionAttack) and fitted is not None
    stolen_from = artefacts.read_templates if leaked.kind == "templates" else artefacts.read_stored_embeddings
    values = stolen_from(context.ready(leaked))
    system = context.system(task, attack.depends_on_server)
    rng = context.rng(task.seed, "attack", type(attack).__name__, type(system.defense).__name__)
    stored = None
    if attack.level >= Knowledge.ENROLMENT and leaked.kind == "embeddings":
        stored = torch.from_numpy(values[:])
    oracle = _oracle(context, task, attack, system, rng, stored)
    prepared = attack.prepare(oracle, read_state(context.ready(fitted)))
    test = loaded.test
    most = (images_of(context.settings, system.defense), attack.subset(system.defense))
    limits = [limit for limit in most if limit is not None]
    rows = np.sort(attacked_first(loaded.pairs, len(test))[: min(limits, default=len(test))])
    parts = parts_of(context, task)
    rows = in_all(parts, rows)
    images = artefacts.Reconstructions.create(folder, rows, test.image_size).images
    batches = plain_batches(len(rows))
    clamped = 0
    used = max(a.copies for a in (attack, *(context.settings.part(name) for name in attack.parts)))
    copies = used if system.defense.randomized else 1

    def rebuild(place: NDArray[np.int64]) -> Tensor:
        batch = rows[place]
        names = [test.names[i] for i in batch]
        subjects = () if test.subjects is None else tuple(test.subjects[i] for i in batch)
        stolen = torch.from_numpy(values[batch]).to(context.device, torch.float32)
        copies = attack.copies if system.defense.randomized else 1
        others = _others(system, test, batch, names, rng.child("copies"), copies)
        leak = Leak(stolen, subjects, tuple(batch.tolist()), others, guesses(parts, batch, context.device))
        return reconstructed(task.attack, attack, oracle, prepared, leak, rng.images(names), test.image_size)

    for whole in track(batches, f"attacking: {task.defense} x {task.attack}", len(batches)):
        for place, made in halving(rebuild, whole, splits=not attack.coupled):
            clamped += int(((made < 0) | (made > 1)).sum())
            images[place] = made.clamp(0, 1).numpy()
    info = {
        "images": len(rows),
        "copies": copies,
        "clamped_values": clamped,
        "queries": dict(oracle.queries),
        **oracle.reported,
    }
    write_state(folder, State(info=info))


def reconstructed(
    label: str,
    attack: ReconstructionAttack,
    oracle: Oracle,
    prepared: Any,
    leak: Leak,
    rng: ImageRng,
    size: tuple[int, int],
) -> Tensor:
    """The reconstructions (B, 3, H, W) of a batch, not clamped yet.

    Raises:
        ValueError: the attack returned another shape, or values that are not finite.
    """
    made = attack.reconstruct(oracle, prepared, leak, rng)
    wanted = (len(leak.values), 3, *size)
    if tuple(made.shape) != wanted:
        raise ValueError(f"{label} returned images of shape {tuple(made.shape)}, not {wanted}")
    if not torch.isfinite(made).all():
        raise ValueError(f"{label} returned values that are not finite")
    return made.detach().cpu()


def _others(
    system: System, test: FaceSet, batch: NDArray[Any], names: Sequence[str], rng: Rng, copies: int
) -> Iterator[Tensor]:
    """Further templates of the same images, each with its own randomness; computed on demand."""
    if copies < 2:
        return
    with torch.no_grad():
        features = system.encode(test.batch(batch, system.device))
        for number in range(1, copies):
            yield system.protect(features, rng.child(number).images(names))


def make_linkage(context: RunContext, task: Task, folder: Path) -> None:
    """Similarity (B, N) of each enrolled template to each probe of a gallery with one image per person.

    The stolen templates are the left images of genuine pairs, one per person. The gallery consists of their right
    images, which the attacker found together with a name. `targets` and `gallery` are the indices of these test images,
    row by row. An attack with `parts` links the images that these rebuilt.
    """
    loaded, parts = context.loaded(task.scene), parts_of(context, task)
    attack = context.settings.attacks[task.attack]
    assert isinstance(attack, LinkageAttack)
    targets, gallery = gallery_of(loaded.pairs, loaded.test, in_all(parts, np.arange(len(loaded.test))))
    fitted, leaked, embedded = task.need("attack_state"), task.need("templates"), task.need("embeddings")
    assert fitted is not None and leaked is not None and embedded is not None
    values = artefacts.read_templates(context.ready(leaked))
    stored = torch.from_numpy(artefacts.Embeddings.read(context.ready(embedded)).stored)
    rng = context.rng(task.seed, "attack", type(attack).__name__, task.defense)
    system, taken = context.system(task, recognises=True), stolen_values(context, task, attack)
    oracle = Oracle(attack.level, system, rng.child("oracle"), stored, None, taken, show=attack.shown)
    state = read_state(context.ready(fitted))
    faces, found = loaded.test.subset(gallery), []
    batches = plain_batches(len(targets))
    for place in track(batches, f"linking: {task.defense} x {task.attack}", len(batches)):
        batch = targets[place]
        stolen = torch.from_numpy(values[batch]).to(context.device, torch.float32)
        leak = Leak(stolen, rows=tuple(batch.tolist()), guesses=guesses(parts, batch, context.device))
        made = attack.score(oracle, state, leak, faces, rng.images([loaded.test.names[i] for i in batch]))
        if tuple(made.shape) != (len(batch), len(gallery)) or not torch.isfinite(made).all():
            raise ValueError(f"{task.attack} returned scores of shape {tuple(made.shape)}, or some that are not finite")
        found.append(made.detach().float().cpu().numpy())
    artefacts.Linkage(np.concatenate(found), targets, gallery).write(folder)
    write_state(folder, State(info={"queries": dict(oracle.queries)}))


def gallery_of(
    pairs: Pairs, test: FaceSet, attacked: NDArray[np.int64] | None = None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(targets, gallery): the two images of one genuine pair per person, in the order of the pairs.

    Args:
        attacked: the test images of which a target may be; None: all.
    """
    genuine = np.flatnonzero(pairs.genuine & (pairs.left != pairs.right))
    if attacked is not None:
        genuine = genuine[np.isin(pairs.left[genuine], attacked)]
    if not len(genuine):
        raise ValueError("the protocol has no genuine pairs to link")
    people = np.array(test.subjects or test.names, dtype=object)[pairs.left[genuine]]
    _, first = np.unique(people, return_index=True)
    chosen = genuine[np.sort(first)]
    return pairs.left[chosen], pairs.right[chosen]


def make_presentation(context: RunContext, task: Task, folder: Path) -> None:
    """Templates (M, C, h, w) of reconstructions, protected as at a login; `rows` says which test images they are of."""
    rows, made = _presented(context, task, context.system(task))
    templates: Rows | None = None
    for batch, shown in made:
        if templates is None:
            templates = artefacts.create_templates(folder, np.dtype(np.float32), (len(rows), *shown.shape[1:]))
        templates[batch] = shown.float().cpu().numpy()
    artefacts.write_rows(folder, rows)


def make_login(context: RunContext, task: Task, folder: Path) -> None:
    """Embeddings (N, D) of reconstructions that passed through the whole defended pipeline, as in a login.

    Only the left images of genuine pairs are presented; the other rows are zero. `rows` lists the presented images.
    """
    system = context.system(task, recognises=True)
    shown = task.need("presentation")
    if shown is None:
        rows, made = _presented(context, task, system)
    else:
        rows = artefacts.read_rows(context.ready(shown))
        stored = artefacts.read_templates(context.ready(shown))
        made = ((batch, torch.from_numpy(stored[batch]).to(context.device)) for batch in plain_batches(len(rows)))
    found: NDArray[np.float32] | None = None
    for batch, templates in made:
        with torch.no_grad():
            embeddings = system.embed(templates).cpu().numpy()
        if found is None:
            found = np.zeros((len(context.loaded(task.scene).test), embeddings.shape[1]), dtype=np.float32)
        found[rows[batch]] = embeddings
    assert found is not None
    artefacts.Login(found, rows).write(folder)


def _presented(
    context: RunContext, task: Task, system: System
) -> tuple[NDArray[np.int64], Iterator[tuple[NDArray[np.int64], Tensor]]]:
    """Yields (rows, (positions in rows, templates)) per batch, for reconstructed left images of genuine pairs."""
    loaded = context.loaded(task.scene)
    made = task.need("reconstruction")
    assert made is not None
    rebuilt = artefacts.Reconstructions.read(context.ready(made))
    rows = np.intersect1d(loaded.pairs.left[loaded.pairs.genuine], rebuilt.rows)
    if not len(rows):
        raise ValueError("no reconstruction is of a genuine pair's left image: there is nothing to replay")
    place = {int(row): index for index, row in enumerate(rebuilt.rows)}
    faces = [torch.from_numpy(rebuilt.images[place[int(i)]]).float() for i in rows]
    names = [loaded.test.names[i] for i in rows]
    rng = context.rng(task.seed, "replay", type(system.defense).__name__)
    return rows, ((batch, shown) for batch, _, shown in protect(system, faces, names, rng, None))
