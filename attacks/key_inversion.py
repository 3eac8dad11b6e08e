"""Inverts hashes of embeddings whose key leaked: their bits and indices are inequalities, which are solved."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import InversionAttack, Key, KeyedDefense, KeyOracle, NotApplicable, Rng
from bench.toolkit.progress import track

_POINTS = 64  #: at which the gradient of the margins is averaged
_SOLVED = 0.001  #: share of violated margins up to which no other start is tried


@dataclass(frozen=True, kw_only=True)
class KeyInversion(InversionAttack):
    """Finds an embedding that satisfies the inequalities of a stolen hash, and does so with room to spare.

    The start is a closed form: the direction in which the sum of all margins grows, averaged over random embeddings.
    For linear margins (BioHash, IoM-GRP) this is the sum of the constraints' normals. Newton steps on the violated
    margins follow (x - g L / |g|^2), and then L-BFGS on the logistic loss of all margins, relative to `temperature`
    times their mean size: among the embeddings that fit, one far from every boundary is nearest to the true one on
    average. If many inequalities remain violated, as for products (IoM-URP), whose gradient averages to 0, it starts
    again elsewhere, up to `starts` times, and keeps what violates least. Without the victim's key, it uses one of the
    attacker's, which shows what the template tells by itself.

    Source: Analysis_LSH (BMVC 2023) for the constraints and the Newton steps. The averaged start and the logistic loss
    are ours.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("iom_grp", {})
    required: ClassVar[float] = 0.7

    newton: int = 20  #: maximum number of Newton steps; they end when nothing is violated
    steps: int = 40  #: maximum number of L-BFGS steps
    temperature: float = 0.1
    starts: int = 4  #: maximum number of starts, of which the first is the closed form

    def __post_init__(self) -> None:
        if self.newton < 0 or self.steps < 0 or self.temperature <= 0 or not 1 <= self.starts <= _POINTS:
            raise ValueError(f"newton and steps must be at least 0, temperature above 0, and starts 1 to {_POINTS}")

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """One embedding after the other, since each may have its own key."""
        defense, found = oracle.defense, []
        points = functional.normalize(torch.randn(_POINTS, oracle.width, generator=rng.torch()))
        for number, template in enumerate(track(templates.unbind(0), "inverting templates", len(templates))):
            key = self.key_of(oracle, number)
            start = functional.normalize(_growth(defense, points, template, key).mean(0, keepdim=True))
            found.append(self._best(defense, template, key, torch.cat([start, points[1 : self.starts]])))
        return torch.cat(found)

    def _best(self, defense: KeyedDefense, template: Tensor, key: Key, starts: Tensor) -> Tensor:
        """What violates the smallest share of margins, (1, D), of the results of some starts (S, D)."""
        best, least = starts[:1], float("inf")
        for start in starts:
            made = self._settled(defense, template, key, self._solved(defense, template, key, start[None]))
            with torch.no_grad():
                violated = float((_margins(defense, made, template, key) < 0).double().mean())
            if violated < least:
                best, least = made, violated
            if least <= _SOLVED:
                break
        return best

    def _solved(self, defense: KeyedDefense, template: Tensor, key: Key, start: Tensor) -> Tensor:
        """Newton steps on the sum of violated margins, (1, D)."""
        for _ in range(self.newton):
            at = start.clone().requires_grad_()
            violated = functional.relu(-_margins(defense, at, template, key)).sum()
            if violated <= 0:
                break
            (slope,) = torch.autograd.grad(violated, at)
            start = functional.normalize(start - slope * violated.detach() / slope.square().sum().clamp_min(1e-12))
        return start

    def _settled(self, defense: KeyedDefense, template: Tensor, key: Key, start: Tensor) -> Tensor:
        """Away from the boundaries, (1, D)."""
        if not self.steps:
            return start
        with torch.no_grad():
            size = _margins(defense, start, template, key).abs().mean().clamp_min(1e-9) * self.temperature
        at = start.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([at], max_iter=self.steps, line_search_fn="strong_wolfe")

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = functional.softplus(-_margins(defense, functional.normalize(at), template, key) / size).sum()
            value.backward()  # type: ignore[no-untyped-call]
            return value

        optimiser.step(loss)  # type: ignore[no-untyped-call, arg-type]
        found = at.detach()
        return functional.normalize(found) if torch.isfinite(found).all() else start


def _margins(defense: KeyedDefense, embeddings: Tensor, template: Tensor, key: Key) -> Tensor:
    found = defense.margins(embeddings, template, key)
    if found is None:
        raise NotApplicable(f"{type(defense).__name__} declares no margins: its templates are no hash")
    return found


def _growth(defense: KeyedDefense, points: Tensor, template: Tensor, key: Key) -> Tensor:
    """Gradient (N, D) of the sum of margins at some embeddings."""
    at = points.clone().requires_grad_()
    (slope,) = torch.autograd.grad(_margins(defense, at, template, key).sum(), at)
    return slope
