"""Random perturbation, the AdvFace paper's first baseline (section 5.1.3)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
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

        def walk(source: np.random.Generator, row: NDArray[np.float32]) -> None:
            step = np.empty_like(row)
            row[:] = 0
            for _ in range(self.steps):
                source.random(dtype=np.float32, out=step)
                step -= 0.5
                row += step
                if self.form == "total":
                    np.clip(row, -0.5, 0.5, out=row)
            row *= 2 * bound

        return features + rng.draw(features, walk)
