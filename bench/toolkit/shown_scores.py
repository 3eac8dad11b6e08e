"""A server that rounds the scores that it shows, or shows only whether they exceed a threshold."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import Attack

_MOST = 16  #: bits


@dataclass(frozen=True, kw_only=True)
class ReadsScores(Attack):
    """Base of attacks on the scores of logins, whose precision is a setting of the attack: it changes no template.

    The oracle rounds, so that it holds for every defence: the attack never sees more.
    """

    score_bits: int = 0  #: precision of a score that the server shows: 2^bits equal cells from -1 to 1; 0: full
    threshold: float = 0.0  #: with one bit, whether the score is above this

    def __post_init__(self) -> None:
        if not 0 <= self.score_bits <= _MOST or not -1 < self.threshold < 1:
            raise ValueError(f"score_bits must be 0 to {_MOST}, and threshold between -1 and 1")
        if self.threshold and self.score_bits != 1:
            raise ValueError("threshold needs score_bits = 1")

    def shown(self, scores: Tensor) -> Tensor:
        """The centres of the cells in which scores lie; as they are with score_bits = 0."""
        if not self.score_bits:
            return scores
        low, high = self.cells(scores)
        return (low.clamp_min(-1) + high.clamp_max(1)) / 2

    def cells(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """The bounds of the cells in which scores lie, or shown ones; infinite at the ends."""
        infinite = torch.full_like(scores, torch.inf)
        if self.score_bits == 1:
            edge, above = torch.full_like(scores, self.threshold), scores > self.threshold
            return torch.where(above, edge, -infinite), torch.where(above, infinite, edge)
        count = 2**self.score_bits
        cell = ((scores + 1) / 2 * count).floor().clamp(0, count - 1)
        low, high = cell / count * 2 - 1, (cell + 1) / count * 2 - 1
        return torch.where(cell == 0, -infinite, low), torch.where(cell == count - 1, infinite, high)
