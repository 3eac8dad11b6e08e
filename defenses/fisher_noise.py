"""Gaussian noise with a bound on unbiased attackers (Maeng et al., NeurIPS 2023)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.fisher import information_trace


@dataclass(frozen=True, kw_only=True)
class FisherNoise(Defense):
    """Stores features + sigma * normal noise, with the sigma that gives the wanted mean squared error.

    With Gaussian noise, features E(x) have the Fisher information J'J / sigma^2 about the pixels, and dFIL is its trace
    over the number d of pixel values. By Cramer and Rao, an unbiased attacker's mean squared error is at least 1 / dFIL
    (pixels in [0, 1]). sigma is chosen so that the mean of dFIL over the defender's public faces is 1 / `mse`; by
    Jensen's inequality the mean of the bound is then at least `mse`.

    The bound is true, and says little: every good attacker is biased towards faces. The leaderboard's MSE floor (van
    Trees) bounds these too.
    """

    randomized: ClassVar[bool] = True

    mse: float = 0.001  #: least mean squared error of an unbiased attacker, on pixels in [0, 1]; .01 is 20 dB
    faces: int = 64  #: public faces on which sigma is chosen
    probes: int = 4  #: vector-Jacobian products a face, in Hutchinson's estimate

    def __post_init__(self) -> None:
        if self.mse <= 0 or min(self.faces, self.probes) < 1:
            raise ValueError("mse must be above 0, and faces and probes at least 1")

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Chooses sigma."""
        device = next(recognizer.parameters()).device
        some = public.subset(range(min(len(public), self.faces)))
        traces = information_trace(recognizer.extract, torch.ones_like, some, self.probes, rng, device)
        size = 3 * recognizer.image_size[0] * recognizer.image_size[1]
        sigma = (self.mse * traces.mean() / size).sqrt()
        spread = float(traces.std() / traces.mean()) if len(traces) > 1 else 0.0
        return State({"sigma": sigma.float()}, {"sigma": round(float(sigma), 5), "dfil_spread": round(spread, 4)})

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + sigma * noise."""
        sigma: Tensor = system.state.tensors["sigma"].to(features)
        return features + sigma * rng.normal(features)

    def noise_information(self, system: System, features: Tensor) -> Tensor:
        """1 / sigma^2."""
        return torch.full_like(features, float(system.state.tensors["sigma"]) ** -2)

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """The bound on unbiased attackers."""
        return {
            "mean squared error, at least": self.mse,
            "of": "an unbiased attacker, one template, pixels in [0, 1]",
            "holds for": "the mean over faces like the defender's public ones",
        }
