"""PartialFace (Mi et al., ICCV 2023): a client that sends a random ninth of what is left of the frequencies.

The strong channels are dropped, the others split into subsets, and each query shows one subset in one of a few orders.
The server is never told which. Subsets and orders are constants of the algorithm (of a public file, in the released
code), so only the draw is secret. Ours are drawn from a fixed seed; the released lists are not copied.
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
_PLANE = len(_KEPT) // 3  #: channels that are kept of a plane: 54


@dataclass(frozen=True, kw_only=True)
class PartialFace(FrequencyDefense):
    """Stores 3 x 54 / `subsets` channels of the image's block DCT, the same ones of each plane, in a random order.

    The paper trains its server on 18 draws of each image and lets an image's label decide which of the subsets it may
    show; here every step of training draws anew, from all of them.
    """

    randomized: ClassVar[bool] = True

    subsets: int = 6  #: into which the 54 channels that are kept are split
    permutations: int = 6  #: orders of a subset, one of them the natural one; the released code has 3
    constants: int = 0  #: which subsets and orders; part of the algorithm, and not a secret

    def __post_init__(self) -> None:
        if self.subsets < 1 or _PLANE % self.subsets or self.permutations < 1:
            raise ValueError(f"subsets must divide {_PLANE}, and permutations be at least 1")

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """Its first convolution takes as many channels as a query shows."""
        return FrequencyNetwork(recognizer, len(_KEPT) // self.subsets)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """All that is left without the strong channels, (B, 162, h, w)."""
        return block_dct(images, 8, _KEPT)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """One of the views of each image, (B, 162 / subsets, h, w)."""
        known = views(self.subsets, self.permutations, self.constants).to(features.device)
        drawn = rng.uniform(features.new_empty(len(features), 1))[:, 0]
        chosen = known[(drawn * len(known)).long()]
        return features.gather(1, chosen[:, :, None, None].expand(-1, -1, *features.shape[-2:]))


@cache
def views(subsets: int, permutations: int, constants: int) -> Tensor:
    """(subsets * permutations, 162 / subsets): the places, among the channels that are kept, that each view shows."""
    source = Rng(constants).child("partialface").numpy()
    parts = np.split(source.permutation(_PLANE), subsets)
    size = _PLANE // subsets
    orders = [np.arange(size), *(source.permutation(size) for _ in range(permutations - 1))]
    shown = [np.sort(part)[order] for part in parts for order in orders]
    return torch.from_numpy(np.stack([np.concatenate([plane * _PLANE + v for plane in range(3)]) for v in shown]))
