"""The most likely image behind a template, found with the gradients of the client, from a good start."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from scipy.ndimage import median_filter
from torch import Tensor

from bench.metrics.image import image_scores
from bench.toolkit.affine import cosine
from bench.toolkit.noise_law import NoiseLaw
from bench.toolkit.progress import track

Encode = Callable[[Tensor], Tensor]

_BATCH = 16  #: images optimised side by side
_LEAST = 1e-3  #: smallest error of a template's entry that is believed, in units of the templates' rms
_RESNAPS = 3  #: times that the noise is corrected again during a search


@dataclass(frozen=True)
class Search:
    """One way to search.

    Attributes:
        loss: how a template's errors are penalised.
        prior: how much the start counts against them.
        iterations: steps of Adam.
        learning_rate: in standard deviations of the start's error, wave by wave.
    """

    loss: Literal["square", "cauchy"]
    prior: float
    iterations: int = 150
    learning_rate: float = 0.1

    @property
    def name(self) -> str:
        """For the record."""
        return f"{self.loss} {self.prior:g}"


#: What an attacker tries on faces of their own, besides leaving the start as it is.
SEARCHES = (Search("square", 1.0), Search("square", 0.1), Search("cauchy", 1.0), Search("cauchy", 0.1))


@dataclass(frozen=True, eq=False)
class Posterior:
    """How far off templates and starts are: the scales of the objective.

        sum_f loss((E(x)_f - t_f) / s_f) + prior * sum_k ((x - start)_k / w_k)^2

    E is the client, x the image, t the template; f counts the entries of a template, k the waves of a cosine basis.

    Attributes:
        template_rms: (C,), s for the loss `square`: rms error of a channel's entries.
        template_scatter: (C,), s for the loss `cauchy`: what 68 % of a channel's errors stay below.
        start_rms: (3, H, W), w: rms error of the start, wave by wave.
    """

    template_rms: Tensor
    template_scatter: Tensor
    start_rms: Tensor

    @classmethod
    def measured(cls, encode: Encode, truth: Tensor, templates: Tensor, starts: Tensor) -> Posterior:
        """From faces that the attacker knows.

        Args:
            truth, starts: (B, 3, H, W) in [0, 1]: the faces, and what the attacker has of them so far.
            templates: (B, C, h, w), with the noise taken off as far as it could be.
        """
        with torch.no_grad():
            error = templates - torch.cat([encode(some) for some in torch.split(truth, _BATCH)])
        least = float(templates.square().mean().sqrt()) * _LEAST
        rows = error.transpose(0, 1).flatten(1).abs().float()
        waves = cosine(truth - starts).square().mean(0).sqrt().cpu()
        smooth = torch.stack([torch.from_numpy(median_filter(p.numpy(), 5, mode="nearest")) for p in waves])
        return cls(
            rows.square().mean(1).sqrt().clamp_min(least),
            rows.kthvalue(max(1, int(0.68 * rows.shape[1])), dim=1).values.clamp_min(least),
            smooth.clamp_min(float(smooth.max()) * 1e-3).to(truth),
        )

    def to(self, device: torch.device) -> Posterior:
        """The same, elsewhere."""
        return Posterior(self.template_rms.to(device), self.template_scatter.to(device), self.start_rms.to(device))

    def search(self, encode: Encode, templates: Tensor, starts: Tensor, law: NoiseLaw, how: Search) -> Tensor:
        """Images (B, 3, H, W) in [0, 1], each searched for on its own by Adam.

        Args:
            encode: with gradients.
            templates: as they were stolen; noise whose `law` is known is taken off again and again.
            starts: (B, 3, H, W).
        """
        pairs = zip(torch.split(templates, _BATCH), torch.split(starts, _BATCH), strict=True)
        return torch.cat([self._descend(encode, *pair, law, how) for pair in pairs])

    def _descend(self, encode: Encode, stolen: Tensor, starts: Tensor, law: NoiseLaw, how: Search) -> Tensor:
        error = (self.template_rms if how.loss == "square" else self.template_scatter).to(stolen).reshape(-1, 1, 1)
        start, target = starts.float(), stolen
        step = torch.zeros_like(start).requires_grad_()
        optimiser = torch.optim.Adam([step], lr=how.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, how.iterations, how.learning_rate / 50)
        again = {round(how.iterations * turn / (_RESNAPS + 1)) for turn in range(_RESNAPS + 1)}
        for turn in track(range(how.iterations), "searching with gradients", how.iterations):
            with torch.enable_grad():
                features = encode(start + cosine(step * self.start_rms, inverse=True))
                if turn in again and law.family != "none":
                    target = stolen - law.nearest(stolen - features.detach())
                off = ((features - target) / error).square()
                misfit = off if how.loss == "square" else torch.log1p(off)
                objective = misfit.sum() + how.prior * step.square().sum()
                (step.grad,) = torch.autograd.grad(objective, step)
            optimiser.step()
            schedule.step()
        return (start + cosine(step.detach() * self.start_rms, inverse=True)).clamp(0, 1)


def best_search(truth: Tensor, starts: Tensor, found: Callable[[Search], Tensor]) -> tuple[int, Mapping[str, float]]:
    """(place in `SEARCHES` of the one that does best on known faces, or -1 for the start itself; SSIM of each)."""
    scores = {"start": _ssim(truth, starts)}
    best, chosen = scores["start"], -1
    for index, how in enumerate(SEARCHES):
        scores[how.name] = _ssim(truth, found(how))
        if scores[how.name] > best:
            best, chosen = scores[how.name], index
    return chosen, scores


def _ssim(originals: Tensor, images: Tensor) -> float:
    return float(image_scores(originals.cpu(), images.float().clamp(0, 1).cpu())["ssim"].mean())
