"""Inverts polynomial templates whose key leaked: entries of an embedding are small, so their first power dominates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import InversionAttack, Key, KeyOracle, NotApplicable, Rng
from bench.toolkit.progress import track

_POINTS = 64  #: random embeddings at which the error of the linear part is measured
_SHRINK = 0.7  #: factor of that error's standard deviation per step
_LEAST = 1e-9  #: variance of a template's entry that counts as known


@dataclass(frozen=True, kw_only=True)
class ExponentOne(InversionAttack):
    """Solves the linear part of the transform for the most likely embedding, and refines it by Gauss-Newton steps.

    An entry of a unit embedding of 512 is about .044. In PolyProtect's sum of C_j v^(E_j), the term with the exponent 1
    is therefore larger than all others together: v_(i + j) is about P_i / C_j for that j, and unknown (0) where no
    window has it. This is the solution of the transform's Jacobian at 0, so the attack needs no other knowledge of the
    scheme, and works on any differentiable one. Entries are taken as independent and normal with variance 1 / D, and
    the mean and the variance of what the linear part misses are measured on random embeddings. Each further step
    linearises at the last solution and trusts the template more; the steps end when the template fits no better.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("polyprotect", {"overlap": 4})
    required: ClassVar[float] = 0.85

    steps: int = 14  #: maximum number of Gauss-Newton steps after the closed form

    def __post_init__(self) -> None:
        if self.steps < 0:
            raise ValueError("steps must be at least 0")

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """One embedding after the other, since each may have its own key."""
        if not templates.is_floating_point():
            raise NotApplicable(f"templates of {templates.dtype} are not differentiable")
        defense, found = oracle.defense, []
        points = functional.normalize(torch.randn(_POINTS, oracle.width, generator=rng.torch()))
        for number, template in enumerate(track(templates.unbind(0), "inverting templates", len(templates))):
            key = self.key_of(oracle, number)

            def transform(some: Tensor, key: Key = key) -> Tensor:
                return defense.transform(some, key).flatten(1)

            found.append(self._solved(transform, template.flatten(), points))
        return torch.stack(found)

    def _solved(self, transform: Callable[[Tensor], Tensor], template: Tensor, points: Tensor) -> Tensor:
        """The embedding (D,) whose template is closest among the steps."""
        width = points.shape[1]

        def one(embedding: Tensor) -> Tensor:
            return transform(embedding[None])[0]

        at, best, least = torch.zeros(width), torch.zeros(width), float("inf")
        slope = _jacobian(one, at)
        missing = transform(points) - points @ slope.T
        shift, variance = missing.mean(0), missing.var(0)
        for step in range(self.steps + 1):
            if step:
                slope, shift = _jacobian(one, at), torch.zeros_like(shift)
            gram = slope @ slope.T / width
            gram.diagonal().add_((variance * _SHRINK ** (2 * step)).clamp_min(_LEAST))
            at = slope.T @ torch.linalg.solve(gram, template - one(at) + slope @ at - shift) / width
            missed = float((one(at) - template).norm())
            if not missed < least:
                break
            best, least = at, missed
        return best


def _jacobian(transform: Callable[[Tensor], Tensor], at: Tensor) -> Tensor:
    found: Tensor = torch.autograd.functional.jacobian(transform, at, vectorize=True)  # type: ignore[no-untyped-call]
    return found
