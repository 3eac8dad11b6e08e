"""Embeddings from the scores of logins alone: what encryption of the store cannot prevent."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import InversionAttack, KeyOracle, Knowledge, NotApplicable, Rng
from bench.toolkit.linear_estimates import least_squares, most_likely, most_likely_in_cells, spread
from bench.toolkit.shown_scores import ReadsScores


@dataclass(frozen=True, kw_only=True)
class LoginScores(ReadsScores, InversionAttack):
    """Logs in as each victim with own faces, and solves for the embedding behind the scores, which are its products.

    The stored templates are not read. Own embeddings Y (`queries`, D) are known, since the recogniser is. `affine`
    returns the shortest solution of Y x = s; otherwise the most likely embedding, with the mean and covariance of own
    faces as the prior, is returned. Rounded scores say in which cell a product lies.

    Schemes whose score is no cosine are approximated by one, so the result there is a lower bound.
    """

    logs_in: ClassVar[bool] = True
    needs_service: ClassVar[bool] = True

    queries: int = 99  #: logins per victim; at most as many as there are own faces
    affine: bool = False  #: least squares without a prior
    ridge: float = 1e-6  #: assumed variance of a score's error where scores are not rounded

    def __post_init__(self) -> None:
        ReadsScores.__post_init__(self)
        if self.queries < 1 or self.ridge <= 0 or self.key != "own":
            raise ValueError("queries must be at least 1, ridge above 0, and no key leaks to this attack")

    @property
    def level(self) -> Knowledge:
        """Sees the scores of logins."""
        return Knowledge.ENROLMENT

    @property
    def knows(self) -> Literal["none"]:
        """No key."""
        return "none"

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """One embedding per template, from `queries` scores each."""
        public = oracle.public
        if self.queries > len(public):
            raise NotApplicable(f"{self.queries} queries need as many own faces; there are {len(public)}")
        own = public[torch.tensor(spread(public)[: self.queries])]
        scores = torch.stack([oracle.login(number, own) for number in range(len(templates))]).double()
        if self.affine:
            return least_squares(own, scores)
        prior = public.double().mean(0), torch.cov(public.double().T)
        if self.score_bits:
            return most_likely_in_cells(own, *self.cells(scores), *prior)
        return most_likely(own, scores, *prior, self.ridge)
