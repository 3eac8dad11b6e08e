"""Reconstructs a face from a stolen embedding with a linear decoder that is trained on the attacker's own faces."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, Literal, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.errors import NotApplicable
from bench.toolkit.progress import track

_BATCH = 50
_WINDOW = 7  #: of SSIM, as in the metric
_HELD_OUT = 32  #: maximum number of faces that are held out to choose the penalty and to measure the curve
_SETTLED = 0.02  #: converged: the last epoch improved the held-out loss by less than this fraction
_PENALTIES = (0.03, 0.1, 0.3, 1.0, 3.0)  #: tried ridge penalties, relative to the mean eigenvalue of the embeddings


@dataclass(frozen=True)
class EmbeddingTraining:
    """How the decoder is refined: with Adam, whose learning rate falls to zero."""

    epochs: int = 3  #: passes over the faces and their mirror images; 0 keeps the least-squares solution
    batch: int = 32  #: images per step
    learning_rate: float = 1e-3  #: the peak

    def __post_init__(self) -> None:
        if self.epochs < 0 or self.batch < 1 or self.learning_rate <= 0:
            raise ValueError("epochs must be at least 0, batch at least 1, and learning_rate above 0")


@dataclass(frozen=True, kw_only=True)
class EmbeddingDecoder(ReconstructionAttack):
    """The mean face plus a linear map of the embedding: ridge regression first, then a few epochs of L1 + 1 - SSIM.

    The attacker asks the system for the embeddings of own faces and of their mirror images. With the few faces that an
    attacker has, the closed-form solution is a better start than random weights: a convolutional generator
    needs many more faces to reach it. The ridge penalty is the one whose reconstructions of held-out faces have the
    highest cosine.

    With `rounds` above 0 the attacker also embeds each reconstruction and adds the difference between the stolen
    embedding and this one to the decoder's input; the round with the highest cosine is kept. This raises the cosine and
    lowers SSIM.

    An embedding says who it is, not how the photograph was taken. With `target = "person"` the decoder is not asked for
    what it cannot know: it draws the mean of each person's public photographs (Cole et al. 2017 normalise faces to
    frontal, neutral ones with landmarks; here the mean over photographs takes their place).

    Sources: NbNet (Mai et al. 2018) for a decoder of embeddings that is trained on own faces; Otroshi Shahreza and
    Marcel (TIFS 2024) for the L1 and SSIM losses. Neither has the closed-form start or the rounds.
    """

    leaks: ClassVar[Literal["template", "embedding"]] = "embedding"

    #: what the decoder learns to draw: the same photograph, or the mean of the person's public photographs
    target: Literal["photograph", "person"] = "photograph"
    structure: float = 0.75  #: weight of 1 - SSIM beside L1
    rounds: int = 0  #: corrections of the decoder's input; each embeds one image per target
    recipe: EmbeddingTraining = field(default=EmbeddingTraining())

    def __post_init__(self) -> None:
        if self.structure < 0 or self.rounds < 0:
            raise ValueError("structure and rounds must be at least 0")

    @property
    def level(self) -> Knowledge:
        """Needs the system's embeddings of own faces, as at a login."""
        return Knowledge.ENROLMENT

    @property
    def base(self) -> ReconstructionAttack | None:
        """The decoder does not depend on `rounds`, so attacks that differ in it share the training."""
        return None if self.rounds == 0 else replace(self, rounds=0)

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Embeds own faces and their mirror images once each, solves for the map and refines it.

        Raises:
            ValueError: fewer than two public faces.
            NotApplicable: `target = "person"`, and no two public faces are known to show one person.
        """
        if len(public) < 2:
            raise ValueError(f"training an embedding decoder needs at least two public faces, got {len(public)}")
        began = time.perf_counter()
        order = torch.from_numpy(rng.child("split").numpy().permutation(len(public)))
        count = min(_HELD_OUT, max(1, len(public) // 10))
        held, seen = order[:count].numpy(), order[count:].numpy()
        inputs = torch.stack([_embeddings(oracle, public.subset(seen), mirrored) for mirrored in (False, True)])
        drawn = _people(public) if self.target == "person" else public
        real, known = drawn.batch(held, oracle.device), _embeddings(oracle, public.subset(held))
        decoder, penalty = self._solved(oracle, drawn.subset(seen), inputs, known)

        def loss(embeddings: Tensor, images: Tensor) -> Tensor:
            made = decoder(embeddings)
            return cast(Tensor, (made - images).abs().mean() + self.structure * (1 - _ssim(made, images)))

        def held_out() -> float:
            with torch.no_grad():
                return float(loss(known, real))

        curve = [held_out()]
        self._refine(loss, held_out, curve, decoder, drawn.subset(seen), inputs, rng)
        info = {
            "curve_held_out_loss": [round(value, 5) for value in curve],
            "converged": self.recipe.epochs == 0 or curve[-2] - curve[-1] < _SETTLED * curve[-2],
            "penalty": penalty,
            "parameters": sum(p.numel() for p in decoder.parameters()),
            "images": len(seen),
            "train_s": round(time.perf_counter() - began, 2),
        }
        return State({n: v.detach().cpu().contiguous() for n, v in decoder.state_dict().items()}, info)

    def _solved(self, oracle: Oracle, faces: FaceSet, inputs: Tensor, known: Tensor) -> tuple[_Linear, float]:
        """The decoder by ridge regression, and the penalty whose held-out reconstructions have the highest cosine.

        Args:
            inputs: (2, N, D), embeddings of the faces and of their mirror images.
            known: (M, D), embeddings of the held-out faces.
        """
        centre = inputs.mean((0, 1))
        gram = torch.zeros(inputs.shape[2], inputs.shape[2], dtype=torch.float64, device=oracle.device)
        cross: Tensor | None = None
        total: Tensor | None = None
        for first in range(0, len(faces), _BATCH):
            images = faces.batch(slice(first, first + _BATCH), oracle.device)
            for side, shown in zip(inputs, (images, images.flip(-1)), strict=True):
                rows, pixels = (side[first : first + _BATCH] - centre).double(), shown.flatten(1)
                gram += rows.T @ rows
                product = rows.float().T @ pixels
                cross = product if cross is None else cross + product
                total = pixels.sum(0) if total is None else total + pixels.sum(0)
        assert cross is not None and total is not None
        mean = total / (2 * len(faces))
        unit = float(gram.diagonal().mean().clamp_min(1e-12))
        best: tuple[float, float, Tensor] | None = None
        for penalty in _PENALTIES:
            damped = gram + penalty * unit * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
            weights = torch.linalg.solve(damped, cross.double()).float()
            made = (mean + (known - centre) @ weights).reshape(-1, 3, *oracle.image_size).clamp(0, 1)
            reached = float(functional.cosine_similarity(oracle.embed(made), known).mean())
            if best is None or reached > best[0]:
                best = (reached, penalty, weights)
        assert best is not None
        decoder = _Linear(len(centre), oracle.image_size).to(oracle.device)
        with torch.no_grad():
            decoder.weight.copy_(best[2])
            decoder.bias.copy_(mean)
            decoder.centre.copy_(centre)
        return decoder, best[1]

    def _refine(
        self, loss: Any, held_out: Any, curve: list[float], decoder: _Linear, faces: FaceSet, inputs: Tensor, rng: Rng
    ) -> None:
        """Trains the decoder in place and keeps the best epoch, the least-squares solution included."""
        optimiser = torch.optim.Adam(decoder.parameters(), lr=self.recipe.learning_rate)
        turns, batches = rng.child("order").numpy(), math.ceil(2 * len(faces) / self.recipe.batch)
        steps = self.recipe.epochs * batches
        best, kept = curve[0], {name: value.clone() for name, value in decoder.state_dict().items()}
        for step in track(range(steps), "embedding decoder", steps):
            if step % batches == 0:
                shuffled = turns.permutation(2 * len(faces))
            chosen = shuffled[(step % batches) * self.recipe.batch :][: self.recipe.batch]
            mirrored = torch.from_numpy(chosen % 2 == 1).to(inputs.device)
            images = faces.batch(chosen // 2, inputs.device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
            rate = min(1.0, (step + 1) / max(1, steps // 10)) * 0.5 * (1 + math.cos(math.pi * step / steps))
            for group in optimiser.param_groups:
                group["lr"] = self.recipe.learning_rate * rate
            optimiser.zero_grad(set_to_none=True)
            loss(inputs[mirrored.long(), torch.from_numpy(chosen // 2).to(inputs.device)], images).backward()
            optimiser.step()
            if (step + 1) % batches == 0:
                curve.append(held_out())
                if curve[-1] < best:
                    best, kept = curve[-1], {name: value.clone() for name, value in decoder.state_dict().items()}
        decoder.load_state_dict(kept)

    def prepare(self, oracle: Oracle, state: State | None) -> nn.Module:
        """The trained decoder."""
        if state is None:
            raise ValueError("EmbeddingDecoder has no trained state")
        decoder = _Linear(len(state.tensors["centre"]), oracle.image_size)
        decoder.load_state_dict(dict(state.tensors))
        return decoder.to(oracle.device).eval().requires_grad_(False)

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Decodes; with `rounds`, corrects the input and keeps the image of the highest cosine."""
        stolen = functional.normalize(leak.values)
        with torch.no_grad():
            images: Tensor = state(leak.values).clamp(0, 1)
            if self.rounds:
                images, cosine = self._corrected(oracle, state, stolen, images)
                oracle.report(cosine=cosine)
        asked = self.rounds + 1 if self.rounds else 0
        oracle.report(queries_per_target=torch.full((len(images),), float(asked)))
        return images

    def _corrected(self, oracle: Oracle, decoder: Any, stolen: Tensor, images: Tensor) -> tuple[Tensor, Tensor]:
        aim, best = stolen, images
        highest = torch.full((len(stolen),), -math.inf, device=stolen.device)
        for _ in range(self.rounds + 1):
            seen = functional.normalize(oracle.embed(images))
            cosine = (seen * stolen).sum(1)
            best = torch.where((cosine > highest)[:, None, None, None], images, best)
            highest = torch.maximum(highest, cosine)
            aim = aim + stolen - seen
            images = decoder(aim).clamp(0, 1)
        return best, highest


