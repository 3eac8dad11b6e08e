"""Opens linear secrets with pairs: own embeddings and what the service stores for them (a known-plaintext attack)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import InversionAttack, KeyOracle, Knowledge, NotApplicable, Rng
from bench.toolkit.linear_estimates import least_squares, most_likely, spread

_WIDEST = 65536  #: entries of a template
_WIDEST_MAP = 4096  #: for `map`, which solves for as many unknown entries of noise
_ISOMETRIC = 1e-3  #: largest error of a product of two templates that still counts as that of their embeddings


@dataclass(frozen=True, kw_only=True)
class KnownPairs(InversionAttack):
    """Enrols own faces where everybody has the same key, and solves for the linear map from embeddings to templates.

    With own embeddings X (m, D) and their templates T, the solvers are:

    - `least_squares`: a stolen t is written as a combination of the rows of T, and the same combination of the rows of
      X is returned. Exact with D independent pairs; fewer give the part of the embedding in their span.
    - `procrustes`: the orthogonal matrix closest to X K = T; needs templates as wide as embeddings, and is nearly exact
      with D - 1 pairs.
    - `map`: the most likely embedding, whose law is normal with the mean and covariance of the attacker's own faces,
      with K = X+ T and the unknown rest of K as noise. If products of templates equal those of embeddings, K is
      orthogonal, and there is no noise within the span of T.

    The faces are public ones whose embeddings are nearly orthogonal. Where keys are not shared, the pairs are under the
    attacker's own keys, and of no use.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("matrix", {})
    required: ClassVar[float] = 0.99
    needs_service: ClassVar[bool] = True

    pairs: int = 0  #: number of own enrolments; 0: as many as embeddings have entries
    solver: Literal["map", "procrustes", "least_squares"] = "map"

    def __post_init__(self) -> None:
        if self.pairs < 0 or self.key != "own":
            raise ValueError("pairs must be at least 0, and no key leaks to this attack")

    @property
    def level(self) -> Knowledge:
        """Enrols own faces and reads their templates back."""
        return Knowledge.ENROLMENT

    @property
    def knows(self) -> Literal["none"]:
        """No key."""
        return "none"

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """All templates at once."""
        public, stolen = oracle.public.double(), templates.flatten(1).double()
        if stolen.shape[1] > _WIDEST:
            raise NotApplicable(f"templates of {stolen.shape[1]} entries are ciphertexts or too wide to solve for")
        count = self.pairs or oracle.width
        if count > len(public):
            raise NotApplicable(f"{count} pairs need as many own faces; there are {len(public)}")
        own = public[torch.tensor(spread(public)[:count])]
        stored = oracle.enrol(own.to(oracle.public)).flatten(1).double()
        if self.solver == "least_squares":
            return least_squares(stored.T, stolen) @ own
        if self.solver == "procrustes":
            return _rotated(own, stored, stolen, public.mean(0))
        if stolen.shape[1] > _WIDEST_MAP:
            raise NotApplicable(f"templates of {stolen.shape[1]} entries are too wide for `map`; use least_squares")
        return _likely(own, stored, stolen, public)


def _rotated(own: Tensor, stored: Tensor, stolen: Tensor, mean: Tensor) -> Tensor:
    """Embeddings (B, D) by the closest orthogonal matrix; a single direction that is left free points as faces do."""
    if stored.shape[1] != own.shape[1]:
        raise NotApplicable(f"templates of {stored.shape[1]} entries are no rotation of {own.shape[1]}")
    left, sizes, right = torch.linalg.svd(own.T @ stored)
    rank = int((sizes > 1e-6 * sizes[0]).sum())
    if rank == own.shape[1] - 1 and float((stolen @ right[-1]).mean() * (left[:, -1] @ mean)) < 0:
        right[-1] *= -1
    found: Tensor = stolen @ right.T @ left.T
    return found


def _likely(own: Tensor, stored: Tensor, stolen: Tensor, public: Tensor) -> Tensor:
    """The most likely embeddings (B, D), with the part of the map that the pairs leave open as noise."""
    mean, covariance = public.mean(0), torch.cov(public.T)
    seen = torch.linalg.pinv(own) @ stored  # (D, L): the map on the span of own embeddings
    _, sizes, rows = torch.linalg.svd(own, full_matrices=False)
    basis = rows[sizes > 1e-6 * sizes[0]]
    unseen = float((public - public @ basis.T @ basis).square().sum(1).mean())  # of an embedding, outside that span
    noise = unseen * float(stored.square().mean()) * torch.eye(stored.shape[1], dtype=stored.dtype)
    if float((stored @ stored.T - own @ own.T).abs().max()) < _ISOMETRIC:
        within = torch.linalg.pinv(stored) @ stored
        noise = noise - within @ noise @ within
    noise.diagonal().add_(1e-9)
    return most_likely(seen.T, stolen, mean, covariance, noise)
