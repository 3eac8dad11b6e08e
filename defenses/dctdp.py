"""DCTDP (Ji et al., ECCV 2022): Laplace noise on block-DCT channels, most where recognition depends on them least."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.block_dct import BLOCK, CHANNELS, block_dct
from bench.toolkit.frequency_defense import FrequencyDefense, FrequencyNetwork, learn_client

_SENT = [c for c in range(CHANNELS) if c % BLOCK**2]  #: all channels except the three means
_BATCH = 64  #: images that share their noise, as in the released code
_CHUNK = 10
_MOST = 6e4  #: the range of half precision; learned noise has no other bound


@dataclass(frozen=True, kw_only=True)
class DCTDP(FrequencyDefense):
    """Stores 189 channels + loc + b * Laplace(0, 1), with b = sensitivity / budget for every channel and position.

    The budgets are softmax(rho), scaled to `epsilon` on average. The paper learns rho and loc together with its
    recogniser, from identities. Here they are learned first, so that the client's features of the noisy image stay
    close to those of the clean one. Nothing in the paper's loss raises the total noise either: the softmax only
    redistributes it.

    Two settings follow the released code. It draws one noise for a whole batch (`noise = "batch"`), so that the
    difference of two templates has no noise. Its sensitivity is 1 unless a file says otherwise (`sensitivity =
    "ones"`), which gives almost no noise.
    """

    randomized: ClassVar[bool] = True
    adds_noise: ClassVar[bool] = True
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"noise", "mode", "weights", "recipe"}),
        "protect": frozenset({"mode", "weights", "recipe"}),
    }

    epsilon: float = 1.0  #: mean budget of a value; papers that compare with DCTDP use 1, its own code uses 4
    sensitivity: Literal["measured", "ones"] = "measured"  #: each value's range over the public faces, or 1
    noise: Literal["image", "batch"] = "image"  #: whether noise is drawn for each image, or once for the whole batch
    fit_steps: int = 120  #: training steps for the distribution of noise; 0: uniform
    learning_rate: float = 0.1  #: learning rate of the budgets

    def __post_init__(self) -> None:
        if self.epsilon <= 0 or self.fit_steps < 0 or self.learning_rate <= 0:
            raise ValueError("epsilon and learning_rate must be above 0, and fit_steps at least 0")

    @property
    def protect_batch(self) -> int | None:
        """The number of images that share their noise."""
        return _BATCH if self.noise == "batch" else None

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """A recogniser whose first convolution has 189 input channels."""
        return FrequencyNetwork(recognizer, len(_SENT))

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Measures the sensitivities and learns the distribution of the noise."""
        device = next(recognizer.parameters()).device
        low, high = torch.tensor(torch.inf, device=device), torch.tensor(-torch.inf, device=device)
        for first in range(0, len(public), _CHUNK):
            seen = block_dct(public.batch(slice(first, first + _CHUNK), device), 8, _SENT)
            low, high = torch.minimum(low, seen.amin(0)), torch.maximum(high, seen.amax(0))
        measured = high - low
        sensitivity = measured if self.sensitivity == "measured" else torch.ones_like(measured)
        rho, loc = torch.zeros_like(measured, requires_grad=True), torch.zeros_like(measured, requires_grad=True)
        student = FrequencyNetwork(recognizer, len(_SENT), whole=False).to(device).eval().requires_grad_(False)
        student.start(recognizer, lambda images: block_dct(images, 8, _SENT), public)
        source = rng.child("noise")

        def loss(images: Tensor, step: int) -> Tensor:
            clean = block_dct(images, 8, _SENT)
            drawn = source.images([f"{step} {place}" for place in range(len(images))]).laplace(clean)
            noisy = clean + loc + sensitivity / self._budgets(rho) * drawn
            found, wanted = student(noisy).flatten(1), recognizer.extract(images).flatten(1)
            return 1 - torch.cosine_similarity(found, wanted).mean()

        account = learn_client(
            [rho, loc], loss, public, self.fit_steps, 8, self.learning_rate, rng.child("order"), "learning the budgets"
        )
        with torch.no_grad():
            scale = sensitivity / self._budgets(rho)
        ranges = {"median_range": round(float(measured.median()), 4), "median_scale": round(float(scale.median()), 4)}
        return State({"scale": scale.cpu(), "loc": loc.detach().cpu()}, {**account, **ranges})

    def _budgets(self, rho: Tensor) -> Tensor:
        return self.epsilon * rho.numel() * torch.softmax(rho.flatten(), 0).view_as(rho)

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> tuple[Tensor, Tensor]:
        """(scale, loc), each (189, h, w), on the system's device."""
        if state is None:
            raise ValueError("dctdp has no budgets")
        device = next(recognizer.parameters()).device
        return state.tensors["scale"].to(device), state.tensors["loc"].to(device)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """All channels except the three means, (B, 189, h, w)."""
        return block_dct(images, 8, _SENT)

    def reference(self, system: System, features: Tensor) -> Tensor:
        """What is learned and identical for everybody does not count as noise."""
        loc: Tensor = system.state[1]
        return features + loc

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + loc + scale * noise."""
        scale, _ = system.state
        shared = slice(None) if self.noise == "image" else slice(1)
        drawn = ImageRng(rng.generators[shared]).laplace(features[shared])
        noisy: Tensor = self.reference(system, features) + scale * drawn
        return noisy.clamp(-_MOST, _MOST)

    def noise_information(self, system: System, features: Tensor) -> Tensor | None:
        """1 / scale^2 of each value; None where a batch shares its noise: another template then tells of it."""
        if self.noise == "batch":
            return None
        information: Tensor = system.state[0].clamp_min(1e-12) ** -2
        return information.expand_as(features)

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """The total budget by basic composition, because a face consists of many values."""
        if self.sensitivity == "ones":
            return {"epsilon": "none: the sensitivity is taken for 1, and values range over tens to hundreds"}
        if self.noise == "batch":
            return {"epsilon": "none: one noise for a batch, so the difference of two templates has none"}
        height, width = image_size
        return {
            "epsilon of a value, on average": self.epsilon,
            "epsilon of a pixel, composed": self.epsilon * len(_SENT),
            "epsilon of an image, composed": self.epsilon * len(_SENT) * height * width,
            "holds for": "images whose values stay within the ranges of the defender's public faces; none is clipped",
        }
