"""Trains embedding networks: a whole recogniser, or only a server's part (recipe of the AdvFace paper, section 5.1).

It uses Adam with a learning rate that falls by a factor each epoch (the paper: period 1, factor 0.94), and
cross-entropy with a triplet loss. When it starts from trained weights, it first trains the new part and then
everything.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from math import ceil, cos, pi
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, Rng, State
from bench.errors import DataError
from bench.metrics.verification import all_impostors, equal_error_rate
from bench.storage.keys import content_key
from bench.toolkit.checkpoint import BestEpoch, Checkpoint
from bench.toolkit.precision import autocast, precision_name
from bench.toolkit.progress import track

Embed = Callable[[Tensor], Tensor]

_HELD_OUT = 0.05  #: fraction of the people (or of the images, if identities are unknown) that is held out
_MOST_HELD = 100  #: maximum number of held-out people or images
_SETTLED = 0.02  #: converged: the training loss improved by less than this fraction over the last fifth of the epochs


@dataclass(frozen=True)
class Recipe:
    """Settings of an embedding's training."""

    epochs: int = 10  #: passes over the faces
    rounds: int = 2  #: for a server: repeat the schedule from the last result, at most so often, while that helps
    head_epochs: int = 1  #: of these, epochs with a frozen backbone, while the trained part adapts to a new one
    batch: int = 64  #: images per step
    per_person: int = 4  #: images of one person per batch, where available; triplets need them
    learning_rate: float = 1e-3  #: Adam's peak learning rate
    schedule: Literal["decay", "cosine"] = "decay"  #: decay: a factor per epoch; cosine: falls to zero at the end
    decay: float = 0.94  #: factor of the learning rate per epoch (schedule = "decay")
    warm_up: int = 50  #: steps until the full learning rate
    weight_decay: float = 0.0  #: weight decay
    #: Trains on identities; distill: on the embeddings of a teacher.
    loss: Literal["softmax+triplet", "softmax", "arcface", "triplet", "distill"] = "softmax+triplet"
    margin: float = 0.3  #: arcface: radians (Deng et al. 2019); triplet: of squared distance
    scale: float = 24.0  #: scale of the cosines before the cross-entropy
    flip: bool = True  #: mirror half of the images
    #: Standard deviation of a random shift and of a random relative gain of each colour plane of each image.
    colour: float = 0.0

    def __post_init__(self) -> None:
        if min(self.epochs, self.rounds, self.batch, self.per_person) < 1 or min(self.head_epochs, self.warm_up) < 0:
            raise ValueError(
                "epochs, rounds, batch and per_person must be at least 1, head_epochs and warm_up at least 0"
            )
        if self.learning_rate <= 0 or not 0 < self.decay <= 1 or self.scale <= 0 or min(self.margin, self.colour) < 0:
            raise ValueError("learning_rate and scale must be above 0, decay in (0, 1], margin and colour at least 0")

    def rate(self, step: int, steps: int, batches: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.warm_up))
        if self.schedule == "cosine":
            return self.learning_rate * warm * 0.5 * (1 + cos(pi * step / steps))
        rate: float = self.learning_rate * warm * self.decay ** (step // batches)
        return rate


class _Head(nn.Module):
    """Maps embeddings and labels to a loss; holds the class centres, which are discarded after the training."""

    def __init__(self, recipe: Recipe, width: int, people: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.centres = nn.Parameter(torch.randn(people, width) / width**0.5)

    def forward(self, embeddings: Tensor, labels: Tensor) -> Tensor:
        recipe, unit = self.recipe, functional.normalize(embeddings)
        loss = embeddings.new_zeros(())
        if recipe.loss != "triplet":
            cosines = unit @ functional.normalize(self.centres).T
            if recipe.loss == "arcface":
                own = cosines.gather(1, labels[:, None])
                sine = (1 - own * own).clamp_min(1e-9).sqrt()
                turned = own * np.cos(recipe.margin) - sine * np.sin(recipe.margin)
                # Beyond pi - margin the shifted cosine would rise again; a constant offset keeps it falling.
                turned = torch.where(own > -np.cos(recipe.margin), turned, own - recipe.margin * np.sin(recipe.margin))
                cosines = cosines.scatter(1, labels[:, None], turned)
            loss = functional.cross_entropy(recipe.scale * cosines, labels)
        if "triplet" in recipe.loss:
            loss = loss + _semi_hard_triplets(unit, labels, recipe.margin)
        return loss


def _semi_hard_triplets(unit: Tensor, labels: Tensor, margin: float) -> Tensor:
    """For each pair of one person: the nearest other person who is farther away than the pair (FaceNet, section 3.2).

    If every other person is nearer, the farthest of them: the hardest negative would collapse all embeddings to one
    point.
    """
    distance = 2 - 2 * unit @ unit.T
    same = labels[:, None] == labels
    farther = (~same)[:, None] & (distance[:, None] > distance[..., None])  # (anchor, positive, negative)
    nearest = distance[:, None].expand_as(farther).masked_fill(~farther, torch.inf).amin(2)
    farthest = distance.masked_fill(same, -torch.inf).amax(1, keepdim=True).expand_as(nearest)
    negative = torch.where(farther.any(2), nearest, farthest)
    positive = same & ~torch.eye(len(labels), dtype=torch.bool, device=labels.device)
    if not positive.any() or bool(same.all()):
        return unit.sum() * 0
    return functional.relu(distance - negative + margin)[positive].mean()


def train_embedding(
    module: nn.Module,
    encode: Callable[[Tensor], Tensor],
    faces: FaceSet,
    recipe: Recipe,
    rng: Rng,
    device: torch.device,
    label: str,
    *,
    teacher: Embed | None = None,
    backbone: nn.Module | None = None,
    unseen: FaceSet | None = None,
    folder: Path | None = None,
) -> State:
    """Trains `module` in place and leaves it at its best epoch, or at its start if no epoch was better.

    Args:
        module: maps inputs to embeddings (B, D), not normalised.
        encode: maps images (B, 3, H, W) in [0, 1] to the module's inputs; called without gradients.
        faces: with `subjects`, unless there is a teacher.
        teacher: maps images to unit embeddings (B, D), the targets if `recipe.loss` is "distill".
        backbone: the part of `module` that is frozen during `recipe.head_epochs`.
        unseen: the faces on which epochs are judged, by EER or by cosine to the teacher; None: some of `faces`, which
            are
            then left out of the training. If no person has two images in them, the last epoch is the result.
        folder: for a checkpoint after each epoch; a training with the same settings resumes from the last one.

    Returns:
        Its state dict, and a log of the training: the held-out score of the start, the curves of the loss and of the
        held-out score, and `best_epoch` (0: the start).

    Raises:
        DataError: identities are needed and unknown, or too few.
    """
    if (recipe.loss == "distill") != (teacher is not None):
        raise ValueError('a teacher goes with loss = "distill", and nothing else')
    seen, unseen = _hold_out(faces, recipe, rng, label) if unseen is None else (faces, unseen)
    people, labels = np.unique(np.array(seen.subjects or [""] * len(seen)), return_inverse=True)
    module = module.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    head = None
    if teacher is None:
        with torch.no_grad():
            width = module.eval()(encode(seen.batch(slice(0, 2), device))).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.child("head").seed)
            head = _Head(recipe, width, len(people)).to(device)
    parts = nn.ModuleDict({"module": module, **({"head": head} if head else {})})
    optimiser = torch.optim.AdamW(parts.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    checkpoint = Checkpoint(
        folder, content_key(recipe=recipe, names=seen.names, seed=rng.seed, rows=seen.rows.tolist())
    )
    parts.eval()
    best = BestEpoch(held_out(module, encode, unseen, teacher, device), module)
    curve = checkpoint.restore(parts, optimiser, best)
    batches = ceil(len(seen) / recipe.batch)
    steps, done = recipe.epochs * batches, len(curve) * batches
    started, loss_sum = time.perf_counter(), torch.zeros((), dtype=torch.float64, device=device)
    look_at = seen.loader(device)
    for step in track(range(done, steps), label, steps - done):
        epoch, place = divmod(step, batches)
        if place == 0:
            resting = epoch < recipe.head_epochs and backbone is not None
            parts.train()
            parts.requires_grad_(True)
            if resting and backbone is not None:
                backbone.eval().requires_grad_(False)
            turn = rng.child("epoch", epoch).numpy()
            order = _order(labels if teacher is None else np.arange(len(seen)), recipe.per_person, turn)
            loss_sum.zero_()
        chosen = order[place * recipe.batch :][: recipe.batch]
        if len(chosen) < 2:  # a single image has no batch statistics
            chosen = order[-2:]
        images = look_at(chosen)
        if recipe.flip:
            mirrored = torch.from_numpy(turn.random(len(chosen)) < 0.5).to(device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        if recipe.colour:
            images = _tinted(images, recipe.colour, turn)
        with torch.no_grad():
            inputs = encode(images)
            inputs = inputs.contiguous(memory_format=torch.channels_last) if inputs.dim() == 4 else inputs
        with autocast(device):
            embeddings = module(inputs)
        if teacher is not None:
            loss = 1 - (functional.normalize(embeddings.float()) * teacher(images)).sum(1).mean()
        else:
            assert head is not None
            loss = head(embeddings.float(), torch.from_numpy(labels[chosen]).to(device))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimiser.param_groups:
            group["lr"] = recipe.rate(step, steps, batches)
        optimiser.step()
        loss_sum += loss.detach()
        if place == batches - 1:
            parts.eval()
            judged = held_out(module, encode, unseen, teacher, device)
            curve.append({"loss": round(float(loss_sum) / batches, 5), **judged})
            best.offer(judged, module, len(curve))
            checkpoint.save(parts, optimiser, curve, best)
    module.load_state_dict(best.tensors)
    parts.eval().requires_grad_(False)
    losses = [point["loss"] for point in curve]
    before = losses[max(0, len(losses) - 1 - max(1, len(losses) // 5))]
    account = {
        "start": best.start,
        "curve": curve,
        "best_epoch": best.epoch,
        "converged": len(losses) > 1 and before - losses[-1] < _SETTLED * abs(before),
        "people": len(people) if teacher is None else None,
        "images": len(seen),
        "held_out_images": len(unseen),
        "recipe": asdict(recipe),
        "precision": precision_name(device),
        "train_s": round(time.perf_counter() - started, 2),
    }
    return State({name: value.detach().cpu().contiguous() for name, value in module.state_dict().items()}, account)


def _tinted(images: Tensor, size: float, rng: np.random.Generator) -> Tensor:
    """The images (B, 3, H, W) in [0, 1], each plane with a random gain and shift: a face keeps its name."""
    drawn = torch.from_numpy(rng.standard_normal((2, len(images), 3, 1, 1), dtype=np.float32)).to(images) * size
    return (images * (1 + drawn[0]) + drawn[1]).clamp(0, 1)


def _hold_out(faces: FaceSet, recipe: Recipe, rng: Rng, label: str) -> tuple[FaceSet, FaceSet]:
    """Splits the images into a training set and images of other people to measure on."""
    if recipe.loss == "distill":
        owners = np.array(faces.names)
    elif faces.subjects is None:
        raise DataError(f"{label}: nobody knows who is on these faces; give a set with identities, or a teacher")
    else:
        owners = np.array(faces.subjects)
    people = np.unique(owners)
    if len(people) < 4:
        raise DataError(f"{label}: {len(people)} people or images are too few to train on")
    count = min(_MOST_HELD, max(2, round(_HELD_OUT * len(people))))
    held = np.isin(owners, rng.child("held out").numpy().permutation(people)[:count])
    return faces.subset(np.flatnonzero(~held)), faces.subset(np.flatnonzero(held))


def _order(owners: NDArray[Any], each: int, turn: np.random.Generator) -> NDArray[np.int64]:
    """Every image once, shuffled, with up to `each` images of one owner next to one another."""
    shuffled = turn.permutation(len(owners))
    by_owner = shuffled[np.argsort(owners[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(owners[by_owner], prepend=-1))
    rank = np.arange(len(by_owner)) - np.repeat(starts, np.diff([*starts, len(by_owner)]))
    group = np.cumsum((rank % each) == 0) - 1
    return by_owner[np.argsort(turn.permutation(group[-1] + 1)[group], kind="stable")]


def held_out(
    module: nn.Module, encode: Callable[[Tensor], Tensor], faces: FaceSet, teacher: Embed | None, device: torch.device
) -> dict[str, float]:
    """The held-out score of a module in eval mode: EER among the people, or mean cosine to the teacher.

    Returns:
        `held_out_eer` or `held_out_cosine`; empty if no two images show one person.
    """
    found, wanted = [], []
    with torch.no_grad():
        for start in range(0, len(faces), 50):
            images = faces.batch(slice(start, start + 50), device)
            found.append(functional.normalize(module(encode(images))).cpu())
            if teacher is not None:
                wanted.append(teacher(images).cpu())
    embeddings = torch.cat(found)
    if teacher is not None:
        return {"held_out_cosine": round(float((embeddings * torch.cat(wanted)).sum(1).mean()), 5)}
    subjects = np.array(faces.subjects)
    similarity = (embeddings @ embeddings.T).numpy()
    upper = np.triu(subjects[:, None] == subjects, 1)
    impostors = all_impostors(embeddings.numpy(), subjects)
    if not upper.any() or not len(impostors):
        return {}
    return {"held_out_eer": round(equal_error_rate(similarity[upper], impostors), 5)}
