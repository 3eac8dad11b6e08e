"""Attacks templates that `protect_faces` made, without a plan: the implementation of `veilbench attack`."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, replace
from functools import cached_property
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.contracts import FaceSet, Leak, NotApplicable, Oracle, ReconstructionAttack, Rng, State, System
from bench.contracts.oracle import client_alone
from bench.errors import UserError
from bench.metrics.bootstrap import measure
from bench.metrics.image import IMAGE_SETTINGS, image_scores
from bench.runner.attacking import reconstructed
from bench.runner.batches import halving, plain_batches
from bench.runner.standalone import Parts
from bench.runner.standalone_files import Protected, Rebuilt
from bench.seeds import derive_seed
from bench.settings.model import Settings
from bench.toolkit.progress import track


def attack_templates(settings: Settings, leaked: Protected, seed: int = 0, originals: FaceSet | None = None) -> Rebuilt:
    """Trains the attack on the attacker's public faces, as in a run, and reconstructs images from the templates.

    Args:
        originals: only to measure the result; the attack never sees them.

    Raises:
        UserError: the templates were made with other settings, or the attack needs more than templates.
    """
    parts = Parts(settings, seed)
    _refuse_others(parts, leaked)
    ((label, attack),) = settings.attacks.items()
    if not isinstance(attack, ReconstructionAttack) or attack.leaks != "template" or attack.parts:
        raise UserError(f"attack {label!r} does not reconstruct images from templates alone; veilbench run judges it")
    shown = _aligned_with(originals, leaked) if originals is not None else None
    blank = np.zeros((0, *parts.network.image_size, 3), dtype=np.uint8)
    count = len(leaked.names)
    judged = FaceSet(blank, np.zeros(count, dtype=np.int64), leaked.names, None, np.ones(count, dtype=bool))
    defender, attacker = parts.public(judged)
    try:
        images, info = Attacker(parts, leaked.state, defender, attacker).reconstruct(label, attack, leaked)
    except NotApplicable as error:
        raise UserError(f"attack {label!r} does not apply to {parts.label!r}: {error}") from error
    rows = np.arange(len(images))
    names = [leaked.names[i] for i in rows]
    # The name may come from an untrusted file, so it must not determine where a picture is written.
    plain = [re.sub(r"[^0-9A-Za-z-]+", "_", name.rpartition(".")[0])[-80:] for name in names]
    files = [f"images/{row:05}_{name}.png" for row, name in enumerate(plain)]
    table = pd.DataFrame({"row": rows, "name": names, "file": files})
    scores: dict[str, Any] = {}
    if shown is not None:
        table, scores = measured(parts, table, images, shown, attacker)
    account = {
        "attack": {"label": label, "level": str(attack.level), "parameters": asdict(attack)},
        **parts.identity(),
        "templates": count,
        "rebuilt": len(images),
        "public_faces": {"defender": len(defender), "attacker": len(attacker)},
        **info,
        "scores": scores,
        "settings": {
            **IMAGE_SETTINGS,
            "blind_ssim, blind_psnr_db": "of the mean public face, which ignores the template",
        },
        **parts.origin(),
    }
    return Rebuilt(images, table, account)


def _refuse_others(parts: Parts, leaked: Protected) -> None:
    """Checks that templates and settings belong to the same system."""
    for what in ("defense", "recognizer"):
        other = differences(parts, leaked, what)
        if other:
            raise UserError(
                f"the templates were made with another {what}: {other}; use the options of veilbench protect, or "
                "protect again"
            )


def differences(parts: Parts, leaked: Protected, what: Literal["defense", "recognizer"]) -> str:
    """In what the defence or recogniser that made the templates differs from the settings'; empty if in nothing."""
    there, here = _flat(leaked.account[what]), _flat(json.loads(json.dumps(parts.identity()))[what])
    return "; ".join(
        f"{name} was {there.get(name)!r} and is now {here.get(name)!r}"
        for name in sorted({*there, *here})
        if there.get(name) != here.get(name)
    )


def _flat(table: Mapping[str, Any], above: str = "") -> dict[str, Any]:
    """Flattens nested settings to dotted names."""
    found: dict[str, Any] = {}
    for name, value in table.items():
        found |= _flat(value, f"{above}{name}.") if isinstance(value, Mapping) else {f"{above}{name}": value}
    return found


def _aligned_with(originals: FaceSet, leaked: Protected) -> FaceSet:
    place = {name: i for i, name in enumerate(originals.names)}
    missing = [name for name in leaked.names if name not in place]
    if missing:
        raise UserError(
            f"--originals: {len(missing)} of {len(leaked.names)} images are missing, such as {missing[0]!r}"
        )
    return originals.subset([place[name] for name in leaked.names])


