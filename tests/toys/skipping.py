"""A network with a skip, for recognisers that are cut where their user says."""

import torch
from torch import Tensor, nn


class Skipping(nn.Module):
    """Convolutions, a skip, and an embedding of unit length, which exports as a Clip with one bound."""

    def __init__(self) -> None:
        super().__init__()
        self.front = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.PReLU(8))
        self.deep = nn.Conv2d(8, 8, 3, 1, 1)
        self.last = nn.Linear(8 * 12 * 10, 6)

    def forward(self, x: Tensor) -> Tensor:
        x = self.front(x)
        x = torch.relu(x + self.deep(x))
        return nn.functional.normalize(self.last(x.flatten(1)))
