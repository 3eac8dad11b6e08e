"""Shared state of making and judging: loaded faces and networks, defended systems, and access to the store."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from bench.contracts import Defense, Evaluation, FaceSet, Pairs, Rng, SplitNetwork, System
from bench.datasets.protocols import check_pairs
from bench.datasets.public_faces import REST, copies_among, judged_without_a_face
from bench.errors import UserError
from bench.plan import Scene, Task, left_out_people, public_sources
from bench.runner.second_recognizer import SecondRecognizer, crop_transform
from bench.seeds import derive_seed
from bench.settings.model import Settings
from bench.storage.arrays import read_state
from bench.storage.store import Store
from bench.toolkit.precision import pick_device


@dataclass(frozen=True, eq=False)
class LoadedScene:
    """A loaded scene: the faces to judge, the public faces and the network."""

    test: FaceSet
    pairs: Pairs
    defender: FaceSet
    attacker: FaceSet
    network: SplitNetwork
    notes: Mapping[str, Sequence[str]]  #: irregularities of the files, see `Evaluation.notes`


class RunContext:
    """Shared state of making and judging: the store, and everything that is loaded once."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self._loaded: dict[Scene, LoadedScene] = {}
        self._systems: dict[tuple[object, ...], System] = {}
        self._judges: dict[str, SecondRecognizer] = {}

    @cached_property
    def device(self) -> torch.device:
        """The device of all computations."""
        return pick_device(self.settings.run.device)

    # ------------------------------------------------------------------------------------------------- loading

    def loaded(self, scene: Scene) -> LoadedScene:
        """The scene's faces and network, loaded on first use.

        Raises:
            UserError: data or weights are missing or damaged, or sets that must be disjoint share a person.
        """
        if scene not in self._loaded:
            self._loaded[scene] = self._load(scene)
        return self._loaded[scene]

    def _load(self, scene: Scene) -> LoadedScene:
        run = self.settings.run
        recognizer = self.settings.recognizers[scene.recognizer]
        cache = Path(run.cache)
        evaluation = self.settings.datasets[scene.dataset].load(recognizer.alignment, cache)
        if not len(evaluation.pairs):
            raise UserError(f"dataset {scene.dataset!r} has no verification pairs: it can only supply public faces")
        where = f"dataset {scene.dataset!r}"
        notes = dict(evaluation.notes)
        notes.update(check_pairs(evaluation.pairs, where, lambda i: f"{where}: pair {i + 1}"))
        test, pairs = _fewer_pairs(evaluation, run.pairs)
        notes.update(copies_among(test) | judged_without_a_face(test))

        def public(source: str) -> FaceSet:
            if source == REST:
                found = evaluation.public
            else:
                supplied = self.settings.public[source].load(recognizer.alignment, cache)
                found = supplied.public
                notes.update({f"{source}: {what}": names for what, names in supplied.notes.items()})
            if found is None or not len(found):
                setting = "run.public_defender and run.public_attacker"
                if source == REST:
                    raise UserError(f"dataset {scene.dataset!r} leaves no public faces: set {setting}")
                raise UserError(
                    f"dataset {source!r} lends no faces, because it judges all its people or has none: set {setting}"
                )
            return found

        sources = public_sources(self.settings, scene.dataset)
        sides = sources.divide(test, evaluation.test, public, left_out_people(self.settings, scene.dataset))
        network = recognizer.load().to(self.device).eval().requires_grad_(False)
        return LoadedScene(test, pairs, sides.defender, sides.attacker, network, notes | dict(sides.notes))

    def judge(self, scene: Scene) -> SecondRecognizer:
        """The recogniser of `run.judge`, loaded on first use, for crops of the scene's recogniser.

        Raises:
            UserError: its weights are missing or damaged, or it wants crops that cannot be made of these.
        """
        chosen = self.settings.judge
        assert chosen is not None
        if scene.recognizer not in self._judges:
            attacked = self.settings.recognizers[scene.recognizer]
            transform = crop_transform(attacked.alignment, chosen.alignment, f"run.judge = {self.settings.run.judge!r}")
            network = chosen.load().to(self.device).eval().requires_grad_(False)
            self._judges[scene.recognizer] = SecondRecognizer(network, transform, self.device)
        return self._judges[scene.recognizer]

    def judged_faces(self, scene: Scene) -> FaceSet:
        """The scene's test images, cut out for the judge."""
        chosen, run = self.settings.judge, self.settings.run
        assert chosen is not None
        evaluation = self.settings.datasets[scene.dataset].load(chosen.alignment, Path(run.cache))
        return _fewer_pairs(evaluation, run.pairs)[0]

    def system(self, task: Task, recognises: bool = False) -> System:
        """The defended system with the states among a task's needs; unfitted if the attack needs no more.

        Args:
            recognises: include the part that the server trains for itself. Otherwise settings that only affect that
                part are
                set to their defaults, so that two defences with the same templates are one.
        """
        plugin = self.settings.defenses[task.defense]
        state, server = task.need("defense_state"), task.need("server_state")
        if not recognises:
            plugin = plugin.at("protect")
        keys = (task.scene.recognizer_key, *(need.key if need else "" for need in (state, server)))
        # The class itself: two versions of a notebook's class have the same name and repr.
        key = (*keys, task.defense) if recognises else (*keys, type(plugin), repr(plugin))
        if key not in self._systems:
            network = self.loaded(task.scene).network
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
        """The named source of randomness of a role."""
        return Rng(derive_seed(seed, *names))

    def ready(self, task: Task) -> Path:
        """The folder of a finished artefact.

        Raises:
            RuntimeError: it does not exist: the executor should have made it first.
        """
        folder = self.store.get(task.kind, task.key)
        if folder is None:
            raise RuntimeError(f"{task.label}: used before it was made")
        return folder


def _fewer_pairs(evaluation: Evaluation, limit: int | None) -> tuple[FaceSet, Pairs]:
    """Selects at most `limit` pairs, from every fold as many genuine as impostor ones, and their images.

    Folds list their genuine pairs first, so the first pairs alone would be all genuine, and accepting everything would
    be perfectly accurate.
    """
    test, pairs = evaluation.test, evaluation.pairs
    if limit is None or limit >= len(pairs):
        return test, pairs
    place = np.zeros(len(pairs), dtype=np.int64)  # index within its fold, among pairs of its kind
    for fold in np.unique(pairs.fold):
        for kind in (True, False):
            some = np.flatnonzero((pairs.fold == fold) & (pairs.genuine == kind))
            place[some] = np.arange(len(some))
    chosen: list[int] = []
    for turn, fold in sorted({(int(t), int(f)) for t, f in zip(place, pairs.fold, strict=True)}):
        couple = np.flatnonzero((place == turn) & (pairs.fold == fold))
        if len(couple) == 2 and len(chosen) + 2 <= limit:  # otherwise this fold has no more pairs of the other kind
            chosen += couple.tolist()
    if not chosen:
        raise UserError(f"run.pairs = {limit} leaves no genuine or no impostor pair; set a larger number")
    rows = np.array(sorted(chosen))
    kept = np.unique([pairs.left[rows], pairs.right[rows]])
    return test.subset(kept), Pairs(
        left=np.searchsorted(kept, pairs.left[rows]),
        right=np.searchsorted(kept, pairs.right[rows]),
        genuine=pairs.genuine[rows],
        fold=pairs.fold[rows],
    )
