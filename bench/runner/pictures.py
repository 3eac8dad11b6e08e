"""Makes faces of embeddings that were recovered from keyed templates, and judges them.

    template --inversion--> embedding --decoder of `run.pictures`--> face --login--> unprotected and protected system

The decoder attacks the unprotected recogniser, whose embeddings all keyed defences protect: it is trained once for all
of them. Faces made of the true embeddings are the yardstick: what the decoder shows if nothing of them is lost.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import (
    Defense,
    FaceSet,
    Leak,
    Oracle,
    ReconstructionAttack,
    Rng,
    State,
    System,
)
from bench.metrics.catalogue import MEAN_INTERVAL, SHARE_INTERVAL
from bench.metrics.image import IMAGE_SETTINGS, image_scores
from bench.metrics.verification import Impostors
from bench.plan import Task
from bench.runner import artefacts
from bench.runner.attacking import reconstructed
from bench.runner.batches import halving, plain_batches
from bench.runner.context import LoadedScene, RunContext
from bench.runner.keyed import shown_as_probes, two_records
from bench.runner.keyed_judging import Judged, Means, accepted_at, different
from bench.runner.protector import Protector
from bench.runner.second_recognizer import SETTINGS as SECOND
from bench.runner.second_recognizer import KnownFaces, SecondRecognizer
from bench.storage.arrays import read_state, write_state
from bench.storage.records import Measure
from bench.toolkit.progress import track

_FMRS = (1e-2, 1e-3)


class _Open(Defense):
    """No defence: the system that an attacker trains a decoder of embeddings on."""


def _decoder(context: RunContext) -> ReconstructionAttack:
    attack = context.settings.pictures
    assert attack is not None
    return attack


def _oracle(context: RunContext, task: Task, rng: Rng, stored: Tensor | None = None) -> Oracle:
    network = context.loaded(task.scene).network
    system = System(recognizer=network, defense=_Open(), device=context.device)
    return Oracle(_decoder(context).level, system, rng.child("oracle"), stored)


def make_picture_decoder(context: RunContext, task: Task, folder: Path) -> None:
    """Trains the attack of `run.pictures` on the attacker's faces, against the unprotected system."""
    loaded, rng = context.loaded(task.scene), context.rng(task.seed, "pictures")
    oracle = _oracle(context, task, rng)

    def fitted(attack: ReconstructionAttack) -> State | None:
        if attack.base is None:
            return attack.fit(oracle, loaded.attacker, rng.child("fit"))
        return attack.adapt(oracle, loaded.attacker, rng.child("adapt"), fitted(attack.base))

    state = fitted(_decoder(context))
    write_state(folder, state and State(state.tensors, {**state.info, "queries": dict(oracle.queries)}))


def make_pictures(context: RunContext, task: Task, folder: Path) -> None:
    """Makes faces of recovered embeddings, or of the true ones if the task has no inversion, and logs in with them."""
    loaded, attack = context.loaded(task.scene), _decoder(context)
    fitted, inverted, protected = (task.need(kind) for kind in ("picture_decoder", "inversion", "protected"))
    assert fitted is not None
    if inverted is None:
        identity = task.need("identity")
        assert identity is not None
        rows = two_records(loaded)[0][: context.settings.run.images]
        values = np.array(artefacts.read_identity(context.ready(identity))[rows])
    else:
        values = artefacts.read_inversion(context.ready(inverted))[0]
    rng = context.rng(task.seed, "pictures", "made")
    stolen = torch.from_numpy(values[: attack.subset(_Open())]).to(context.device, torch.float32)
    oracle = _oracle(context, task, rng, stolen)
    prepared = attack.prepare(oracle, read_state(context.ready(fitted)))
    size = loaded.network.image_size
    images = artefacts.create_pictures(folder, (len(stolen), 3, *size))
    seen: list[NDArray[Any]] = []

    def make(batch: NDArray[np.int64]) -> Tensor:
        leak = Leak(stolen[batch], rows=tuple(batch.tolist()))
        return reconstructed("run.pictures", attack, oracle, prepared, leak, rng.images([*map(str, batch)]), size)

    batches = plain_batches(len(stolen))
    for whole in track(batches, f"making faces: {task.defense} x {task.attack}".rstrip(" x"), len(batches)):
        for batch, faces in halving(make, whole, splits=not attack.coupled):
            images[batch] = faces.clamp(0, 1).numpy()
            stored = torch.from_numpy(images[batch]).to(context.device, torch.float32)
            with torch.no_grad():
                seen.append(loaded.network.embed(loaded.network.extract(stored)).float().cpu().numpy())
    embeddings, shown = np.concatenate(seen), np.zeros((3, 0))
    if protected is None:
        mean = _mean_face(loaded.attacker, context.device)
        with torch.no_grad():
            looks = loaded.network.embed(loaded.network.extract(mean[None]))
        artefacts.write_mean_face(folder, mean.cpu().numpy(), looks[0].float().cpu().numpy())
    else:
        found = artefacts.Protected.read(context.ready(protected))
        shown = shown_as_probes(Protector(context, task), found, torch.from_numpy(embeddings))
    artefacts.write_pictures(folder, embeddings, shown)
    write_state(folder, State(info={"queries": dict(oracle.queries), **oracle.reported}))


def _mean_face(faces: FaceSet, device: torch.device) -> Tensor:
    """The mean (3, H, W) of the attacker's faces: what somebody would show who knows nothing of the person."""
    batches = plain_batches(len(faces))
    return torch.stack([faces.batch(batch, device).sum(0) for batch in batches]).sum(0) / len(faces)


