"""A decoder that a defence trains against while it learns: its own model of an attacker."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from bench.contracts import FaceSet, Rng, SplitNetwork
from bench.toolkit.decoders import DecoderSpec, build_decoder

_FACES = 200  #: public faces behind the mean face


class InnerDecoder:
    """A small residual decoder with group norm, trained one step at a time to rebuild faces from features.

    Args:
        shape: (C, h, w) of the features.
        width: channels at the features' resolution.
        learning_rate: of Adam.
    """

    def __init__(
        self,
        recognizer: SplitNetwork,
        shape: Sequence[int],
        public: FaceSet,
        width: int,
        learning_rate: float,
        rng: Rng,
    ) -> None:
        device = next(recognizer.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.seed)
            decoder = build_decoder(DecoderSpec("res", "group", width), shape, (), recognizer.image_size)
        self._decoder = decoder.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._decoder.parameters(), lr=learning_rate)
        faces = public.batch(slice(0, _FACES), device)
        #: mean squared error of the mean face: what a decoder reaches that knows nothing of the features
        self.ignorance = float((faces - faces.mean(0)).square().mean())

    def learn(self, features: Tensor, images: Tensor) -> float:
        """One step towards the images (B, 3, H, W) in [0, 1]; returns the mean squared error before it."""
        with torch.enable_grad():
            loss = (self._decoder(features.detach()) - images).square().mean()
            self._optimiser.zero_grad(set_to_none=True)
            loss.backward()
        self._optimiser.step()
        return float(loss.detach())

    def success(self, features: Tensor, images: Tensor) -> Tensor:
        """How much of the faces it rebuilds: 1 - error / the mean face's error, at least 0; with gradients to features.

        It stops at 0, because beyond that the features would only chase this one decoder.
        """
        error = (self._decoder(features) - images).square().mean()
        found: Tensor = (1 - error / self.ignorance).clamp_min(0)
        return found
