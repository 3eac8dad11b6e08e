"""One step of a decoder's training: forward, backward, Adam."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from bench.toolkit.cuda_graphs import Repeated
from bench.toolkit.precision import autocast


class TrainingStep:
    """Adam on the L1 loss between image and reconstruction.

    On CUDA, full batches replay a graph; the last batch of an epoch may be smaller, and runs as it is.
    """

    def __init__(self, decoder: nn.Module, batch: int, device: torch.device) -> None:
        self._decoder, self._batch, self._device = decoder, batch, device
        self._graphs = device.type == "cuda"
        # A graph reads the rate from the device, and Adam's count of steps too.
        rate = torch.zeros((), device=device) if self._graphs else 0.0
        self._adam = torch.optim.Adam(decoder.parameters(), lr=rate, capturable=self._graphs)
        self._repeated = Repeated(lambda: self._learn(self._features, self._images), device)
        self._features = self._images = torch.empty(0)

    def __call__(self, features: Tensor, images: Tensor, rate: float) -> None:
        """Learns from features (B, C, h, w) and images (B, 3, H, W) in [0, 1] at this learning rate."""
        for group in self._adam.param_groups:
            if self._graphs:
                group["lr"].fill_(rate)
            else:
                group["lr"] = rate
        if not self._graphs or len(features) != self._batch:
            self._learn(features, images)
            return
        if not len(self._features):
            self._features, self._images = features.clone(), images.clone()
        self._features.copy_(features)
        self._images.copy_(images)
        self._repeated()

    def _learn(self, features: Tensor, images: Tensor) -> None:
        with autocast(self._device):
            output = self._decoder(features)
        loss = (output - images).abs().mean()
        self._adam.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self._adam.step()

    def free(self) -> None:
        """Gives back what only the training needed."""
        self._repeated.free()
