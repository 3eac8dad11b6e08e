"""Trains a recogniser, or a defence's own server, on faces with identities, and writes a model card."""

from __future__ import annotations

import json
import platform
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from bench import __version__
from bench.contracts import Dataset, Evaluation, FaceSet, Recognizer, Rng, SplitNetwork, State, System
from bench.datasets.folder import ImageFolder
from bench.datasets.public_faces import with_a_face
from bench.errors import UserError
from bench.metrics.proportions import CHOSEN_THRESHOLDS, proportion
from bench.metrics.verification import all_impostors, equal_error_rate, fold_accuracy, tar_at_far
from bench.seeds import derive_seed
from bench.settings.model import Settings
from bench.settings.registry import make
from bench.settings.resolve import load
from bench.storage.files import file_hash, replacing
from bench.storage.weights import fill, find_weights, read_weights
from bench.toolkit.embedding_training import Recipe, train_embedding
from bench.toolkit.precision import pick_device
from bench.toolkit.progress import track


@dataclass(frozen=True)
class TrainingOptions:
    """What to train, from the command line's options."""

    recognizer: str
    output: Path
    dataset: str = ""  #: a label of the config, whose public faces are the training set
    folder: Path | None = None  #: or a folder of PERSON/IMAGE.jpg
    aligned: bool = False  #: the folder's images are already cropped
    init: str = ""  #: initial weights; "own": the recogniser's
    teacher: str = ""  #: a recogniser whose embeddings are the targets
    defense: str = ""  #: train this defence's server instead of the recogniser
    evaluate: Sequence[str] = ()
    recipe: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0
    full_precision: bool = False


class _Whole(nn.Module):
    """Maps images to embeddings, pixel normalisation included."""

    def __init__(self, network: SplitNetwork) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        embeddings: Tensor = self.network.server(self.network.client((images - self.network.mean) / self.network.scale))
        return embeddings


def train(order: TrainingOptions, config: Path | None, profile: str | None, overrides: Sequence[str]) -> dict[str, Any]:
    """Trains, writes `weights.safetensors`, `model_card.json` and `.md` into the order's folder, and returns the card.

    Raises:
        UserError: settings, data or weights are invalid or missing.
    """
    if bool(order.dataset) == bool(order.folder):
        raise UserError("give exactly one of --dataset LABEL and --folder PATH")
    if order.defense and order.teacher:
        raise UserError("--defense trains by its own recipe (mode); leave out --teacher")
    settings = _settings(order, config, profile, overrides)
    recognizer = settings.recognizers[order.recognizer]
    source: Dataset = (
        ImageFolder(path=str(order.folder), aligned=order.aligned) if order.folder else settings.datasets[order.dataset]
    )
    cache = Path(settings.run.cache)
    faces = source.load(recognizer.alignment, cache).public
    faces = None if faces is None else with_a_face(faces)[0]
    if faces is None or not len(faces):
        raise UserError(f"{order.dataset or order.folder}: no public faces to train on")
    device, rng = pick_device(settings.run.device), Rng(derive_seed("train recognizer", order.seed))
    if order.defense:
        network, state = None, _train_server(settings, order, recognizer, faces, device, rng)
    else:
        network, state = _train_network(settings, order, recognizer, faces, device, rng)
    path = order.output / "weights.safetensors"
    order.output.mkdir(parents=True, exist_ok=True)
    tensors = state.tensors if network is None else network.state_dict()
    with replacing(path) as temporary:
        save_file({name: _stored(value, order.full_precision) for name, value in tensors.items()}, temporary)
    if network is not None:
        fill(network, read_weights(path), path)  # evaluate exactly what was written
        network.eval().to(device)
    results = {}
    for label in order.evaluate:
        evaluation = settings.datasets[label].load(recognizer.alignment, cache)
        if not len(evaluation.pairs):
            raise UserError(f"--evaluate {label}: it has no verification pairs")
        if network is not None:
            results[label] = verification(network, evaluation, label)
    people = len(set(faces.subjects)) if faces.subjects else None
    card = {
        "model": order.defense or order.recognizer,
        "recognizer": order.recognizer,
        "command": shlex.join(["veilbench", *sys.argv[1:]]),
        "sha256": file_hash(path),
        "bytes": path.stat().st_size,
        "parameters": sum(value.numel() for value in tensors.values()),
        "seed": order.seed,
        "data": {
            "name": order.dataset or str(order.folder),
            "parameters": asdict(source) if order.dataset else {},
            "revision": source.revision(),
            "images": len(faces),
            "people": people,
        },
        "training": dict(state.info),
        "verification": results,
        "versions": {"veilbench": __version__, "torch": torch.__version__, "python": platform.python_version()},
        "machine": f"{platform.machine()}, {device.type}, {torch.get_num_threads()} threads",
    }
    for name, text in (("model_card.json", json.dumps(card, indent=1)), ("model_card.md", _markdown(card))):
        with replacing(order.output / name) as temporary:
            temporary.write_text(text + "\n", encoding="utf-8")
    return card


def _settings(order: TrainingOptions, config: Path | None, profile: str | None, overrides: Sequence[str]) -> Settings:
    """The config, reduced to what the order names."""
    datasets = [label for label in (order.dataset, *order.evaluate) if label]
    run = {
        "datasets": list(dict.fromkeys(datasets)) or None,
        "recognizers": list(dict.fromkeys(label for label in (order.recognizer, order.teacher) if label)),
        "defenses": [order.defense] if order.defense else None,
        "attacks": [],
        "judge": "",
    }
    chosen = [f"run.{key}={json.dumps(value)}" for key, value in run.items() if value is not None]
    return load(config, profile, [*overrides, *chosen, "metrics.lpips=false"])


