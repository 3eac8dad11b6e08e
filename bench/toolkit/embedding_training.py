"""Trains what embeds faces: a whole recogniser, or a server's part alone (AdvFace paper, section 5.1's recipe).

Adam whose rate falls by a factor each epoch (the paper: period 1, factor 0.94), cross-entropy with a triplet loss, the
new part first and then everything where it starts from trained weights.
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

_HELD_OUT = 0.05  #: of the people (or of the images, where nobody is known)
_MOST_HELD = 100  #: people, or images, that are held out at most
_SETTLED = 0.02  #: converged: the last fifth of the epochs improved the training's loss by less than this share


@dataclass(frozen=True)
class Recipe:
    """How an embedding is trained."""

    epochs: int = 10  #: passes over the faces
    rounds: int = 2  #: of a server: at most so often the schedule, from what the last one reached, while that helps
    head_epochs: int = 1  #: of them, with the backbone at rest: what was trained before meets a new part
    batch: int = 64  #: images a step
    per_person: int = 4  #: images of one person in a batch, where they have so many: what triplets are made of
    learning_rate: float = 1e-3  #: of Adam, the highest
    schedule: Literal["decay", "cosine"] = "decay"  #: decay: a factor an epoch; cosine: falls to zero at the end
    decay: float = 0.94  #: by which an epoch multiplies the rate (schedule = "decay")
    warm_up: int = 50  #: steps until the full rate
    weight_decay: float = 0.0  #: pulls the weights towards zero
    #: From identities; distill: from the embeddings of a teacher.
    loss: Literal["softmax+triplet", "softmax", "arcface", "triplet", "distill"] = "softmax+triplet"
    margin: float = 0.3  #: arcface: radians (Deng et al. 2019); triplet: of squared distance
    scale: float = 24.0  #: of cosines, before cross-entropy
    flip: bool = True  #: mirror half of the images

    def __post_init__(self) -> None:
        if min(self.epochs, self.rounds, self.batch, self.per_person) < 1 or min(self.head_epochs, self.warm_up) < 0:
            raise ValueError(
                "epochs, rounds, batch and per_person must be at least 1, head_epochs and warm_up at least 0"
            )
        if self.learning_rate <= 0 or not 0 < self.decay <= 1 or self.margin < 0 or self.scale <= 0:
            raise ValueError("learning_rate and scale must be above 0, decay in (0, 1], margin at least 0")

    def rate(self, step: int, steps: int, batches: int) -> float:
        """The learning rate of a step."""
        warm = min(1.0, (step + 1) / max(1, self.warm_up))
        if self.schedule == "cosine":
            return self.learning_rate * warm * 0.5 * (1 + cos(pi * step / steps))
        rate: float = self.learning_rate * warm * self.decay ** (step // batches)
        return rate


class _Head(nn.Module):
    """Embeddings and labels to a loss; holds the classes' centres, which nobody keeps after the training."""

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
                # Past pi - margin the turned cosine would rise again; there a plain shift goes on falling.
                turned = torch.where(own > -np.cos(recipe.margin), turned, own - recipe.margin * np.sin(recipe.margin))
                cosines = cosines.scatter(1, labels[:, None], turned)
            loss = functional.cross_entropy(recipe.scale * cosines, labels)
        if "triplet" in recipe.loss:
            loss = loss + _semi_hard_triplets(unit, labels, recipe.margin)
        return loss


def _semi_hard_triplets(unit: Tensor, labels: Tensor, margin: float) -> Tensor:
    """Each pair of one person against the nearest stranger who is farther than the pair (FaceNet, section 3.2).

    Where every stranger is nearer, against the farthest of them: the hardest would pull everybody onto one point.
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
    """Trains `module` in place, and leaves it as it was after its best epoch: its start, if none was better.

    Args:
        module: inputs to embeddings (B, D), not normalised.
        encode: images (B, 3, H, W) in [0, 1] to the module's inputs; called without gradients.
        faces: with `subjects`, unless there is a teacher.
        teacher: images to unit embeddings (B, D): the targets where `recipe.loss` is "distill".
        backbone: the part of `module` that rests during `recipe.head_epochs`.
        unseen: whom the epochs are judged on: by the EER, or by the cosine to the teacher; None: some of `faces`, who
            are then left out of the training. Where they hold no two images of one person, the last epoch stands.
        folder: where checkpoints go after each epoch; a training of the same settings goes on from the last one.

    Returns:
        Its state dict, with the account of the training: what held-out people said of its start, the curve of the
        loss and of what they said then, and `best_epoch` (0: the start).

    Raises:
        DataError: identities are wanted and not known, or too few.
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
    started, loss_sum = time.perf_counter(), 0.0
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
            loss_sum = 0.0
        chosen = order[place * recipe.batch :][: recipe.batch]
        if len(chosen) < 2:  # batch statistics of one image are none
            chosen = order[-2:]
        images = seen.batch(chosen, device)
        if recipe.flip:
            mirrored = torch.from_numpy(turn.random(len(chosen)) < 0.5).to(device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
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
        loss_sum += float(loss.detach())
        if place == batches - 1:
            parts.eval()
            judged = held_out(module, encode, unseen, teacher, device)
            curve.append({"loss": round(loss_sum / batches, 5), **judged})
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


def _hold_out(faces: FaceSet, recipe: Recipe, rng: Rng, label: str) -> tuple[FaceSet, FaceSet]:
    """The images to train on, and those of other people, to measure on."""
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
    """Every image once, shuffled, up to `each` images of one owner next to one another."""
    shuffled = turn.permutation(len(owners))
    by_owner = shuffled[np.argsort(owners[shuffled], kind="stable")]
    starts = np.flatnonzero(np.diff(owners[by_owner], prepend=-1))
    rank = np.arange(len(by_owner)) - np.repeat(starts, np.diff([*starts, len(by_owner)]))
    group = np.cumsum((rank % each) == 0) - 1
    return by_owner[np.argsort(turn.permutation(group[-1] + 1)[group], kind="stable")]


def held_out(
    module: nn.Module, encode: Callable[[Tensor], Tensor], faces: FaceSet, teacher: Embed | None, device: torch.device
) -> dict[str, float]:
    """What faces that taught nothing say of a module in eval mode: EER among their people, or cosine to the teacher.

    Returns:
        `held_out_eer` or `held_out_cosine`; nothing where no two images show one person.
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
