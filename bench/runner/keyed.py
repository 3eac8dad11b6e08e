"""Computes the artefacts of keyed defences: templates of two applications, comparisons, and attacks on them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.contracts import CrossmatchAttack, InversionAttack, Key, Pairs, State, Stolen
from bench.plan import Task
from bench.runner import artefacts
from bench.runner.attacking import gallery_of
from bench.runner.context import LoadedScene, RunContext
from bench.runner.key_learning import asked, attack_rng, oracle_of, width_of
from bench.runner.keyed_service import FIRST, SECOND, running_service
from bench.runner.protector import Protector, application_name, holder, keyed, scored
from bench.storage.arrays import write_state
from bench.toolkit.progress import track


def make_protected(context: RunContext, task: Task, folder: Path) -> None:
    """Enrols one image per person in each of two applications, and compares probes with what the first one stores.

    In the first application, the left image of one genuine pair per person is stored; the right one is stored in the
    second.
    """
    own = Protector(context, task)
    test, pairs = own.loaded.test, own.loaded.pairs
    targets, gallery = two_records(own.loaded)
    scores, stored = _compared(own, pairs, targets, gallery)
    first, beside_first = _stacked([stored[int(row)] for row in targets])
    second, beside_second = _stacked([_record(own, row) for row in map(int, gallery)])
    scores["replay"] = np.array(
        [_replayed(own, int(row), template) for row, template in zip(targets, first, strict=True)]
    )
    plain = _unprotected(own.embeddings.double().numpy(), pairs, targets, gallery)
    kept = {"first_auxiliary": beside_first, "second_auxiliary": beside_second}
    artefacts.Protected(
        first.cpu().numpy(), second.cpu().numpy(), targets, gallery, {**scores, **plain},
        {name: part.cpu().numpy() for name, part in kept.items() if part is not None},
    ).write(folder)  # fmt: skip
    info = {
        "template_bytes": _bytes(first[0]),
        "auxiliary_bytes": 0 if beside_first is None else _bytes(beside_first[0]),
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


def _record(own: Protector, row: int) -> tuple[Tensor, Tensor | None]:
    """What the second application stores of a test image."""
    key = own.key(SECOND, row)
    return own.templates([row], key)[0], own.auxiliary(row, key)


def _stacked(records: list[tuple[Tensor, Tensor | None]]) -> tuple[Tensor, Tensor | None]:
    """Templates (N, ...), and what is stored beside them, (N, ...)."""
    beside = [part for _, part in records if part is not None]
    return torch.stack([template for template, _ in records]), torch.stack(beside) if beside else None


def _replayed(own: Protector, row: int, template: Tensor) -> float:
    """The score of a stored template sent in place of a probe; -inf where it has not the form of one."""
    key = own.key(FIRST, row)
    probe = own.probes([row], key, own.auxiliary(row, key))[0]
    if template.shape != probe.shape or template.dtype != probe.dtype:
        return -np.inf
    return float(own.against(template, template[None], key)[0])


def _compared(
    own: Protector, pairs: Pairs, targets: NDArray[np.int64], gallery: NDArray[np.int64]
) -> tuple[dict[str, NDArray[Any]], dict[int, tuple[Tensor, Tensor | None]]]:
    """Scores of the protocol's pairs and of all targets with all gallery images, and the records stored, by image.

    A genuine probe has the key of the claimed identity. An impostor's has the impostor's own (`normal`), or that of the
    claimed identity (`stolen`).
    """
    probing = np.unique(np.concatenate([gallery, pairs.right]))
    bring = _Impostors(own, _by_person(own.loaded, probing))
    place = {int(row): index for index, row in enumerate(targets)}
    found: dict[str, NDArray[Any]] = {name: np.zeros((len(targets), len(gallery))) for name in ("normal", "stolen")}
    found |= {f"{name}_pairs": np.zeros(len(pairs)) for name in ("normal", "stolen")}
    stored: dict[int, tuple[Tensor, Tensor | None]] = {}
    claimed = np.unique(np.concatenate([targets, pairs.left]))
    for row in track(_by_person(own.loaded, claimed), f"protecting {len(claimed)} records", len(claimed)):
        with_pairs = np.flatnonzero(pairs.left == row)
        probes = np.concatenate([pairs.right[with_pairs], gallery if row in place else gallery[:0]])
        key = own.key(FIRST, row)
        template, auxiliary = stored[row] = own.templates([row], key)[0], own.auxiliary(row, key)
        stolen = own.against(template, own.probes(probes, key, auxiliary), key)
        normal = own.against(template, bring.probes(probes, auxiliary), key)
        person = holder(own.loaded, row)[0]
        same = np.array([holder(own.loaded, int(probe))[0] == person for probe in probes])
        normal = np.where(same, stolen, normal)
        for name, scores in (("normal", normal), ("stolen", stolen)):
            found[f"{name}_pairs"][with_pairs] = scores[: len(with_pairs)]
            if row in place:
                found[name][place[row]] = scores[len(with_pairs) :]
    return found, stored


class _Impostors:
    """Probes that are protected with the keys of those who bring them."""

    def __init__(self, own: Protector, rows: list[int]) -> None:
        self.own, self._keys = own, dict[int, Key]()
        key = own.key(FIRST, rows[0])
        alike = own.auxiliary(rows[0], key) is None  # then a probe is the same against every record
        self._made = {row: own.probes([row], own.key(FIRST, row), None)[0] for row in rows} if alike else {}

    def probes(self, rows: NDArray[np.int64], auxiliary: Tensor | None) -> Tensor:
        """Probes (B, ...) of these images against a record with this auxiliary data."""
        if auxiliary is None:
            return torch.stack([self._made[int(row)] for row in rows])
        for row in map(int, rows):
            if row not in self._keys:
                self._keys[row] = self.own.key(FIRST, row)
        return torch.cat([self.own.probes([int(row)], self._keys[int(row)], auxiliary) for row in rows])


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
    return sorted(map(int, rows), key=lambda row: holder(loaded, row))


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
    defense, info = keyed(context, task.defense), {}
    if task.attack:
        attack = context.settings.attacks[task.attack]
        assert isinstance(attack, CrossmatchAttack)
        oracle = oracle_of(context, task, attack, width_of(context, protected))
        beside = [found.auxiliary.get(name) if attack.steals_auxiliary else None for name in artefacts.BESIDE]
        stolen = [
            Stolen(templates, None if part is None else torch.from_numpy(np.array(part)))
            for templates, part in zip((first, second), beside, strict=True)
        ]
        with torch.no_grad():
            made = attack.link(oracle, stolen[0], stolen[1])
        if tuple(made.shape) != (len(first), len(second)) or not torch.isfinite(made).all():
            raise ValueError(f"{task.attack} returned scores {tuple(made.shape)}, or some that are not finite")
        scores, info = made.double().cpu().numpy(), {"attack": asked(oracle)}
    else:
        scores = np.stack([scored(defense, one.expand(len(second), *one.shape), second) for one in first])
    artefacts.Linkage(scores, found.targets, found.gallery).write(folder)
    write_state(folder, State(info=info))


def beside_of(found: artefacts.Protected, number: int, name: str) -> Tensor | None:
    """The auxiliary data (...) of a stored record of the first or of the second application; None if it has none."""
    part = found.auxiliary.get(name)
    return None if part is None else torch.from_numpy(np.array(part[number]))


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
        old, new = (
            own.presented(probe, some, beside_of(found, number, name))
            for some, name in zip((key, renewed), artefacts.BESIDE, strict=True)
        )
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

    def others(number: int) -> Tensor:
        """The person's templates in further applications, from each of both images in turn."""
        rows = [int((found.gallery, found.targets)[place % 2][number]) for place in range(attack.records - 1)]
        names = [application_name(2 + place) for place in range(attack.records - 1)]
        return torch.cat([own.templates([row], own.key(name, row)) for row, name in zip(rows, names, strict=True)])

    def beside(number: int) -> Tensor | None:
        return beside_of(found, number, artefacts.BESIDE[0])

    rng = attack_rng(context, task, attack)
    service = running_service(context, task, own, stored, found.targets) if attack.needs_service else None
    oracle = oracle_of(context, task, attack, width, leaked=leaked, auxiliary=beside, records=others, service=service)
    began = time.perf_counter()
    made = attack.invert(oracle, stored, rng.child("invert")).detach().float()
    seconds = time.perf_counter() - began
    if tuple(made.shape) != (len(stored), width) or not torch.isfinite(made).all():
        raise ValueError(f"{task.attack} returned embeddings {tuple(made.shape)}, or some that are not finite")
    made = functional.normalize(made)
    artefacts.write_inversion(folder, made.cpu().numpy(), shown_as_probes(own, found, made))
    info = {**asked(oracle), "ms_per_template": round(1000 * seconds / len(stored), 3)}
    write_state(folder, State(info=info))
