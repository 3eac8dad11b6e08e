"""Bases of keyed hashes: templates of bits, and of indices of the largest of several products."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import Key, KeyedDefense


@dataclass(frozen=True, kw_only=True)
class Hash(KeyedDefense):
    """Templates are compared by the share of equal entries."""

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """Share of equal entries."""
        return (stored == probes).float().mean(1)


@dataclass(frozen=True, kw_only=True)
class BitHash(Hash):
    """Stores which numbers are above 0."""

    @abstractmethod
    def numbers(self, embeddings: Tensor, key: Key) -> Tensor:
        """Real numbers (B, bits), 0 where a bit changes."""

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Bits (B, bits)."""
        return self.numbers(embeddings, key) > 0

    def margins(self, embeddings: Tensor, template: Tensor, key: Key) -> Tensor:
        """The numbers, on the sides that the bits say."""
        return self.numbers(embeddings, key) * (2.0 * template.float() - 1)


@dataclass(frozen=True, kw_only=True)
class IndexHash(Hash):
    """Stores, for each group of products, which is the largest."""

    @abstractmethod
    def products(self, embeddings: Tensor, key: Key) -> Tensor:
        """(B, groups, choices), at most 256 choices."""

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Indices (B, groups), uint8."""
        return self.products(embeddings, key).argmax(2).to(torch.uint8)

    def margins(self, embeddings: Tensor, template: Tensor, key: Key) -> Tensor:
        """By how much the winner of each group leads each of the others (itself by 0), (B, groups x choices)."""
        products = self.products(embeddings, key)
        winners = template.long()[None, :, None].expand(len(products), -1, 1)
        return (products.gather(2, winners) - products).flatten(1)
