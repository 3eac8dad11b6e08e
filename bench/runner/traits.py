"""Traits as yes/no questions: what an attack on them learns, what it infers from templates, and how right it is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.contracts import FaceSet, Leak, NotApplicable, Oracle, Rng, State, System, TraitAttack
from bench.metrics.traits import CHANCE, Inferred, balanced_accuracy, calibration_error, mean_accuracy
from bench.plan import Task
from bench.runner import artefacts
from bench.runner.batches import plain_batches
from bench.runner.context import LoadedScene, RunContext
from bench.runner.parts import guesses, in_all, parts_of
from bench.settings.controls import Canary
from bench.storage.arrays import read_state, write_state
from bench.storage.records import Measure
from bench.toolkit.progress import track


@dataclass(frozen=True)
class Question:
    """A trait as a question with the answers yes and no."""

    split: float | None  #: of a number: yes if it is larger than this, the median of the attacker's faces
    share: float  #: of yes among the attacker's faces

    def answers(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        """1 for yes, 0 for no, NaN where the trait is unknown."""
        if self.split is None:
            return values
        return np.where(np.isfinite(values), values > self.split, np.nan).astype(np.float32)


def questions(loaded: LoadedScene) -> dict[str, Question]:
    """One for each trait that is known of some of the attacker's and of some of the judged faces.

    Raises:
        NotApplicable: there is none.
    """
    found = {}
    for name, values in loaded.attacker.traits.items():
        known, judged = (some[np.isfinite(some)] for some in (values, loaded.test.traits.get(name, values[:0])))
        if len(known) and len(judged):
            split = None if set(np.concatenate([known, judged])) <= {0.0, 1.0} else float(np.median(known))
            found[name] = Question(split, float((known > (split or 0.0)).mean()))
    if not found:
        raise NotApplicable(
            "no trait is known of both the judged and the attacker's faces: set traits, a CSV file, in the dataset's "
            "section"
        )
    return found


def answered(faces: FaceSet, asked: Mapping[str, Question]) -> FaceSet:
    """The faces with answers in place of traits."""
    return replace(faces, traits={name: question.answers(faces.traits[name]) for name, question in asked.items()})


def make_traits(context: RunContext, task: Task, folder: Path) -> None:
    """Probabilities of yes for every test image, inferred from its stored template.

    An attack with `parts` infers them from the images that these rebuilt; those of other images are NaN.
    """
    attack, fitted, leaked = _attack(context, task), task.need("attack_state"), task.need("templates")
    assert fitted is not None and leaked is not None
    rng = context.rng(task.seed, "attack", type(attack).__name__, task.defense)
    oracle = Oracle(attack.level, context.system(task), rng.child("oracle"))
    state = read_state(context.ready(fitted))
    values, parts = artefacts.read_templates(context.ready(leaked)), parts_of(context, task)
    rows = in_all(parts, np.arange(len(context.loaded(task.scene).test)))

    def leak(batch: NDArray[np.int64]) -> Leak:
        stolen = torch.from_numpy(values[batch]).to(context.device, torch.float32)
        return Leak(stolen, rows=tuple(batch.tolist()), guesses=guesses(parts, batch, context.device))

    _infer(context, task, folder, oracle, state, rows, leak, rng)


def make_clean_traits(context: RunContext, task: Task, folder: Path) -> None:
    """The same from unprotected features, by the same attack trained on these.

    An attack with `parts` is given the original photographs in place of what these would rebuild.
    """
    attack, loaded = _attack(context, task), context.loaded(task.scene)
    system = System(loaded.network, Canary(kind="open"), device=context.device)
    rng = context.rng(task.seed, "attack", type(attack).__name__)
    oracle = Oracle(attack.level, system, rng.child("oracle"))
    state = attack.fit(oracle, answered(loaded.attacker, questions(loaded)), rng.child("fit"))

    def leak(batch: NDArray[np.int64]) -> Leak:
        images = loaded.test.batch(batch, context.device)
        with torch.no_grad():
            stolen = system.encode(images).float()
        return Leak(stolen, rows=tuple(batch.tolist()), guesses=tuple(images for _ in attack.parts))

    _infer(context, task, folder, oracle, state, np.arange(len(loaded.test)), leak, rng)


def _attack(context: RunContext, task: Task) -> TraitAttack:
    attack = context.settings.attacks[task.attack]
    assert isinstance(attack, TraitAttack)
    return attack


def _infer(
    context: RunContext,
    task: Task,
    folder: Path,
    oracle: Oracle,
    state: State | None,
    rows: NDArray[np.int64],
    leak: Callable[[NDArray[np.int64]], Leak],
    rng: Rng,
) -> None:
    """Infers the traits of the test images `rows`."""
    attack, test = _attack(context, task), context.loaded(task.scene).test
    assert state is not None
    made: dict[str, NDArray[np.float64]] = {}
    batches = plain_batches(len(rows))
    for place in track(batches, f"inferring traits: {task.defense or 'clean features'} x {task.attack}", len(batches)):
        batch = rows[place]
        found = attack.infer(oracle, state, leak(batch), rng.images([test.names[i] for i in batch]))
        for name, values in found.items():
            if tuple(values.shape) != (len(batch),) or not bool(((values >= 0) & (values <= 1)).all()):
                raise ValueError(f"{task.attack}: {name}: expected {len(batch)} probabilities in [0, 1]")
            made.setdefault(name, np.full(len(test), np.nan))[batch] = values.detach().double().cpu().numpy()
    artefacts.write_traits(folder, made)
    write_state(folder, State(info={"traits": list(made), "queries": dict(oracle.queries)}))


@dataclass(frozen=True, eq=False)
class Judged:
    """The measures of an attack on traits, and what is behind them."""

    metrics: Mapping[str, Measure]
    scores: pd.DataFrame
    void: tuple[str, ...]  #: traits that were not found in clean features
    info: Mapping[str, Any]


def judge_traits(
    loaded: LoadedScene,
    inferred: Mapping[str, NDArray[Any]],
    clean: Mapping[str, NDArray[Any]],
    *,
    seed: int,
    resamples: int,
) -> Judged:
    """Measures every trait. One that the attack does not find in clean features is void, and left out of the means.

    Args:
        inferred: probabilities (N,) of yes by trait, from what is stored; NaN for images that were not attacked.
        clean: the same from unprotected features.
    """
    asked, owners = questions(loaded), np.array(loaded.test.subjects or loaded.test.names, dtype=object)
    truth = answered(loaded.test, asked).traits
    metrics: dict[str, Measure] = {}
    table: dict[str, Any] = {"name": list(loaded.test.names), "subject": owners}
    valid: list[tuple[Inferred, Inferred]] = []
    void = []
    for name, question in asked.items():
        if name not in inferred or name not in clean:
            metrics[f"trait_accuracy_{name}"] = Measure(None, note="unavailable: too few of the attacker's faces")
            continue
        known = np.isfinite(truth[name]) & np.isfinite(inferred[name]) & np.isfinite(clean[name])
        both = [
            Inferred.decided(
                truth[name][known] == 1,
                probabilities[name][known],
                owners[known],
                share=question.share,
                found=loaded.test.found[known],
            )
            for probabilities in (inferred, clean)
        ]
        for prefix, answers in zip(("", "clean_"), both, strict=True):
            metrics[f"{prefix}trait_accuracy_{name}"] = balanced_accuracy(answers)
            metrics[f"{prefix}trait_ece_{name}"] = calibration_error(answers, seed=seed, resamples=resamples)
        if (metrics[f"clean_trait_accuracy_{name}"].low or 0.0) > CHANCE:
            valid.append((both[0], both[1]))
        else:
            void.append(name)
        table |= {f"true_{name}": truth[name], f"p_{name}": inferred[name], f"clean_p_{name}": clean[name]}
    for prefix, some in zip(("", "clean_"), zip(*valid, strict=True) if valid else ((), ()), strict=True):
        metrics[f"{prefix}trait_accuracy"] = mean_accuracy(some, seed=seed, resamples=resamples)
    attacked = max((int(np.isfinite(values).sum()) for values in inferred.values()), default=0)
    info = {
        "traits": {
            name: {"split": question.split, "attackers_share": round(question.share, 4), "void": name in void}
            for name, question in asked.items()
        },
        "images": attacked,
        "people": len(set(owners)),
        "chance": CHANCE,
    }
    return Judged(metrics, pd.DataFrame(table), tuple(void), info)
