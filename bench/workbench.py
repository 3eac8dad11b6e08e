"""Makes a plan's artefacts: loads faces and networks, fits, protects, embeds, attacks."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.batches import attacked_first, coupled_batches, plain_batches, shared_pairs
from bench.config import Settings
from bench.contracts import (
    Defense,
    Evaluation,
    FaceSet,
    Knowledge,
    Leak,
    Pairs,
    ReconstructionAttack,
    Rng,
    SplitNetwork,
    State,
    System,
    UserError,
)
from bench.datasets.disjoint import refuse_overlap, split_public
from bench.noise import NoiseMeter
from bench.oracle import Oracle
from bench.plan import Scene, Task, asks_server
from bench.precision import pick_device
from bench.progress import track
from bench.seeds import derive_seed
from bench.store import Store, read_array, read_state, write_arrays, write_state

_BATCH = 50


@dataclass(frozen=True, eq=False)
class Stage:
    """A scene, loaded: whom to judge, whose faces are public, and the network."""

    test: FaceSet
    pairs: Pairs
    defender: FaceSet
    attacker: FaceSet
    network: SplitNetwork


class Workbench:
    """What making and judging share: the store, and everything that is loaded once."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self._stages: dict[Scene, Stage] = {}
        self._systems: dict[tuple[str, ...], System] = {}

    @cached_property
    def device(self) -> torch.device:
        """Where everything is computed."""
        return pick_device(self.settings.run.device)

    # ------------------------------------------------------------------------------------------------- loading

    def stage(self, scene: Scene) -> Stage:
        """The scene's faces and network, loaded on first use.

        Raises:
            UserError: data or weights are missing or damaged, or sets that must be disjoint share a person.
        """
        if scene not in self._stages:
            self._stages[scene] = self._load(scene)
        return self._stages[scene]

    def _load(self, scene: Scene) -> Stage:
        run = self.settings.run
        recognizer = self.settings.recognizers[scene.recognizer]
        cache = Path(run.cache)
        evaluation = self.settings.datasets[scene.dataset].load(recognizer.alignment, cache)
        test, pairs = _first_images(evaluation, run.images)
        if not len(test):
            raise UserError(f"dataset {scene.dataset!r} has no verification pairs: it can only lend public faces")

        def public(lender: str) -> FaceSet:
            if lender == "rest":
                found = evaluation.public
            else:
                found = self.settings.public[lender].load(recognizer.alignment, cache).public
            if found is None or not len(found):
                setting = "run.public_defender and run.public_attacker"
                raise UserError(f"dataset {scene.dataset!r} leaves no public faces (asked {lender!r}): set {setting}")
            return found

        if run.public_defender == run.public_attacker:
            defender, attacker = split_public(public(run.public_defender), Rng(derive_seed("public faces")))
        else:
            defender, attacker = public(run.public_defender), public(run.public_attacker)
        refuse_overlap(test=test, defender=defender, attacker=attacker)
        if run.public_limit is not None:
            defender, attacker = (s.subset(range(min(len(s), run.public_limit))) for s in (defender, attacker))
        network = recognizer.load().to(self.device).eval().requires_grad_(False)
        return Stage(test, pairs, defender, attacker, network)

    def system(self, task: Task, recognises: bool = False) -> System:
        """The defended system as a task's needs have it; unfitted, it is enough for an attack that asks for no more.

        Args:
            recognises: the server embeds too, with what it trained for itself; otherwise settings that only matter
                there stand at their defaults, and two defences that store the same templates are one.
        """
        plugin = self.settings.defenses[task.defense]
        state, server = task.need("defense_state"), task.need("server_state")
        if not recognises:
            plugin = plugin.at("protect")
        keys = (task.scene.recognizer_key, *(need.key if need else "" for need in (state, server)))
        key = (*keys, task.defense if recognises else f"{type(plugin).__module__} {plugin!r}")
        if key not in self._systems:
            network = self.stage(task.scene).network
            learns = type(plugin).fit_server is not Defense.fit_server or "protect" in plugin.ignored
            self._systems[key] = System(
                recognizer=network,
                defense=plugin,
                state=plugin.prepare(network, read_state(self.ready(state))) if state else None,
                device=self.device,
                server=plugin.prepare_server(network, read_state(self.ready(server))) if server else None,
                templates_only=not recognises and learns,
            )
        return self._systems[key]

    def rng(self, seed: int, *names: object) -> Rng:
        """The source of randomness for a role, named."""
        return Rng(derive_seed(seed, *names))

    # -------------------------------------------------------------------------------------------------- making

    def ready(self, task: Task) -> Path:
        """The artefact's folder, whole.

        Raises:
            RuntimeError: it is not there: the executor makes needs first.
        """
        folder = self.store.get(task.kind, task.key)
        if folder is None:
            raise RuntimeError(f"{task.label}: wanted before it was made")
        return folder

    def make(self, task: Task) -> Path:
        """Makes an artefact whose needs are there."""
        makers = {
            "identity": self._identity,
            "defense_state": self._defense_state,
            "templates": self._templates,
            "server_state": self._server_state,
            "embeddings": self._embeddings,
            "attack_state": self._attack_state,
            "reconstruction": self._reconstruction,
            "presentation": self._presentation,
        }
        return self.store.make(task.kind, task.key, lambda folder: makers[task.kind](task, folder))

    def _identity(self, task: Task, folder: Path) -> None:
        """Embeddings of the unprotected pipeline, which every defence's cosine is measured in."""
        stage = self.stage(task.scene)
        write_arrays(folder, {"embeddings": self.clean_embeddings(stage.network, stage.test)})

    def clean_embeddings(self, network: SplitNetwork, faces: FaceSet) -> NDArray[np.float32]:
        """(N, D), of images through the recogniser alone."""
        parts = []
        with torch.no_grad():
            for batch in track(plain_batches(len(faces)), "embedding faces", -(-len(faces) // _BATCH)):
                parts.append(network.embed(network.extract(faces.batch(batch, self.device))).cpu().numpy())
        return np.concatenate(parts)

    def _defense_state(self, task: Task, folder: Path) -> None:
        stage = self.stage(task.scene)
        plugin = self.settings.defenses[task.defense].at("fit")
        rng = self.rng(task.seed, "fit", type(plugin).__name__)
        write_state(folder, plugin.fit(stage.network, stage.defender, rng))

    def _server_state(self, task: Task, folder: Path) -> None:
        system = self.system(task, recognises=True)
        rng = self.rng(task.seed, "fit server", type(system.defense).__name__)
        write_state(folder, system.defense.fit_server(system, self.stage(task.scene).defender, rng))

    def protect(
        self, system: System, images: Sequence[Tensor] | FaceSet, names: Sequence[str], rng: Rng, pairs: Pairs | None
    ) -> Iterator[tuple[NDArray[np.int64], Tensor, Tensor]]:
        """Yields (indices, features, templates) of each batch, in the batches that the defence asks for."""
        size = system.defense.protect_batch
        batches = plain_batches(len(names)) if size is None else coupled_batches(len(names), size, rng, pairs)
        for batch in track(batches, f"protecting: {type(system.defense).__name__}", len(batches)):
            if isinstance(images, FaceSet):
                pixels = images.batch(batch, self.device)
            else:
                pixels = torch.stack([images[i] for i in batch]).to(self.device)
            with torch.no_grad():
                features = system.encode(pixels)
                yield batch, features, system.protect(features, rng.images([names[i] for i in batch]))

    def _templates(self, task: Task, folder: Path) -> None:
        stage = self.stage(task.scene)
        system = self.system(task)
        noise = NoiseMeter()
        rng = self.rng(task.seed, "protect", type(system.defense).__name__)
        dtype = np.dtype(system.defense.template_dtype)
        stored: np.memmap[Any, Any] | None = None
        batches = []
        seconds = 0.0
        started = time.perf_counter()
        for batch, features, templates in self.protect(system, stage.test, stage.test.names, rng, stage.pairs):
            seconds += time.perf_counter() - started
            if stored is None:
                shape = (len(stage.test), *templates.shape[1:])
                stored = np.lib.format.open_memmap(folder / "templates.npy", mode="w+", dtype=dtype, shape=shape)
            stored[batch] = templates.float().cpu().numpy()
            batches.append(batch)
            with torch.no_grad():
                noise.add(features, system.defense.reference(system, features), templates)
            started = time.perf_counter()
        assert stored is not None
        stored.flush()
        info = {
            "noise": noise.figures(),
            "template_bytes": int(stored[0].nbytes),
            "protect_ms_per_image": round(1000 * seconds / len(stage.test), 3),
            "pairs_sharing_a_batch": shared_pairs(batches, stage.pairs, len(stage.test))
            if system.defense.protect_batch is not None
            else 0,
        }
        write_state(folder, State(info=info))

    def _embeddings(self, task: Task, folder: Path) -> None:
        """Embeddings of the stored templates, and of unprotected probes through the same server."""
        stage = self.stage(task.scene)
        templates_task = task.need("templates")
        assert templates_task is not None
        system = self.system(task, recognises=True)
        templates = read_array(self.ready(templates_task), "templates")
        stored, probes = [], []
        with torch.no_grad():
            for batch in track(plain_batches(len(stage.test)), "embedding templates", -(-len(stage.test) // _BATCH)):
                stored.append(system.embed(self._tensor(templates[batch])).cpu().numpy())
                probes.append(system.embed(system.encode(stage.test.batch(batch, self.device))).cpu().numpy())
        write_arrays(folder, {"stored": np.concatenate(stored), "probes": np.concatenate(probes)})

    def _tensor(self, values: NDArray[Any]) -> Tensor:
        """Stored values as float32, whatever they are stored in."""
        return torch.from_numpy(values).to(self.device, torch.float32)

    def _attack(self, task: Task) -> ReconstructionAttack:
        attack = self.settings.attacks[task.attack]
        assert isinstance(attack, ReconstructionAttack)
        return attack

    def _attack_state(self, task: Task, folder: Path) -> None:
        stage = self.stage(task.scene)
        attack = self._attack(task)
        # Without the defence's state among its needs the attack cannot ask for it: any defence that shares E serves.
        system = self.system(task, asks_server(attack))
        rng = self.rng(task.seed, "attack", type(attack).__name__)
        oracle = Oracle(attack.level, system, rng.child("oracle"))
        state = attack.fit(oracle, stage.attacker, rng.child("fit"))
        if state is not None:
            state = State(state.tensors, {**state.info, "queries": dict(oracle.queries)})
        write_state(folder, state)

    def _reconstruction(self, task: Task, folder: Path) -> None:
        stage = self.stage(task.scene)
        attack = self._attack(task)
        fitted, leaked = task.need("attack_state"), task.needs[0]
        assert fitted is not None
        values = read_array(self.ready(leaked), "templates" if leaked.kind == "templates" else "stored")
        system = self.system(task, asks_server(attack))
        rng = self.rng(task.seed, "attack", type(attack).__name__, type(system.defense).__name__)
        stored = None
        if attack.level >= Knowledge.ENROLMENT and leaked.kind == "embeddings":
            stored = torch.from_numpy(np.array(values))
        oracle = Oracle(attack.level, system, rng.child("oracle"), stored)
        prepared = attack.prepare(oracle, read_state(self.ready(fitted)))
        test = stage.test
        rows = np.sort(attacked_first(stage.pairs, len(test))[: attack.subset(system.defense)])
        np.save(folder / "rows.npy", rows)
        # Half precision keeps 80 dB, and the judge sees exactly what is stored.
        images = np.lib.format.open_memmap(
            folder / "images.npy", mode="w+", dtype=np.float16, shape=(len(rows), 3, *test.image_size)
        )
        batches = plain_batches(len(rows))
        clamped = 0
        for place in track(batches, f"attacking: {task.defense} x {task.attack}", len(batches)):
            batch = rows[place]
            names = [test.names[i] for i in batch]
            subjects = () if test.subjects is None else tuple(test.subjects[i] for i in batch)
            leak = Leak(self._tensor(values[batch]), subjects)
            made = attack.reconstruct(oracle, prepared, leak, rng.images(names))
            wanted = (len(batch), 3, *test.image_size)
            if tuple(made.shape) != wanted:
                raise ValueError(f"{task.attack} returned images of shape {tuple(made.shape)}, not {wanted}")
            if not torch.isfinite(made).all():
                raise ValueError(f"{task.attack} returned values that are not finite")
            clamped += int(((made < 0) | (made > 1)).sum())
            images[place] = made.detach().clamp(0, 1).cpu().numpy()
        images.flush()
        info = {"images": len(rows), "clamped_values": clamped, "queries": dict(oracle.queries), **oracle.reported}
        write_state(folder, State(info=info))

    def _presentation(self, task: Task, folder: Path) -> None:
        """Embeddings (N, D) of reconstructions that passed the whole defended pipeline, as a login would.

        Only the left images of genuine pairs are ever presented; the other rows stay zero. `rows` says which were.
        """
        stage = self.stage(task.scene)
        made = task.need("reconstruction")
        assert made is not None
        images = read_array(self.ready(made), "images")
        system = self.system(task, recognises=True)
        rows = read_array(self.ready(made), "rows")
        chosen = np.intersect1d(stage.pairs.left[stage.pairs.genuine], rows)
        place = {int(row): index for index, row in enumerate(rows)}
        rebuilt = [torch.from_numpy(np.array(images[place[int(i)]], dtype=np.float32)) for i in chosen]
        names = [stage.test.names[i] for i in chosen]
        rng = self.rng(task.seed, "replay", task.defense, task.attack)
        found: NDArray[np.float32] | None = None
        for batch, _, templates in self.protect(system, rebuilt, names, rng, None):
            with torch.no_grad():
                embeddings = system.embed(templates).cpu().numpy()
            if found is None:
                found = np.zeros((len(stage.test), embeddings.shape[1]), dtype=np.float32)
            found[chosen[batch]] = embeddings
        if found is None:
            raise ValueError("the protocol has no genuine pairs to replay")
        write_arrays(folder, {"embeddings": found, "rows": chosen})


def _first_images(evaluation: Evaluation, limit: int | None) -> tuple[FaceSet, Pairs]:
    """The pairs whose images are among the first `limit`, and those images; everything if there is no limit."""
    test, pairs = evaluation.test, evaluation.pairs
    if limit is None or limit >= len(test):
        return test, pairs
    kept = (pairs.left < limit) & (pairs.right < limit)
    if not kept.any():
        raise UserError(f"run.images = {limit} leaves no verification pair; ask for more images")
    return test.subset(range(limit)), Pairs(
        left=pairs.left[kept], right=pairs.right[kept], genuine=pairs.genuine[kept], fold=pairs.fold[kept]
    )
