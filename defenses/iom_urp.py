"""Index-of-max hashing with uniformly random permutations, IoM-URP (Jin et al., IEEE TIFS 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import Key, NotApplicable, Rng
from bench.toolkit.hashes import IndexHash


@dataclass(frozen=True, kw_only=True)
class IomUrp(IndexHash):
    """Stores, for each group, where the product of secretly permuted copies of the embedding is largest.

    Only the first `window` entries of the product take part. Templates are compared by the share of equal indices.
    """

    groups: int = 600  #: length of the template (m in the paper)
    window: int = 100  #: entries of which the largest is found (k in the paper), at most 256
    factors: int = 2  #: permuted copies that are multiplied (p in the paper)

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 1 or not 2 <= self.window <= 256 or self.factors < 1:
            raise ValueError("groups and factors must be at least 1, and window from 2 to 256")

    def draw_key(self, rng: Rng, width: int) -> Key:
        """(groups, factors, window) positions in the embedding, different ones within a window."""
        if self.window > width:
            raise NotApplicable(f"a window of {self.window} entries does not fit an embedding of {width}")
        drawn = torch.rand(self.groups, self.factors, width, generator=rng.torch())
        return {"positions": drawn.argsort(2)[:, :, : self.window]}

    def products(self, embeddings: Tensor, key: Key) -> Tensor:
        """Products of the permuted copies, within the window."""
        places = key["positions"]
        copies = embeddings.index_select(1, places.flatten()).reshape(len(embeddings), *places.shape)  # a fast gradient
        product: Tensor = copies[:, :, 0]
        for factor in range(1, self.factors):
            product = product * copies[:, :, factor]
        return product