def _recipe(order: TrainingOptions, default: Recipe) -> Recipe:
    recipe: Recipe = make(Recipe, {**asdict(default), **order.recipe}, "--recipe")
    return recipe


def _train_network(
    settings: Settings, order: TrainingOptions, recognizer: Recognizer, faces: FaceSet, device: torch.device, rng: Rng
) -> tuple[SplitNetwork, State]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.child("weights").seed)
        network = recognizer.build()
    teacher = None
    if order.teacher:
        master = settings.recognizers[order.teacher]
        if master.image_size != recognizer.image_size or master.alignment != recognizer.alignment:
            raise UserError(f"--teacher {order.teacher}: takes other images than {order.recognizer}")
        known = master.load().to(device).eval().requires_grad_(False)

        def teacher(images: Tensor) -> Tensor:
            with torch.no_grad():
                return known.embed(known.extract(images))

    if order.init == "own":
        network = recognizer.load()
    elif order.init:
        path = find_weights(order.init, "--init")
        fill(network, read_weights(path), path)
    recipe = _recipe(order, Recipe(loss="distill") if order.teacher else Recipe())
    state = train_embedding(
        _Whole(network),
        lambda images: images,
        faces,
        recipe,
        rng,
        device,
        f"training {order.recognizer}",
        teacher=teacher,
        backbone=network if order.init else None,
        folder=order.output,
    )
    return network.cpu(), state


def _train_server(
    settings: Settings, order: TrainingOptions, recognizer: Recognizer, faces: FaceSet, device: torch.device, rng: Rng
) -> State:
    defense = settings.defenses[order.defense]
    if not hasattr(defense, "recipe"):
        raise UserError(f"--defense {order.defense}: does not train its own recogniser")
    defense = replace(defense, recipe=_recipe(order, defense.recipe))  # type: ignore[call-arg]
    network = recognizer.load().to(device).eval().requires_grad_(False)
    fitted = defense.prepare(network, defense.fit(network, faces, rng.child("fit")))
    state = defense.fit_server(System(network, defense, fitted, device), faces, rng.child("server"))
    if state is None:
        raise UserError(f"--defense {order.defense}: does not train its own recogniser")
    return state


def _stored(value: Tensor, full_precision: bool) -> Tensor:
    value = value.detach().cpu().contiguous()
    return value.half() if value.is_floating_point() and not full_precision else value


def verification(network: SplitNetwork, evaluation: Evaluation, label: str) -> dict[str, Any]:
    """Cross-fold accuracy with its interval, EER, TAR at FAR 1e-2 and 1e-3, and mean cosines, without a defence."""
    test, pairs = evaluation.test, evaluation.pairs
    device = next(network.parameters()).device
    found = []
    with torch.no_grad():
        for start in track(range(0, len(test), 50), f"verifying on {label}", -(-len(test) // 50)):
            images = test.batch(slice(start, start + 50), device)
            found.append(network.embed(network.extract(images)).cpu().numpy())
    embeddings = np.concatenate(found)
    similarity = (embeddings[pairs.left] * embeddings[pairs.right]).sum(1)
    decided = fold_accuracy(similarity, pairs.genuine, pairs.fold, test.found[pairs.left] & test.found[pairs.right])
    owners = np.array(test.subjects or test.names, dtype=object)
    accuracy = proportion(
        decided.correct,
        np.stack([owners[pairs.left], owners[pairs.right]], 1),
        weights=decided.weights,
        kinds=pairs.genuine,
        inflation=CHOSEN_THRESHOLDS,
    )
    genuine, impostors = similarity[pairs.genuine], all_impostors(embeddings, owners)
    return {
        "pairs": len(pairs),
        "acc": round(decided.accuracy, 5),
        "acc_interval": [round(accuracy.low or 0, 5), round(accuracy.high or 0, 5)],
        "eer": round(equal_error_rate(genuine, impostors), 5),
        **{f"tar_at_far_{far:g}": tar_at_far(genuine, impostors, far) for far in (1e-2, 1e-3)},
        "genuine_cosine": round(float(genuine.mean()), 4),
        "impostor_cosine": round(float(impostors.mean()), 4),
    }


def _markdown(card: Mapping[str, Any]) -> str:
    """Formats the card as Markdown."""
    data, training = card["data"], card["training"]
    lines = [
        f"# {card['model']}",
        "",
        f"Trained by `{card['command']}` on {data['images']} images of {data['people']} people (`{data['name']}`,",
        f"revision `{data['revision'][:16]}`), seed {card['seed']}, {training.get('train_s', 0):.0f} s, "
        f"{training.get('precision', '')}. {card['bytes'] / 1e6:.1f} MB, sha256 `{card['sha256'][:16]}`.",
    ]
    if card["verification"]:
        lines += ["", "| protocol | pairs | accuracy | 95 % interval | EER | genuine cosine | impostor cosine |"]
        lines += ["|---|---|---|---|---|---|---|"]
        for name, row in card["verification"].items():
            low, high = row["acc_interval"]
            lines.append(
                f"| {name} | {row['pairs']} | {row['acc']:.4f} | {low:.4f} to {high:.4f} | {row['eer']:.4f} "
                f"| {row['genuine_cosine']:.3f} | {row['impostor_cosine']:.3f} |"
            )
    return "\n".join(lines)
