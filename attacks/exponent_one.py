"""Inverts polynomial templates whose key leaked: entries of an embedding are small, so their first power dominates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contracts import InversionAttack, KeyOracle, NotApplicable, Rng
from bench.toolkit.progress import track

_RIDGE = 1e-6  #: relative to the mean eigenvalue, for windows that lie in the padding


@dataclass(frozen=True, kw_only=True)
class ExponentOne(InversionAttack):
    """Solves the linear part of the transform for the embedding of least length, and refines it by Gauss-Newton steps.

    An entry of a unit embedding of 512 is about .044. In PolyProtect's sum of C_j v^(E_j), the term with the exponent 1
    is therefore larger than all others together: v_(i + j) is about P_i / C_j for that j, and unknown (0) where no
    window has it. This is the minimum-norm solution of the transform's Jacobian at 0, so the attack needs no other
    knowledge of the scheme, and works on any differentiable one. Each further step linearises at the last solution.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("polyprotect", {"overlap": 4})
    required: ClassVar[float] = 0.95

    steps: int = 5  #: Gauss-Newton steps after the closed form; the solution that fits best is kept

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must be at least 0")

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """One embedding after the other, since each may have its own key."""
        if not templates.is_floating_point():
            raise NotApplicable(f"templates of {templates.dtype} are not differentiable")
        defense, found = oracle.defense, []
        for number, template in enumerate(track(templates.unbind(0), "inverting templates", len(templates))):
            key = self.key_of(oracle, number)

            def transform(one: Tensor, key: Any = key) -> Tensor:
                return defense.transform(one[None], key)[0].flatten()

            found.append(self._solved(transform, template.flatten(), oracle.width))
        return torch.stack(found)

    def _solved(self, transform: Any, template: Tensor, width: int) -> Tensor:
        """The embedding (D,) whose template is closest among the steps."""
        at = torch.zeros(width)
        best, least = at, float("inf")
        for _ in range(self.steps + 1):
            slope: Tensor = torch.autograd.functional.jacobian(transform, at)  # type: ignore[no-untyped-call]
            gram = slope @ slope.T
            gram.diagonal().add_(_RIDGE * gram.diagonal().mean().clamp_min(1e-12))
            at = at + slope.T @ torch.linalg.solve(gram, template - transform(at))
            missed = float((transform(at) - template).norm())
            if not missed < least:
                break
            best, least = at, missed
        return best
