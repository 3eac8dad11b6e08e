"""What making and judging share: loaded faces and networks, defended systems, and the way to the store."""

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
from bench.plan import Scene, Task, lending
from bench.seeds import derive_seed
from bench.settings.model import Settings
from bench.storage.arrays import read_state
from bench.storage.store import Store
from bench.toolkit.precision import pick_device


@dataclass(frozen=True, eq=False)
class LoadedScene:
    """A scene, loaded: whom to judge, whose faces are public, and the network."""

    test: FaceSet
    pairs: Pairs
    defender: FaceSet
    attacker: FaceSet
    network: SplitNetwork
    notes: Mapping[str, Sequence[str]]  #: what is odd about the files, see `Evaluation.notes`


class RunContext:
    """What making and judging share: the store, and everything that is loaded once."""

    def __init__(self, settings: Settings, store: Store) -> None:
        self.settings, self.store = settings, store
        self._loaded: dict[Scene, LoadedScene] = {}
        self._systems: dict[tuple[object, ...], System] = {}

    @cached_property
    def device(self) -> torch.device:
        """Where everything is computed."""
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
            raise UserError(f"dataset {scene.dataset!r} has no verification pairs: it can only lend public faces")
        where = f"dataset {scene.dataset!r}"
        notes = dict(evaluation.notes)
        notes.update(check_pairs(evaluation.pairs, where, lambda i: f"{where}: pair {i + 1}"))
        test, pairs = _fewer_pairs(evaluation, run.pairs)
        notes.update(copies_among(test) | judged_without_a_face(test))

        def public(lender: str) -> FaceSet:
            if lender == REST:
                found = evaluation.public
            else:
                lending_set = self.settings.public[lender].load(recognizer.alignment, cache)
                found = lending_set.public
                notes.update({f"{lender}: {what}": names for what, names in lending_set.notes.items()})
            if found is None or not len(found):
                setting = "run.public_defender and run.public_attacker"
                raise UserError(f"dataset {scene.dataset!r} leaves no public faces (asked {lender!r}): set {setting}")
            return found

        lent = lending(self.settings).divide(test, evaluation.test, public)
        network = recognizer.load().to(self.device).eval().requires_grad_(False)
        return LoadedScene(test, pairs, lent.defender, lent.attacker, network, notes | dict(lent.notes))

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
        # The class itself: two versions of a notebook's class have one name and one repr.
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
        """The source of randomness for a role, named."""
        return Rng(derive_seed(seed, *names))

    def ready(self, task: Task) -> Path:
        """The artefact's folder, whole.

        Raises:
            RuntimeError: it is not there: the executor makes needs first.
        """
        folder = self.store.get(task.kind, task.key)
        if folder is None:
            raise RuntimeError(f"{task.label}: wanted before it was made")
        return folder


def _fewer_pairs(evaluation: Evaluation, limit: int | None) -> tuple[FaceSet, Pairs]:
    """At most `limit` pairs, from every fold as many genuine as impostor ones, and their images.

    Folds list their genuine pairs first: the first pairs alone would be genuine alone, and accuracy a matter of saying
    yes.
    """
    test, pairs = evaluation.test, evaluation.pairs
    if limit is None or limit >= len(pairs):
        return test, pairs
    place = np.zeros(len(pairs), dtype=np.int64)  # within its fold, among its kind
    for fold in np.unique(pairs.fold):
        for kind in (True, False):
            some = np.flatnonzero((pairs.fold == fold) & (pairs.genuine == kind))
            place[some] = np.arange(len(some))
    chosen: list[int] = []
    for turn, fold in sorted({(int(t), int(f)) for t, f in zip(place, pairs.fold, strict=True)}):
        couple = np.flatnonzero((place == turn) & (pairs.fold == fold))
        if len(couple) == 2 and len(chosen) + 2 <= limit:  # otherwise this fold has no more of the other kind
            chosen += couple.tolist()
    if not chosen:
        raise UserError(f"run.pairs = {limit} leaves no genuine and no impostor pair; ask for more pairs")
    rows = np.array(sorted(chosen))
    kept = np.unique([pairs.left[rows], pairs.right[rows]])
    return test.subset(kept), Pairs(
        left=np.searchsorted(kept, pairs.left[rows]),
        right=np.searchsorted(kept, pairs.right[rows]),
        genuine=pairs.genuine[rows],
        fold=pairs.fold[rows],
    )
