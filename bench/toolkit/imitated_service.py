"""A keyed service of random people, on which attacks are checked and timed without a run."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import Key, KeyedDefense, KeyedService, Rng


def imitated_service(
    defense: KeyedDefense, key: Key, stored: Tensor, width: int, rng: Rng, people: int = 0
) -> KeyedService:
    """A service in which everybody has the same key.

    Args:
        stored: the stolen templates (B, ...).
        width: of embeddings.
        people: number of the attacker's own faces, and of other customers; 0: twice the width.
    """
    draws = torch.randn(2, people or 2 * width, width, generator=rng.torch())
    own, others = functional.normalize(draws, dim=2)

    def login(number: int, faces: Tensor) -> Tensor:
        claimed = stored[number].expand(len(faces), *stored.shape[1:])
        return defense.compare(claimed, defense.probe(faces, key), key)

    return KeyedService(
        public=own,
        others=lambda: defense.transform(others, key),
        enrol=lambda faces: defense.transform(faces, key),
        login=login,
    )
