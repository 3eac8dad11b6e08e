"""Reconstructs a face from an identity embedding, as a black box, with Gaussians (Razzhigaev et al., ECCVW 2020)."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.progress import track

_SETTLED = 0.01  #: converged: the cosine rose by less than this over the last fifth of the queries
_MARKS = (0.25, 0.5, 0.75, 1.0)  #: fractions of the budget at which the record stores the mean cosine


@dataclass(frozen=True, kw_only=True)
class GaussianInversion(ReconstructionAttack):
    """Greedily adds the 2-D Gaussian that raises the cosine to the stolen embedding most; uses no gradients.

    A query embeds one image. All targets of a batch share the passes through the recogniser.
    """

    leaks: ClassVar[Literal["template", "embedding"]] = "embedding"

    queries: int = 20_000  #: number of images embedded for each target
    candidates: int = 32  #: number of Gaussians tried before the best one is added
    colour: bool = True  #: False: grey only
    symmetric: bool = False  #: mirror about the vertical axis, as faces are nearly symmetric; the authors' choice
    start: Literal["mean", "grey"] = "mean"  #: start from the mean of the attacker's public faces, or from nothing
    largest: float = 0.35  #: initial size of a Gaussian, as a fraction of the image's side
    smallest: float = 0.03  #: final size
    strength: float = 0.35  #: initial amplitude of a Gaussian; it falls to a quarter
    images: int | None = 16  #: number of targets to attack

    def __post_init__(self) -> None:
        if self.candidates < 1 or self.queries < self.candidates:
            raise ValueError("candidates must be at least 1, and queries at least as many")
        if not 0 < self.smallest <= self.largest or self.strength <= 0:
            raise ValueError("0 < smallest <= largest, and strength above 0")

    @property
    def level(self) -> Knowledge:
        """Needs the similarity score of a login and a client that embeds images."""
        return Knowledge.ENROLMENT

    def subset(self, defense: Defense) -> int | None:
        """Each target has its own query budget."""
        return self.images

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Computes the image that the search starts from."""
        if self.start == "grey":
            return State({"start": torch.full((3, *oracle.image_size), 0.5)})
        chunks = [public.batch(slice(i, i + 50)).sum(0) for i in range(0, len(public), 50)]
        return State({"start": torch.stack(chunks).sum(0) / len(public)})

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Greedily raises the cosine for all targets of the batch in parallel."""
        targets, device = leak.values, leak.values.device
        start = state.tensors["start"].to(device)
        if not self.colour:
            start = start.mean(0, keepdim=True).expand(3, -1, -1)
        if self.symmetric:
            start = (start + start.flip(-1)) / 2
        images: Tensor = start.expand(len(targets), -1, -1, -1).clone()
        reached = (oracle.embed(images) * targets).sum(1)
        steps = max(1, (self.queries - 1) // self.candidates)
        curve = []
        each = torch.arange(len(targets), device=device)
        for step in track(range(steps), "inverting embeddings by Gaussians", steps):
            added = self._gaussians(images, rng, step / steps)
            tried = (images[:, None] + added).clamp_(0, 1)
            found = oracle.embed(tried.flatten(0, 1)).view(len(targets), -1, targets.shape[1])
            cosines = (found * targets[:, None]).sum(2)
            best = cosines.argmax(1)
            better = cosines[each, best] > reached
            images = torch.where(better[:, None, None, None], tried[each, best], images)
            reached = torch.where(better, cosines[each, best], reached)
            curve.append(reached)
        marks = {f"cosine_at_{share:.0%}": curve[math.ceil(share * steps) - 1] for share in _MARKS}
        settled = reached - curve[max(0, math.ceil(0.8 * steps) - 1)] < _SETTLED
        oracle.report(converged=settled, queries_per_target=torch.full((len(targets),), 1.0 + steps * self.candidates))
        oracle.report(**marks)
        return images

    def _gaussians(self, images: Tensor, rng: ImageRng, progress: float) -> Tensor:
        """Candidates (T, K, 3, H, W): rotated ellipses of one colour, smaller and fainter as the search proceeds."""
        count, (height, width) = self.candidates, images.shape[-2:]
        draw = rng.normal(images.new_empty(len(images), count, 8))
        size = self.largest * (self.smallest / self.largest) ** progress
        across, down = (0.5 + 0.22 * draw[..., i] for i in (0, 1))
        long, short = (size * torch.exp(0.4 * draw[..., i]) for i in (2, 3))
        angle = math.pi * draw[..., 4]
        colour = draw[..., 5:8] * self.strength * 0.25**progress
        if not self.colour:
            colour = colour[..., :1].expand(-1, -1, 3)
        rows = torch.linspace(0, 1, height, device=images.device)[:, None]
        columns = torch.linspace(0, 1, width, device=images.device)[None]
        y, x = (axis - place[..., None, None] for axis, place in ((rows, down), (columns, across)))
        cosine, sine = angle.cos()[..., None, None], angle.sin()[..., None, None]
        u = (x * cosine + y * sine) / long[..., None, None]
        v = (y * cosine - x * sine) / short[..., None, None]
        blob: Tensor = torch.exp(-0.5 * (u * u + v * v))
        if self.symmetric:
            blob = torch.maximum(blob, blob.flip(-1))
        painted: Tensor = blob[:, :, None] * colour[..., None, None]
        return painted
