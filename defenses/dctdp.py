"""DCTDP (Ji et al., ECCV 2022): Laplace noise on the frequencies of a face, more of it where recognition minds less."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.block_dct import BLOCK, CHANNELS, block_dct
from bench.toolkit.frequency_defense import FrequencyDefense, FrequencyNetwork, learn_client

_SENT = [c for c in range(CHANNELS) if c % BLOCK**2]  #: all but the three means
_BATCH = 64  #: images that share their noise, as the released code has it
_CHUNK = 10
_MOST = 6e4  #: what half precision holds; learned noise may be as strong as it likes


@dataclass(frozen=True, kw_only=True)
class DCTDP(FrequencyDefense):
    """Stores 189 channels + loc + b * Laplace(0, 1), b = sensitivity / budget for every channel and place.

    The budgets are softmax(rho), scaled to `epsilon` on average. The paper learns rho and loc together with its
    recogniser, from identities; here they are learned before it, so that the client's features of the noisy image stay
    near those of the clean one. Nothing in the paper's loss asks for more noise either: the softmax only moves it.

    Two readings of the released code: it draws one noise for a whole batch (`noise = "batch"`), so that the difference
    of two templates has none; and its sensitivity is 1 unless a file says otherwise (`sensitivity = "ones"`), which is
    next to no noise at all.
    """

    randomized: ClassVar[bool] = True
    adds_noise: ClassVar[bool] = True
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"noise", "mode", "weights", "recipe"}),
        "protect": frozenset({"mode", "weights", "recipe"}),
    }

    epsilon: float = 1.0  #: the budget of a value, on average; the papers that compare with it take 1, its code 4
    sensitivity: Literal["measured", "ones"] = "measured"  #: each value's range over the defender's public faces
    noise: Literal["image", "batch"] = "image"  #: drawn for each image, or once for all in a batch
    fit_steps: int = 120  #: of learning where the noise goes; 0: everywhere alike
    learning_rate: float = 0.1  #: of the budgets' training

    def __post_init__(self) -> None:
        if self.epsilon <= 0 or self.fit_steps < 0 or self.learning_rate <= 0:
            raise ValueError("epsilon and learning_rate must be above 0, and fit_steps at least 0")

    @property
    def protect_batch(self) -> int | None:
        """Those who share their noise."""
        return _BATCH if self.noise == "batch" else None

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """Its first convolution takes 189 channels."""
        return FrequencyNetwork(recognizer, len(_SENT))

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Measures the sensitivities, and learns where the noise goes."""
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
        """(scale, loc), each (189, h, w), where they are computed with."""
        if state is None:
            raise ValueError("dctdp has no budgets")
        device = next(recognizer.parameters()).device
        return state.tensors["scale"].to(device), state.tensors["loc"].to(device)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """All channels but the three means, (B, 189, h, w)."""
        return block_dct(images, 8, _SENT)

    def reference(self, system: System, features: Tensor) -> Tensor:
        """What is learned and the same for everybody is no noise."""
        loc: Tensor = system.state[1]
        return features + loc

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + loc + scale * noise."""
        scale, _ = system.state
        shared = slice(None) if self.noise == "image" else slice(1)
        drawn = ImageRng(rng.generators[shared]).laplace(features[shared])
        noisy: Tensor = self.reference(system, features) + scale * drawn
        return noisy.clamp(-_MOST, _MOST)

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """What the budgets add up to (basic composition): a face is not one value."""
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
