"""Random perturbation, the AdvFace paper's first baseline (section 5.1.3)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.features import feature_scale


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Defense):
    """Adds uniform noise step by step.

    The paper: "the total number of iterations is 40 and the noise bound in each iteration is 0.2". So `form = "walk"`
    (the default) bounds each step alone and the noise grows with the root of their number: rms
    bound * sqrt(steps / 3) = 0.73. `form = "total"` projects onto a ball of radius `bound` after each step, which is
    what AdvFace's total bound does to its own noise.
    """

    randomized: ClassVar[bool] = True

    steps: int = 40
    bound: float = 0.2  #: largest change of an element, per step (walk) or in all (total)
    form: Literal["walk", "total"] = "walk"
    units: Literal["absolute", "std"] = "absolute"  #: std: `bound` counts standard deviations of public features

    def __post_init__(self) -> None:
        if self.steps < 1 or self.bound < 0:
            raise ValueError("steps must be at least 1 and bound at least 0")

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Measures the features' scale where the bound is given in its units."""
        return State(feature_scale(recognizer, public)) if self.units == "std" else None

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + the walk."""
        bound = self.bound * (float(system.state.tensors["std"]) if self.units == "std" else 1.0)
        noise = features.new_zeros(features.shape)
        for _ in range(self.steps):
            noise += rng.uniform(features, -bound, bound)
            if self.form == "total":
                noise.clamp_(-bound, bound)
        return features + noise
