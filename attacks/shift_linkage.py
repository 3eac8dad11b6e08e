"""Links templates of two applications without a key: each is a scaled, shifted copy of the embedding's entries."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import CrossmatchAttack, KeyedDefense, NotApplicable


@dataclass(frozen=True, kw_only=True)
class ShiftLinkage(CrossmatchAttack):
    """Scores two templates by the largest absolute cosine over shifts of one against the other.

    In PolyProtect's sum of C_j v_(i + j)^(E_j), the term with the exponent 1 dominates, because the entries of a unit
    embedding are small. So every template is nearly C_j times the embedding from place j on, with a secret j and C_j:
    at the right shift, two templates of one person are similar up to a factor. Bits count as -1 and 1.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("polyprotect", {"overlap": 4})
    required: ClassVar[float] = 0.8

    shifts: int = 4  #: the largest shift tried, in entries of the template; PolyProtect with 5 terms needs no more

    def __post_init__(self) -> None:
        if self.shifts < 0:
            raise ValueError("shifts must be at least 0")

    def score(self, defense: KeyedDefense, first: Tensor, second: Tensor) -> Tensor:
        """The largest absolute cosine, (A, B)."""
        if first.ndim != 2 or first.shape[1] <= 2 * self.shifts:
            raise NotApplicable(f"templates of shape {tuple(first.shape[1:])} cannot be shifted by {self.shifts}")
        one, other = (_numbers(templates) for templates in (first, second))
        length, best = one.shape[1], torch.zeros(len(one), len(other))
        for shift in range(-self.shifts, self.shifts + 1):
            left = one[:, max(0, shift) : length + min(0, shift)]
            right = other[:, max(0, -shift) : length + min(0, -shift)]
            best = torch.maximum(best, (functional.normalize(left) @ functional.normalize(right).T).abs())
        return best


def _numbers(templates: Tensor) -> Tensor:
    return 2 * templates.float() - 1 if templates.dtype == torch.bool else templates.float()
