"""Gradient inversion: optimises an image until its template matches the stolen one (He et al., ACSAC 2019, rMLE)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.contracts import Defense, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, System
from bench.toolkit.progress import track

_BATCH = 16  #: images optimised in parallel; more would not fit the processor's caches
_SETTLED = 0.02  #: converged: the objective improved by less than this fraction over the last fifth of the steps


@dataclass(frozen=True, kw_only=True)
class GradientInversion(ReconstructionAttack):
    """Minimises |template(x) - stolen|^2 + total variation with AMSGrad; returns the restart with the lowest objective.

    `through = "pipeline"` optimises through `protect`. Where gradients pass, it averages over fresh randomness
    (expectation over transformation, Athalye et al. 2018). Where they do not, because the defence is itself an
    optimisation, it treats the current image's noise as a constant and refreshes it every `refresh` steps (BPDA).
    """

    iterations: int = 400  #: optimisation steps per restart
    learning_rate: float = 0.03  #: AMSGrad's learning rate; images range over [0, 1]
    variation: float = 0.4  #: weight of the total variation, relative to feature errors in units of the features' power
    restarts: int = 1  #: number of starting points per image
    through: Literal["auto", "features", "pipeline"] = "auto"  #: auto: the pipeline if `protect` does anything
    samples: int = 1  #: draws of a randomised defence per step
    refresh: int = 100  #: steps between refreshes of a defence's noise, where gradients do not pass through it
    images: int | None = 100  #: images to attack where `protect` does nothing; None: all
    images_defended: int | None = 32  #: images to attack through a defence

    def __post_init__(self) -> None:
        if min(self.iterations, self.restarts, self.samples, self.refresh) < 1 or self.learning_rate <= 0:
            raise ValueError("iterations, restarts, samples and refresh must be at least 1, learning_rate above 0")

    @property
    def level(self) -> Knowledge:
        """Needs gradients of the whole pipeline."""
        return Knowledge.WHITEBOX

    def subset(self, defense: Defense) -> int | None:
        """Fewer images where each step passes through a defence."""
        return self.images_defended if self._piped(defense) else self.images

    def _piped(self, defense: Defense) -> bool:
        if self.through == "auto":
            return type(defense).protect is not Defense.protect
        return self.through == "pipeline"

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Optimises the images of a batch in parallel, each independently."""
        system = oracle.system
        size = system.defense.protect_batch if self._piped(system.defense) else None
        parts = []
        for start in range(0, len(leak.values), size or _BATCH):
            some = slice(start, start + (size or _BATCH))
            part = ImageRng(rng.generators[some])
            tries = [self._descend(oracle, system, leak.values[some], part, index) for index in range(self.restarts)]
            objectives = torch.stack([objective for _, objective, _ in tries])
            best = objectives.argmin(0)
            chosen = torch.arange(len(best), device=best.device)
            parts.append(torch.stack([images for images, _, _ in tries])[best, chosen])
            settled = torch.stack([calm for _, _, calm in tries])[best, chosen]
            oracle.report(objective=objectives.amin(0), converged=settled)
        return torch.cat(parts)

    def _descend(
        self, oracle: Oracle, system: System, stolen: Tensor, rng: ImageRng, restart: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (images, their objectives, whether each converged)."""
        shape = (len(stolen), 3, *oracle.image_size)
        start = torch.full(shape, 0.5, device=stolen.device)
        spread = 0.02 if restart == 0 else 0.2  # the first restart begins with grey, the others with random images
        images = (start + spread * rng.normal(start)).clamp_(0, 1).requires_grad_()
        optimiser = torch.optim.Adam([images], lr=self.learning_rate, amsgrad=True)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.iterations, self.learning_rate / 50)
        power = stolen.flatten(1).square().mean(1).clamp_min(1e-8)
        predict = self._predictor(oracle, system, rng)
        best = images.detach().clone()
        lowest = torch.full((len(stolen),), torch.inf, device=stolen.device)
        before = lowest
        mark = self.iterations - max(1, self.iterations // 5)
        for step in track(range(self.iterations), "inverting by gradients", self.iterations):
            with torch.enable_grad():
                error = predict(images, step) - stolen
                objective = error.flatten(1).square().mean(1) / power
                if self.variation:
                    objective = objective + self.variation * _variation(images)
                (gradient,) = torch.autograd.grad(objective.sum(), images)
            if step == 0:
                oracle.report(gradient_norm=gradient.flatten(1).norm(dim=1))
            objective = objective.detach()
            better = objective < lowest
            lowest = torch.where(better, objective, lowest)
            best = torch.where(better[:, None, None, None], images.detach(), best)
            if step == mark:
                before = lowest
            images.grad = gradient
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        settled = (before - lowest) < _SETTLED * before
        return best, lowest, settled

    def _predictor(self, oracle: Oracle, system: System, rng: ImageRng) -> Callable[[Tensor, int], Tensor]:
        """The template that the server would store for the images, differentiable."""
        if not self._piped(system.defense):
            return lambda images, step: system.encode(images)
        kept: dict[str, Tensor] = {}

        def predict(images: Tensor, step: int) -> Tensor:
            features = system.encode(images)
            if "noise" not in kept or step % self.refresh == 0:
                templates = system.protect(features, rng)
                if templates.requires_grad:
                    draws = [templates, *(system.protect(features, rng) for _ in range(self.samples - 1))]
                    return torch.stack(draws).mean(0)
                kept["noise"] = (templates - features).detach()
                oracle.report(gradients_masked=torch.ones(len(images)))
            return features + kept["noise"]

        return predict


def _variation(images: Tensor) -> Tensor:
    """Isotropic total variation, (B,)."""
    across = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return (across.square() + down.square() + 1e-8).sqrt().flatten(1).mean(1)
