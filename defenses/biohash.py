"""BioHash: signs of secret projections of the embedding (Teoh, Ngo and Goh, Pattern Recognition 2004)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from bench.contracts import Key, NotApplicable, Rng
from bench.toolkit.hashes import BitHash


@dataclass(frozen=True, kw_only=True)
class BioHash(BitHash):
    """Stores which of the embedding's projections onto secret orthonormal vectors exceed the threshold.

    The vectors are Haar-distributed. Under a fresh key, the template of a unit embedding is then independent of whose
    it is. Idiap's released code differs in two settings: `projections = "uniform"` orthonormalises a matrix of uniform
    numbers, whose first column is nearly the all-ones vector, and `threshold = "mean"` compares with the mean
    projection. Templates are compared by the share of equal bits.
    """

    bits: int = 128  #: length of the template, at most the embedding's width
    threshold: Literal["zero", "mean"] = "zero"
    projections: Literal["haar", "uniform"] = "haar"

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits < 2:
            raise ValueError("bits must be at least 2")

    def draw_key(self, rng: Rng, width: int) -> Key:
        """(D, bits) orthonormal columns."""
        if self.bits > width:
            raise NotApplicable(f"{self.bits} orthonormal vectors do not exist among embeddings of {width} entries")
        if self.projections == "haar":
            return {"projection": rng.orthonormal(width, self.bits)}
        return {"projection": torch.linalg.qr(torch.rand(width, self.bits, generator=rng.torch())).Q}

    def numbers(self, embeddings: Tensor, key: Key) -> Tensor:
        """Each projection, minus the threshold."""
        found = embeddings @ key["projection"]
        return found - found.mean(1, keepdim=True) if self.threshold == "mean" else found
