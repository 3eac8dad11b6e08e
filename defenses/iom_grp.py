"""Index-of-max hashing with Gaussian random projections, IoM-GRP (Jin et al., IEEE TIFS 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import Key, Rng
from bench.toolkit.hashes import IndexHash


@dataclass(frozen=True, kw_only=True)
class IomGrp(IndexHash):
    """Stores, for each group of secret random vectors, which one has the largest product with the embedding.

    Templates are compared by the share of equal indices.
    """

    groups: int = 300  #: length of the template (m in the paper)
    choices: int = 16  #: vectors per group (q in the paper), at most 256

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.groups < 1 or not 2 <= self.choices <= 256:
            raise ValueError("groups must be at least 1, and choices from 2 to 256")

    def draw_key(self, rng: Rng, width: int) -> Key:
        """(groups, choices, D) Gaussian vectors."""
        return {"vectors": torch.randn(self.groups, self.choices, width, generator=rng.torch())}

    def products(self, embeddings: Tensor, key: Key) -> Tensor:
        """Inner products with the vectors."""
        return torch.einsum("gqd,bd->bgq", key["vectors"], embeddings)
