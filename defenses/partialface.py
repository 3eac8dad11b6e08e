"""PartialFace (Mi et al., ICCV 2023): sends a random ninth of the frequencies that remain.

It drops the strong channels, divides the others into subsets, and shows one subset per query, in one of a few orders.
The server never learns which. Subsets and orders are constants of the algorithm (a public file in the released code),
so only the draw is secret. Here they are drawn from a fixed seed; the released lists are not included.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor

from bench.contracts import ImageRng, Rng, SplitNetwork, System
from bench.toolkit.block_dct import BLOCK, CHANNELS, block_dct
from bench.toolkit.frequency_defense import STRONG, FrequencyDefense, FrequencyNetwork

_KEPT = [c for c in range(CHANNELS) if c % BLOCK**2 not in STRONG]
_PLANE = len(_KEPT) // 3  #: remaining channels per plane: 54


@dataclass(frozen=True, kw_only=True)
class PartialFace(FrequencyDefense):
    """Stores 3 x 54 / `subsets` channels of the image's block DCT, the same ones of each plane, in a random order.

    The paper trains its server on 18 draws of each image and restricts the subsets by the image's label. Here every
    training step draws again, from all subsets.
    """

    randomized: ClassVar[bool] = True

    subsets: int = 6  #: number of subsets of the 54 remaining channels
    permutations: int = 6  #: orders of a subset, one of them the natural one; the released code has 3
    constants: int = 0  #: seed of the subsets and orders; part of the algorithm and not a secret

    def __post_init__(self) -> None:
        if self.subsets < 1 or _PLANE % self.subsets or self.permutations < 1:
            raise ValueError(f"subsets must divide {_PLANE}, and permutations be at least 1")

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """A recogniser whose first convolution has as many input channels as a query shows."""
        return FrequencyNetwork(recognizer, len(_KEPT) // self.subsets)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """All channels except the strong ones, (B, 162, h, w)."""
        return block_dct(images, 8, _KEPT)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """One of the views of each image, (B, 162 / subsets, h, w)."""
        known = views(self.subsets, self.permutations, self.constants).to(features.device)
        drawn = rng.uniform(features.new_empty(len(features), 1))[:, 0]
        chosen = known[(drawn * len(known)).long()]
        return features.gather(1, chosen[:, :, None, None].expand(-1, -1, *features.shape[-2:]))


@cache
def views(subsets: int, permutations: int, constants: int) -> Tensor:
    """Indices (subsets * permutations, 162 / subsets): the remaining channels that each view shows."""
    source = Rng(constants).child("partialface").numpy()
    parts = np.split(source.permutation(_PLANE), subsets)
    size = _PLANE // subsets
    orders = [np.arange(size), *(source.permutation(size) for _ in range(permutations - 1))]
    shown = [np.sort(part)[order] for part in parts for order in orders]
    return torch.from_numpy(np.stack([np.concatenate([plane * _PLANE + v for plane in range(3)]) for v in shown]))
