"""Index-of-max hashing with Gaussian random projections, IoM-GRP (Jin et al., IEEE TIFS 2018)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import Key, KeyedDefense, Rng


@dataclass(frozen=True, kw_only=True)
class IomGrp(KeyedDefense):
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

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Indices (B, groups), uint8."""
        return self._products(embeddings, key).argmax(2).to(torch.uint8)

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """Share of equal indices."""
        return (stored == probes).float().mean(1)

    def margins(self, embeddings: Tensor, template: Tensor, key: Key) -> Tensor:
        """By how much the winner of each group leads each of the others (itself by 0), (B, groups x choices)."""
        products = self._products(embeddings, key)
        winners = template.long()[None, :, None].expand(len(products), -1, 1)
        return (products.gather(2, winners) - products).flatten(1)

    def _products(self, embeddings: Tensor, key: Key) -> Tensor:
        return torch.einsum("gqd,bd->bgq", key["vectors"], embeddings)
