"""A recogniser small enough for tests, with random but fixed weights."""

from dataclasses import dataclass

import torch
from torch import nn

from bench.contracts import Alignment, Conv, Recognizer, SplitNetwork


@dataclass(frozen=True, kw_only=True)
class Tiny(Recognizer):
    """24 x 20 pixels to features of 8 x 12 x 10."""

    seed: int = 0

    @property
    def alignment(self) -> Alignment:
        return Alignment("margin", (24, 20))

    def weights_hash(self) -> str:
        return f"tiny {self.seed}"

    def load(self) -> SplitNetwork:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            client = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.PReLU())
            server = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(128, 16))
        return SplitNetwork(client, server, image_size=(24, 20), layout=(Conv(3, 8, 3, 2, 1),)).eval()
