"""Random perturbation, the AdvFace paper's first baseline (section 5.1.3)."""

from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.feature_scale import feature_scale

_BOUND = 1 << 15  #: the bound, in units of a step's 16-bit resolution


@dataclass(frozen=True, kw_only=True)
class RandomNoise(Defense):
    """Adds uniform noise in several steps.

    The paper: "the total number of iterations is 40 and the noise bound in each iteration is 0.2". So `form = "walk"`
    (the default) bounds each step alone and the noise grows with the square root of their number: rms bound *
    sqrt(steps / 3) = 0.73. `form = "total"` projects onto a ball of radius `bound` after each step, as AdvFace's total
    bound does with its own noise.
    """

    randomized: ClassVar[bool] = True

    steps: int = 40  #: number of steps
    bound: float = 0.2  #: largest change of an element, per step (walk) or in total
    form: Literal["walk", "total"] = "walk"
    units: Literal["absolute", "std"] = "absolute"  #: std: `bound` is in standard deviations of public features

    def __post_init__(self) -> None:
        if self.steps < 1 or self.bound < 0:
            raise ValueError("steps must be at least 1 and bound at least 0")

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Measures the features' scale if the bound is given in its units."""
        return State(feature_scale(recognizer, public)) if self.units == "std" else None

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + the sum of the steps."""
        bound = self.bound * (float(system.state.tensors["std"]) if self.units == "std" else 1.0)

        def walk(source: np.random.Generator, row: NDArray[np.float32]) -> None:
            # Four values per draw: 16 bits exceed the resolution that a sum of such steps could show.
            places = row.size
            walked = np.zeros(places, dtype=np.int32)
            for _ in range(self.steps):
                walked += source.bit_generator.random_raw(-(-places // 4)).view(np.int16)[:places]
                if self.form == "total":
                    np.clip(walked, -_BOUND, _BOUND, out=walked)
            row[:] = walked.reshape(row.shape)
            if self.form == "walk":
                row += self.steps / 2  # a step has the value of its bin's centre
            row *= bound / _BOUND

        return features + rng.draw(features, walk)
