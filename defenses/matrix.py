"""Matrix encryption: embeddings multiplied by a secret matrix (Kou et al. 2021; ASPE, Wong et al., SIGMOD 2009)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import Key, KeyedDefense, Rng


@dataclass(frozen=True, kw_only=True)
class Matrix(KeyedDefense):
    """Stores the embedding times a secret invertible matrix, and compares without it.

    `form = "vector"` (asymmetric scalar-product-preserving encryption, ASPE) stores x K and takes y K^-T from a probe:
    their product is the cosine <x, y>. `form = "trace"` stores M1 X M2, where X is lower triangular with the diagonal
    (x, 1, r) and random numbers below, and takes M2^-1 diag(y, 0, 0) M1^-1: the trace of the product is <x, y>. It
    costs (D + 2)^2 numbers, and D^3 operations.

    Kou et al. combine random matrices with signatures, which protect integrity and not secrecy. Their text was not
    available, so both forms are our reading of the family (the trace form as in PassBio and CloudBI). The random
    numbers of X follow from the key and the embedding, so that a template can be made again.
    """

    keeps_scores: ClassVar[bool] = True

    keys: Literal["subject", "record", "system", "pool"] = "system"  #: who holds a key
    form: Literal["vector", "trace"] = "vector"
    #: Haar-distributed matrices, which keep all cosines of templates, or normal ones.
    matrices: Literal["orthogonal", "general"] = "orthogonal"

    def draw_key(self, rng: Rng, width: int) -> Key:
        """`left` and its inverse `left_inverse`; for the trace form `right` and `right_inverse` too, and a `seed`."""
        if self.form == "vector":
            return self._pair(rng, "left", width)
        seed = torch.tensor([rng.child("triangle").seed % 2**62])
        return {**self._pair(rng, "left", width + 2), **self._pair(rng, "right", width + 2), "seed": seed}

    def _pair(self, rng: Rng, name: str, size: int) -> dict[str, Tensor]:
        if self.matrices == "orthogonal":
            drawn = rng.child(name).orthonormal(size, size)
            return {name: drawn, f"{name}_inverse": drawn.T.contiguous()}
        found = torch.randn(size, size, generator=rng.child(name).torch(), dtype=torch.float64) / size**0.5
        return {name: found.float(), f"{name}_inverse": torch.linalg.inv(found).float()}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """(B, D), or (B, D + 2, D + 2) in the trace form; float32."""
        if self.form == "vector":
            found: Tensor = embeddings @ key["left"].to(embeddings)
            return found
        filled = torch.stack([self._triangle(one, int(key["seed"])) for one in embeddings])
        hidden: Tensor = key["left"].to(embeddings) @ filled @ key["right"].to(embeddings)
        return hidden

    def _triangle(self, embedding: Tensor, seed: int) -> Tensor:
        size = len(embedding) + 2
        generator = Rng(seed).child(embedding.cpu().numpy().tobytes().hex()).torch()
        drawn = torch.randn(size, size, generator=generator).to(embedding) / size**0.5
        diagonal = torch.cat([embedding, torch.ones_like(embedding[:1]), drawn[-1, -1:]])
        filled: Tensor = drawn.tril(-1) + torch.diag(diagonal)
        return filled

    def probe(self, embeddings: Tensor, key: Key) -> Tensor:
        """As large as a template; float32."""
        if self.form == "vector":
            return embeddings @ key["left_inverse"].to(embeddings).T
        padded = torch.nn.functional.pad(embeddings, (0, 2))
        return key["right_inverse"].to(embeddings) @ torch.diag_embed(padded) @ key["left_inverse"].to(embeddings)

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """The product of two vectors, or the trace of that of two matrices."""
        return (stored * (probes if self.form == "vector" else probes.mT)).flatten(1).sum(1)

    def undo(self, templates: Tensor, key: Key) -> Tensor:
        """The embedding, up to rounding."""
        if self.form == "vector":
            found: Tensor = templates @ key["left_inverse"].to(templates)
            return found
        opened = key["left_inverse"].to(templates) @ templates @ key["right_inverse"].to(templates)
        return opened.diagonal(dim1=1, dim2=2)[:, :-2]