class _Linear(nn.Module):
    """Maps embeddings (B, D) to images (B, 3, H, W), about [0, 1]."""

    centre: Tensor

    def __init__(self, inputs: int, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size
        self.weight = nn.Parameter(torch.zeros(inputs, 3 * size[0] * size[1]))
        self.bias = nn.Parameter(torch.zeros(3 * size[0] * size[1]))
        self.register_buffer("centre", torch.zeros(inputs))

    def forward(self, embeddings: Tensor) -> Tensor:
        return torch.addmm(self.bias, embeddings - self.centre, self.weight).reshape(-1, 3, *self.size)


def _people(faces: FaceSet) -> FaceSet:
    """The same set with the mean photograph of each person in place of each photograph."""
    if faces.subjects is None or len(set(faces.subjects)) == len(faces):
        raise NotApplicable('target = "person": no two public faces are known to show one person')
    people, rows = np.unique(np.array(faces.subjects, dtype=object), return_inverse=True)
    total = np.zeros((len(people), *faces.pixels.shape[1:]))
    for start in range(0, len(faces), _BATCH):
        np.add.at(total, rows[start : start + _BATCH], faces.pixels[faces.rows[start : start + _BATCH]])
    means = total / np.bincount(rows)[:, None, None, None]
    return replace(faces, pixels=np.rint(means).astype(np.uint8), rows=rows.astype(np.int64), originals=None)


def _embeddings(oracle: Oracle, faces: FaceSet, mirrored: bool = False) -> Tensor:
    """(N, D) of the faces, or of their mirror images."""
    parts = []
    for first in range(0, len(faces), _BATCH):
        images = faces.batch(slice(first, first + _BATCH), oracle.device)
        parts.append(oracle.embed(images.flip(-1) if mirrored else images).float())
    return torch.cat(parts)


def _ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean SSIM of batches in [0, 1], with a uniform window."""
    means = [functional.avg_pool2d(x, _WINDOW, 1) for x in (one, other, one * one, other * other, one * other)]
    x, y, xx, yy, xy = means
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * x * y + c1) * (2 * (xy - x * y) + c2)
    return (above / ((x * x + y * y + c1) * (xx - x * x + yy - y * y + c2))).mean()
