"""A seed for every role, derived from names, so that nothing depends on what ran before it."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor


def derive_seed(*names: object) -> int:
    """A 63-bit seed from names (strings, numbers): same names, same seed, on every machine."""
    text = "\x1f".join(map(str, names)).encode()
    return int.from_bytes(hashlib.sha256(text).digest()[:8], "big") >> 1


@dataclass(frozen=True)
class Rng:
    """A named source of randomness. Make children for roles; never share one between two uses."""

    seed: int

    def child(self, *names: object) -> Rng:
        """An independent source for a role within this one."""
        return Rng(derive_seed(self.seed, *names))

    def torch(self) -> torch.Generator:
        """A fresh CPU generator; the noise is made there, so that every device sees the same."""
        return torch.Generator().manual_seed(self.seed)

    def numpy(self) -> np.random.Generator:
        """A fresh numpy generator."""
        return np.random.default_rng(self.seed)

    def images(self, names: Sequence[str]) -> ImageRng:
        """One generator an image, so that batch size and order cannot change an image's noise."""
        return ImageRng(tuple(self.child("image", name).torch() for name in names))


@dataclass(frozen=True)
class ImageRng:
    """Per-image generators of a batch. Draws advance them: the next call gives fresh noise."""

    generators: tuple[torch.Generator, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.generators)

    def _check(self, like: Tensor) -> None:
        if like.shape[0] != len(self):
            raise ValueError(f"{len(self)} generators for a batch of {like.shape[0]} images")

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform noise on [low, high), shaped, typed and placed as `like` (B, ...)."""
        self._check(like)
        noise = torch.empty(like.shape, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.uniform_(low, high, generator=generator)
        return noise.to(like)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise, shaped, typed and placed as `like` (B, ...)."""
        self._check(like)
        noise = torch.empty(like.shape, dtype=torch.float32)
        for row, generator in zip(noise, self.generators, strict=True):
            row.normal_(generator=generator)
        return noise.to(like)

    def laplace(self, like: Tensor) -> Tensor:
        """Laplace noise of scale 1 (standard deviation sqrt(2)), by the inverse distribution."""
        centred = self.uniform(like, -0.5, 0.5)
        inner = (1 - 2 * centred.abs()).clamp_min(torch.finfo(torch.float32).tiny)
        return -centred.sign() * inner.log()
