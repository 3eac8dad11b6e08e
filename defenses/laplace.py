"""Laplace noise, the AdvFace paper's differential-privacy baseline (section 5.1.3)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.feature_scale import feature_scale


@dataclass(frozen=True, kw_only=True)
class Laplace(Defense):
    """Adds Laplace noise to every element.

    The paper only says "budget 1.0 to ensure the same noise bound as our method", so `convention` makes the meaning
    explicit:

    - `fixed`: scale = `scale` (0.2, the method's noise bound), whatever the budget;
    - `minmax`: each image's features scaled to [0, 1], sensitivity assumed to be 1: scale = (max - min) / budget;
    - `channel`: each channel's range on the defender's public faces, divided by the budget;
    - `clipped`: features clipped to an L1 ball of radius `radius`, scale = 2 * radius / budget (Dwork et al. 2006).

    Only `clipped` is epsilon-differentially private. With the others the sensitivity is unbounded, or the range is
    itself private.
    """

    randomized: ClassVar[bool] = True
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"budget", "scale", "radius"}),
    }

    budget: float = 1.0  #: epsilon; a larger value means less noise, except with `fixed`
    #: how the scale of the noise is chosen, see above
    convention: Literal["fixed", "minmax", "channel", "clipped"] = "fixed"
    scale: float = 0.2
    radius: float = 1000.0

    def __post_init__(self) -> None:
        if self.budget <= 0 or self.scale < 0 or self.radius <= 0:
            raise ValueError("budget and radius must be above 0, and scale at least 0")

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Measures each channel's range if the convention needs it."""
        return State(feature_scale(recognizer, public)) if self.convention == "channel" else None

    def reference(self, system: System, features: Tensor) -> Tensor:
        """Clipping happens before the noise and does not count as noise."""
        if self.convention != "clipped":
            return features
        norms = features.abs().sum((1, 2, 3), keepdim=True)
        return features * (self.radius / norms.clamp_min(1e-12)).clamp_max(1.0)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features (clipped if the convention requires it) + noise."""
        noise = rng.laplace(features)
        if self.convention == "fixed":
            return features + self.scale * noise
        if self.convention == "minmax":
            span = features.amax((1, 2, 3), keepdim=True) - features.amin((1, 2, 3), keepdim=True)
            return features + span / self.budget * noise
        if self.convention == "channel":
            return features + system.state.tensors["channel_range"].to(features) / self.budget * noise  # type: ignore[no-any-return]
        return self.reference(system, features) + 2 * self.radius / self.budget * noise

    def noise_information(self, system: System, features: Tensor) -> Tensor | None:
        """1 / scale^2; None for `minmax`, whose scale depends on the image."""
        if self.convention == "minmax" or (self.convention == "fixed" and self.scale == 0):
            return None
        if self.convention == "channel":
            scale: Tensor = system.state.tensors["channel_range"].to(features) / self.budget
            return scale.clamp_min(1e-12).pow(-2).expand_as(features)
        fixed = self.scale if self.convention == "fixed" else 2 * self.radius / self.budget
        return torch.full_like(features, fixed**-2)

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """The differential privacy guarantee, for the convention that provides one."""
        if self.convention != "clipped":
            return {}
        return {"epsilon": self.budget, "of": f"a template, its features within an L1 ball of radius {self.radius:g}"}
