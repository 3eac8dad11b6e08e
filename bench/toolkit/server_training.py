"""Trains what the server recognises with, where a defence changes what it sees."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.contracts import FaceSet, Rng, SplitNetwork, State
from bench.errors import DataError
from bench.storage.weights import load_strictly, read_weights
from bench.toolkit.embedding_training import Recipe, train_embedding

#: identity: the recipe's own loss on the people of the public faces; teacher: the unprotected recogniser's embeddings
#: of the clean images are the targets (1 - cosine); auto: identities where there are enough of them.
Labels = Literal["auto", "identity", "teacher"]

# From fewer people, or fewer images of each, a network learns the people by heart instead of learning to tell apart.
_PEOPLE, _IMAGES = 100, 4
_HELD_OUT = 64  #: images kept from training, at most; what the training reached is measured on them
_BATCH = 25


def _by_people(faces: FaceSet, least: int) -> FaceSet:
    """The images of people who have at least so many."""
    counts = Counter(faces.subjects or ())
    return faces.subset([i for i, who in enumerate(faces.subjects or ()) if counts[who] >= least])


def knows_identities(faces: FaceSet) -> bool:
    """Whether there are enough people with enough images to learn identities from."""
    return len(set(_by_people(faces, _IMAGES).subjects or ())) >= _PEOPLE


def teaching_faces(faces: FaceSet, labels: Labels, limit: int | None, rng: Rng) -> tuple[FaceSet, bool]:
    """At most `limit` faces to learn from, and whether from their identities; people stay whole where they teach.

    Raises:
        DataError: identities are asked for and nobody has two images.
    """
    identities = labels == "identity" or (labels == "auto" and knows_identities(faces))
    if identities:
        faces = _by_people(faces, 2)
        if not len(faces):
            raise DataError('no two public faces show one person: identities cannot teach; use "teacher"')
        people = sorted(set(faces.subjects or ()))
        rank = {people[i]: place for place, i in enumerate(rng.numpy().permutation(len(people)))}
        order = sorted(range(len(faces)), key=lambda i: rank[(faces.subjects or ())[i]])
    else:
        order = list(rng.numpy().permutation(len(faces)))
    return faces.subset(order[:limit]), identities


def train_server(
    module: nn.Module,
    encode: Callable[[Tensor], Tensor],
    recognizer: SplitNetwork,
    faces: FaceSet,
    identities: bool,
    recipe: Recipe,
    rng: Rng,
    label: str,
    backbone: nn.Module | None = None,
) -> State:
    """Trains `module` in place to embed what `encode` makes of images.

    Args:
        faces: what `teaching_faces` chose; the last ones are held out.
        backbone: the part of `module` that rests during `recipe.head_epochs`.

    Returns:
        Its state dict, with the training's account and `cosine_to_unprotected`: how near its embeddings of held-out
        faces are to those of the unprotected recogniser, before and after.
    """
    device = next(recognizer.parameters()).device
    held = min(_HELD_OUT, max(1, len(faces) // 10))
    seen, unseen = faces.subset(range(len(faces) - held)), faces.subset(range(len(faces) - held, len(faces)))

    def teacher(images: Tensor) -> Tensor:
        with torch.no_grad():
            return recognizer.embed(recognizer.extract(images))

    def agreement() -> float:
        module.eval()
        total = 0.0
        with torch.no_grad():
            for start in range(0, held, _BATCH):
                images = unseen.batch(slice(start, start + _BATCH), device)
                total += float((normalize(module(encode(images))) * teacher(images)).sum())
        return round(total / held, 5)

    module.to(device).requires_grad_(True)
    before = agreement()
    state = train_embedding(
        module,
        encode,
        seen,
        recipe if identities else replace(recipe, loss="distill"),
        rng,
        device,
        label,
        teacher=None if identities else teacher,
        backbone=backbone,
    )
    reached = {"before": before, "after": agreement(), "images": held}
    taught = {"learned_from": "identities" if identities else "the unprotected recogniser's embeddings"}
    return State(state.tensors, {**state.info, **taught, "cosine_to_unprotected": reached})


def trained_server(module: nn.Module, path: Path) -> State:
    """The state in a file that was trained before.

    Raises:
        DataError: it is damaged, or for another network.
    """
    tensors = read_weights(path)
    load_strictly(module, tensors, path)
    return State(tensors, {"weights": path.name})


def restore_server(module: nn.Module, state: State, device: torch.device) -> nn.Module:
    """The network with its trained weights, in eval mode, frozen."""
    module.load_state_dict(dict(state.tensors))
    return module.to(device).eval().requires_grad_(False)
