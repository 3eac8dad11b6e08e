"""PolyProtect: polynomials of consecutive entries of the embedding (Krivokuca Hahn and Marcel, IEEE T-BIOM 2022)."""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import Key, KeyedDefense, Rng


@dataclass(frozen=True, kw_only=True)
class PolyProtect(KeyedDefense):
    """Stores, for each window of the embedding, a polynomial with secret coefficients and secret exponents.

    P_i = sum_j C_j v_(i (m - overlap) + j) ^ E_j, where C are m = `terms` different integers, not 0, of at most
    `largest` in absolute value, and E is a permutation of 1 ... m. Zeros fill the last window. Templates are compared
    by the cosine.
    """

    terms: int = 5  #: length of a window (m in the paper)
    overlap: int = 0  #: entries that a window shares with the next one; more: longer templates, better accuracy
    largest: int = 50  #: bound of the coefficients

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.terms < 2 or not 0 <= self.overlap < self.terms or 2 * self.largest < self.terms:
            raise ValueError("terms must be at least 2, overlap from 0 to terms - 1, and largest at least terms / 2")

    def draw_key(self, rng: Rng, width: int) -> Key:
        """`coefficients` and `exponents`, (terms,) each."""
        drawn = torch.randperm(2 * self.largest, generator=rng.child("coefficients").torch())[: self.terms]
        coefficients = torch.where(drawn < self.largest, drawn - self.largest, drawn - self.largest + 1).float()
        exponents = 1 + torch.randperm(self.terms, generator=rng.child("exponents").torch())
        return {"coefficients": coefficients, "exponents": exponents}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Numbers (B, windows), float32."""
        step, width = self.terms - self.overlap, embeddings.shape[1]
        windows = max(1, -(-(width - self.overlap) // step))
        padded = functional.pad(embeddings, (0, max(0, (windows - 1) * step + self.terms - width)))
        return (key["coefficients"] * padded.unfold(1, self.terms, step) ** key["exponents"]).sum(2)