class Attacker:
    """Trains attacks against one defended system, and reconstructs with them, as `bench.runner.attacking` does for a
    plan. What several attacks share, a copy of the defence or the decoder that they start from, is trained once.
    """

    def __init__(self, parts: Parts, state: State | None, defender: FaceSet, public: FaceSet) -> None:
        """An attacker on the system with the fitted `state`.

        Args:
            defender: public faces on which the server may train for itself.
            public: the attacker's own.
        """
        self._parts, self._defender, self._public = parts, defender, public
        self._plain = parts.system(state)
        self._learned: dict[str, tuple[State | None, Counter[str]]] = {}

    @cached_property
    def _with_server(self) -> System:
        """With the part that its server trains for itself."""
        defense = self._parts.defense
        system = replace(self._plain, defense=defense, templates_only=False)
        rng = self._parts.rng("fit server", type(defense).__name__)
        return replace(
            system, server=defense.prepare_server(system.recognizer, defense.fit_server(system, self._defender, rng))
        )

    @cached_property
    def _surrogate(self) -> State | None:
        defense = self._parts.defense
        rng = self._parts.rng("surrogate", type(defense).__name__)
        return defense.at("fit").fit(client_alone(self._parts.network), self._public, rng)

    def _oracle(self, attack: ReconstructionAttack, rng: Rng, leaked: Protected) -> Oracle:
        system = self._with_server if attack.depends_on_server and self._plain.templates_only else self._plain
        copy = self._surrogate if attack.asks_surrogate else None
        taken = leaked.templates if attack.asks_stolen else None
        return Oracle(attack.level, system, rng.child("oracle"), None, copy, taken)

    def _trained(self, attack: ReconstructionAttack, leaked: Protected) -> tuple[State | None, Counter[str]]:
        """What the attack learned, and the queries that this took, those of the attacks below it included."""
        key = f"{type(attack).__module__} {attack!r} {leaked.names if attack.asks_stolen else ''}"
        if key not in self._learned:
            rng = self._parts.rng("attack", type(attack).__name__)
            oracle, asked = self._oracle(attack, rng, leaked), Counter[str]()
            if attack.base is None:
                state = attack.fit(oracle, self._public, rng.child("fit"))
            else:
                start, asked = self._trained(attack.base, leaked)
                state = attack.adapt(oracle, self._public, rng.child("adapt"), start)
            self._learned[key] = state, asked + oracle.queries
        return self._learned[key]

    def reconstruct(
        self, label: str, attack: ReconstructionAttack, leaked: Protected
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Images (M, 3, H, W) in [0, 1] of the first M templates, and an account; JSON-able.

        M is smaller than the number of templates only where the attack limits itself (`subset`).

        Raises:
            NotApplicable: the attack has nothing to try on this system.
        """
        parts = self._parts
        state, asked = self._trained(attack, leaked)
        rng = parts.rng("attack", type(attack).__name__, type(parts.defense).__name__)
        oracle = self._oracle(attack, rng, leaked)
        prepared = attack.prepare(oracle, state)
        count = len(range(len(leaked.names))[: attack.subset(parts.defense)])
        images = np.empty((count, 3, *parts.network.image_size), dtype=np.float32)

        def rebuild(batch: NDArray[np.int64]) -> torch.Tensor:
            stolen = torch.from_numpy(leaked.templates[batch]).to(parts.device, torch.float32)
            names = rng.images([leaked.names[i] for i in batch])
            leak = Leak(stolen, rows=tuple(batch.tolist()))
            return reconstructed(label, attack, oracle, prepared, leak, names, parts.network.image_size)

        batches = plain_batches(count)
        for whole in track(batches, f"attacking: {label}", len(batches)):
            for batch, made in halving(rebuild, whole, splits=not attack.coupled):
                images[batch] = made.clamp(0, 1).numpy()
        info = {
            "learned": dict(state.info) if state else None,
            "learned_queries": dict(asked),
            "queries": dict(oracle.queries),
            **oracle.reported,
        }
        return images, info


def measured(
    parts: Parts, table: pd.DataFrame, images: NDArray[np.float32], originals: FaceSet, attacker: FaceSet
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Scores of each image, and their means with 95 % intervals over people (subfolders, or else images)."""
    average = torch.stack([attacker.batch(some).sum(0) for some in plain_batches(len(attacker))]).sum(0) / len(attacker)
    columns: dict[str, list[NDArray[Any]]] = {}
    for some in plain_batches(len(images)):
        original, rebuilt = originals.batch(some), torch.from_numpy(images[some])
        found = dict(image_scores(original, rebuilt))
        with torch.no_grad():
            one, other = (parts.network.embed(parts.network.extract(x.to(parts.device))) for x in (original, rebuilt))
        found["cosine"] = (one * other).sum(1).double().cpu().numpy()
        blind = image_scores(original, average.expand_as(original))
        found |= {f"blind_{name}": blind[name] for name in ("ssim", "psnr_db")}
        for name, values in found.items():
            columns.setdefault(name, []).append(values)
    scored = table.assign(**{name: np.concatenate(some) for name, some in columns.items()})
    owners = np.array([name.rpartition("/")[0] or name for name in table["name"]], dtype=object)
    seed, resamples = derive_seed("bootstrap", "standalone"), parts.settings.metrics.bootstrap
    means = {
        name: asdict(measure(scored[name].to_numpy(np.float64), owners, seed=seed, resamples=resamples))
        for name in columns
    }
    return scored, means
