"""PEEP (Chamikara et al., Computers & Security 2020): Laplace noise on the coefficients of eigenfaces."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.contracts import Conv, Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System

_BATCH = 100


@dataclass(frozen=True, kw_only=True)
class Peep(Defense):
    """The client sends coefficients of eigenfaces, each scaled to [0, 1], plus Laplace noise of scale 1 / epsilon.

    The eigenfaces and the range of each coefficient are of the defender's public faces; a coefficient outside its range
    is clipped, so that its sensitivity really is 1. The paper trains a classifier of a fixed set of people. Here the
    server verifies anybody: it shrinks each coefficient to its expected value given the noise (Wiener), turns the
    coefficients back into a face, and embeds that by the recogniser under test.

    The sensitivity of 1 is that of one coefficient, so the budget of a record is `components` times epsilon, and each
    further enrolment of a person spends it again.
    """

    randomized: ClassVar[bool] = True
    client_side: ClassVar[bool] = True

    epsilon: float = 4.0  #: budget of one coefficient; the paper's figures are at .5 to 8
    components: int = 128  #: number of eigenfaces, at most one fewer than the defender has faces

    def __post_init__(self) -> None:
        if self.epsilon <= 0 or self.components < 1:
            raise ValueError("epsilon must be above 0, and components at least 1")

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Computes the eigenfaces and ranges.

        Raises:
            ValueError: fewer than 3 public faces.
        """
        if len(public) < 3:
            raise ValueError(f"eigenfaces need at least 3 public faces, got {len(public)}")
        device = next(recognizer.parameters()).device
        parts = [public.batch(slice(i, i + _BATCH), device).flatten(1) for i in range(0, len(public), _BATCH)]
        faces = torch.cat(parts)
        mean = faces.mean(0)
        faces -= mean
        values, vectors = torch.linalg.eigh((faces @ faces.T).double())
        kept = min(self.components, len(faces) - 1)
        top = vectors[:, -kept:].flip(1) / values[-kept:].flip(0).clamp_min(1e-9).sqrt()
        axes = (faces.T @ top.float()).T
        seen = faces @ axes.T
        low, span = seen.amin(0), (seen.amax(0) - seen.amin(0)).clamp_min(1e-6)
        scaled = (seen - low) / span
        tensors = {"mean": mean, "axes": axes, "low": low, "span": span, "centre": scaled.mean(0), "var": scaled.var(0)}
        return State({name: value.cpu().contiguous() for name, value in tensors.items()}, {"components": kept})

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> dict[str, Tensor]:
        """The state on the system's device."""
        if state is None:
            raise ValueError("peep has no eigenfaces")
        device = next(recognizer.parameters()).device
        return {name: value.to(device) for name, value in state.tensors.items()}

    def encode(self, system: System, images: Tensor) -> Tensor:
        """Scaled and clipped coefficients (B, components, 1, 1)."""
        own = system.state
        found = ((images.flatten(1) - own["mean"]) @ own["axes"].T - own["low"]) / own["span"]
        scaled: Tensor = found.clamp(0, 1)[..., None, None]
        return scaled

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """The coefficients plus noise."""
        return features + rng.laplace(features) / self.epsilon

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Of the most likely face, by the recogniser."""
        return system.recognizer.embed(system.recognizer.extract(self.face(system, templates)))

    def face(self, system: System, templates: Tensor) -> Tensor:
        """The least-squares estimate (B, 3, H, W) in [0, 1]; anybody who has the eigenfaces can make it."""
        own = system.state
        kept = own["var"] / (own["var"] + 2 / self.epsilon**2)
        scaled = own["centre"] + kept * (templates.flatten(1) - own["centre"])
        pixels: Tensor = (scaled * own["span"] + own["low"]) @ own["axes"] + own["mean"]
        return pixels.reshape(-1, 3, *system.recognizer.image_size).clamp(0, 1)

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """No convolutions."""
        return ()

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """The budget of a coefficient, which the paper states, and that of all of them together."""
        return {
            "epsilon of a coefficient": self.epsilon,
            "epsilon of an image, composed": self.epsilon * self.components,
            "holds for": "one template of a person; the eigenfaces and ranges are of public faces and cost nothing",
        }
