"""Embeddings as they are: the reference of templates under keys."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import Key, KeyedDefense, Rng


@dataclass(frozen=True, kw_only=True)
class PlainStore(KeyedDefense):
    """Stores the embedding. Its key has no effect, so it cannot be renewed: `veilbench check` says so, rightly."""

    keeps_scores: ClassVar[bool] = True

    keys: Literal["subject", "record", "system", "pool"] = "system"  #: who holds the key that has no effect

    def draw_key(self, rng: Rng, width: int) -> Key:
        """`unused`, a number."""
        return {"unused": torch.randint(2**62, (1,), generator=rng.torch())}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """The embeddings (B, D)."""
        return embeddings

    def undo(self, templates: Tensor, key: Key) -> Tensor:
        """The templates."""
        return templates