def judge_pictures(
    loaded: LoadedScene,
    found: artefacts.Protected,
    made: Mapping[str, artefacts.Pictures],
    clean: NDArray[Any],
    owners: NDArray[np.object_],
    mean: Means,
    second: tuple[SecondRecognizer, KnownFaces] | None,
) -> Judged:
    """How much the faces look like the people, and which systems accept them.

    Args:
        made: by prefix of the figures: `` of recovered embeddings, `plain_` of the true ones, `floor_` of none: the
            mean face.
        clean: unprotected embeddings (N, D) of all test images.
        owners: (N,) the person of each test image.
        second: the judge, if there is one.
    """
    plain = Impostors.among(clean[loaded.test.found], owners[loaded.test.found]).similarity
    stolen = different(np.array(found.scores["stolen"]))
    metrics: dict[str, Measure] = {}
    columns: dict[str, NDArray[Any]] = {}
    targets = found.targets[: len(made[""].embeddings)]
    people = owners[targets]
    for prefix, some in made.items():
        scores = _looks(loaded, targets, some, second, strangers=not prefix)
        embeddings, others = some.embeddings.astype(np.float64), found.gallery[: len(targets)]
        scores["cosine"] = (embeddings * clean[targets]).sum(1)
        own = {f"{prefix}picture_{name}": values for name, values in scores.items()}
        metrics |= {name: mean(values, people) for name, values in own.items()}
        columns |= own
        against = [("isr1", scores["cosine"], plain), ("isr2", (embeddings * clean[others]).sum(1), plain)]
        if some.shown.shape[1]:
            against += [("login1", some.shown[0], stolen), ("login2", some.shown[1], stolen)]
            names = ("login_score", "login_score_other", "login_score_renewed")
            columns |= dict(zip(names, some.shown, strict=True))
        for name, values, impostors in against:
            shares, decided = accepted_at(f"{prefix}picture_{name}", values, people, impostors, _FMRS)
            metrics, columns = {**metrics, **shares}, {**columns, **decided}
        if second is not None:
            believed, judged = second[1].accepted(scores["judge_cosine"], targets)
            metrics |= {f"{prefix}picture_{name}": share for name, share in believed.items()}
            columns |= {f"{prefix}picture_{name}": values for name, values in judged.items()}
    table = pd.DataFrame({"name": [loaded.test.names[i] for i in targets], "subject": people, **columns})
    settings = {
        **IMAGE_SETTINGS,
        **(SECOND if second is not None else {}),
        "picture": "a face made of the recovered embedding; plain_picture: of the true one, by the same decoder; "
        "floor_picture: the mean of the attacker's faces",
        "picture_cosine": "of the picture's embedding with the true one, unprotected",
        "picture_ssim_other": "of the picture with another person's image; a generic face scores no less",
        "picture_isr": "accepted by the unprotected system at its threshold of this FMR; 1: same image, 2: another one",
        "picture_login": "accepted by the protected system, under the claimed identity's key, at its threshold of this "
        "FMR for stolen tokens; 1: the stolen template, 2: that of another image, with the same key",
        "impostor pairs": {"isr": len(plain), "login": len(stolen)},
        "interval": SHARE_INTERVAL,
        "interval of means": MEAN_INTERVAL,
    }
    return Judged(metrics, table, settings)


def _looks(
    loaded: LoadedScene,
    targets: NDArray[np.int64],
    made: artefacts.Pictures,
    second: tuple[SecondRecognizer, KnownFaces] | None,
    strangers: bool,
) -> dict[str, NDArray[np.float64]]:
    """Scores (T,) of faces with the images behind the templates; with the next person's too, if asked for."""
    parts: dict[str, list[NDArray[np.float64]]] = {}
    for batch in plain_batches(len(targets)):
        rebuilt = torch.from_numpy(made.images[batch]).float()
        scores = {"ssim": image_scores(loaded.test.batch(targets[batch]), rebuilt)["ssim"]}
        if strangers:
            other = np.roll(targets, 1)[batch]
            scores["ssim_other"] = image_scores(loaded.test.batch(other), rebuilt)["ssim"]
        if second is not None:
            judge, known = second
            scores["judge_cosine"] = (judge.see(rebuilt) * known.embeddings[targets[batch]]).sum(1).astype(np.float64)
        for name, values in scores.items():
            parts.setdefault(name, []).append(values)
    return {name: np.concatenate(some) for name, some in parts.items()}


def picture_samples(
    loaded: LoadedScene, targets: NDArray[np.int64], made: Mapping[str, artefacts.Pictures], count: int
) -> dict[str, NDArray[Any]]:
    """The first faces as bytes (B, H, W, 3): originals, of recovered embeddings and of true ones; with their names."""
    rows = targets[: min(count, len(made[""].embeddings))]

    def to_bytes(batch: NDArray[Any]) -> NDArray[np.uint8]:
        return np.asarray(np.rint(batch.astype(np.float32) * 255), dtype=np.uint8).transpose(0, 2, 3, 1)

    return {
        "original": to_bytes(loaded.test.batch(rows).numpy()),
        "reconstruction": to_bytes(made[""].images[: len(rows)]),
        "plain": to_bytes(made["plain_"].images[: len(rows)]),
        "name": np.array([loaded.test.names[i] for i in rows]),
    }
