"""Dropout of stored features (Srivastava et al., JMLR 2014; as a defence: He et al., IEEE IoT Journal 2021, Eq. 6)."""

from dataclasses import dataclass
from typing import ClassVar

from torch import Tensor

from bench.contracts import Defense, ImageRng, System


@dataclass(frozen=True, kw_only=True)
class Dropout(Defense):
    """Sets each entry of the features to zero with probability `p`, drawn anew for each stored template.

    template = mask * features, where every entry of the mask is 0 with probability p, on its own, and else 1. He et al.
    leave it at that (`rescale = false`). Srivastava et al. (section 10) also divide by 1 - p, so that a template's
    expectation is the features: what the server's recogniser was trained on, where it was trained without dropout.

    What is left is stored exactly, and the zeros tell where the mask was. Several templates of one image complete each
    other: of n, each entry is missing from all with probability p^n.
    """

    randomized: ClassVar[bool] = True

    p: float = 0.5  #: probability that an entry is set to zero, at least 0 and below 1
    rescale: bool = True  #: divide the entries that are left by 1 - p

    def __post_init__(self) -> None:
        if not 0 <= self.p < 1:
            raise ValueError("p must be at least 0 and below 1")

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """mask * features, over 1 - p if `rescale` is true."""
        left = features.masked_fill(rng.uniform(features) < self.p, 0.0)
        return left / (1 - self.p) if self.rescale else left
