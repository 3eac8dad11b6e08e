"""Cloak (Mireshghallah et al., WWW 2021), on features: Gaussian noise with a learned mean and scale at each place."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.feature_scale import feature_scale
from bench.toolkit.frequency_defense import learn_client
from bench.toolkit.recognition_loss import recognition_loss


@dataclass(frozen=True, kw_only=True)
class Cloak(Defense):
    """Stores features + mean + scale * normal noise; mean and scale are tensors as large as the features.

    The paper puts the noise on the image; split recognition has features, as in SIMBA (ECCV 2024). Learned with the
    loss recognition - `coefficient` * log(mean scale), where the scale of an entry is between 0 and `most`, as most *
    (1 + tanh rho) / 2. Scales are in standard deviations of the public features. The recogniser is frozen.

    SIMBA's code clears the gradient of the noise's term before each step, so that nothing of it is learned there.
    """

    randomized: ClassVar[bool] = True

    coefficient: float = 0.1  #: weight of the noise against recognition
    most: float = 5.0  #: the largest scale, in standard deviations of the features
    start: float = 0.5  #: the first scale, in the same unit
    fit_steps: int = 200  #: training steps
    batch: int = 8  #: images per step
    learning_rate: float = 0.05  #: of Adam

    def __post_init__(self) -> None:
        if not 0 < self.start < self.most or self.coefficient < 0:
            raise ValueError("start must be above 0 and below most, and coefficient at least 0")
        if min(self.fit_steps, self.batch) < 1 or self.learning_rate <= 0:
            raise ValueError("fit_steps and batch must be at least 1, and learning_rate above 0")

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Learns mean and scale of the noise."""
        device = next(recognizer.parameters()).device
        unit = float(feature_scale(recognizer, public)["std"])
        with torch.no_grad():
            shape = recognizer.extract(public.batch(slice(0, 1), device)).shape[1:]
        first = torch.atanh(torch.tensor(2 * self.start / self.most - 1))
        rho = torch.full(shape, float(first), device=device, requires_grad=True)
        mean = torch.zeros(shape, device=device, requires_grad=True)
        cost, source = recognition_loss(recognizer), rng.child("noise")

        def loss(images: Tensor, step: int) -> Tensor:
            with torch.no_grad():
                clean = recognizer.extract(images)
            drawn = source.images([f"{step} {place}" for place in range(len(images))]).normal(clean)
            scale = self._scale(rho)
            noisy = clean + unit * (mean + scale * drawn)
            return cost(noisy, clean) - self.coefficient * scale.mean().log()

        account = learn_client(
            [rho, mean], loss, public, self.fit_steps, self.batch, self.learning_rate, rng.child("order"),
            "learning Cloak's noise",
        )  # fmt: skip
        with torch.no_grad():
            scale = unit * self._scale(rho)
        learned = {"mean_scale": round(float(scale.mean()), 4), "median_scale": round(float(scale.median()), 4)}
        return State({"scale": scale.cpu(), "mean": (unit * mean.detach()).cpu()}, {**account, **learned})

    def _scale(self, rho: Tensor) -> Tensor:
        return self.most * (1 + rho.tanh()) / 2

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Mapping[str, Tensor]:
        """`scale` and `mean`, each (C, h, w), on the system's device."""
        if state is None:
            raise ValueError("cloak has learned no noise")
        device = next(recognizer.parameters()).device
        return {name: value.to(device) for name, value in state.tensors.items()}

    def reference(self, system: System, features: Tensor) -> Tensor:
        """The mean is the same for everybody and does not count as noise."""
        mean: Tensor = system.state["mean"]
        return features + mean

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + mean + scale * noise."""
        scale: Tensor = system.state["scale"]
        return self.reference(system, features) + scale * rng.normal(features)

    def noise_information(self, system: System, features: Tensor) -> Tensor:
        """1 / scale^2 of each entry."""
        information: Tensor = system.state["scale"].clamp_min(1e-6) ** -2
        return information.expand_as(features)
