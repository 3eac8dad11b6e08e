"""Inverts any keyed transform that is differentiable: descends to an embedding that gives the stolen template."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import InversionAttack, Key, KeyedDefense, KeyOracle, NotApplicable, Rng
from bench.toolkit.progress import track


@dataclass(frozen=True, kw_only=True)
class DescentInversion(InversionAttack):
    """Maximises the cosine of transform(embedding) with the template by L-BFGS, from several random starts.

    It needs no margins, so it opens what is no hash, such as a network's outputs. The best start is kept. Templates of
    bits or indices have no gradient: `key_inversion` inverts those.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("randcnn", {})

    starts: int = 4  #: random starts per template
    steps: int = 200  #: of L-BFGS, at most

    def __post_init__(self) -> None:
        if min(self.starts, self.steps) < 1:
            raise ValueError("starts and steps must be at least 1")

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """One embedding after the other, since each may have its own key.

        Raises:
            NotApplicable: the templates are of integers or bits.
        """
        if not templates.is_floating_point():
            raise NotApplicable(f"templates of {templates.dtype} have no gradient")
        found = []
        for number in track(range(len(templates)), "descending to embeddings", len(templates)):
            key = self.key_of(oracle, number)
            starts = torch.randn(self.starts, oracle.width, generator=rng.child(number).torch()).to(templates)
            found.append(self._best(oracle.defense, templates[number], key, functional.normalize(starts)))
        return torch.stack(found)

    def _best(self, defense: KeyedDefense, template: Tensor, key: Key, starts: Tensor) -> Tensor:
        """The embedding (D,) whose template is nearest, of those to which the starts (S, D) lead."""
        at = starts.clone().requires_grad_()
        optimiser = torch.optim.LBFGS([at], max_iter=self.steps, line_search_fn="strong_wolfe", tolerance_change=1e-9)

        def apart() -> Tensor:
            made = defense.transform(functional.normalize(at), key)
            return 1 - functional.cosine_similarity(made.flatten(1), template.flatten()[None])

        def loss() -> Tensor:
            optimiser.zero_grad()
            value = apart().sum()
            torch.autograd.backward(value)
            return value

        optimiser.step(loss)  # type: ignore[no-untyped-call]
        with torch.no_grad():
            return functional.normalize(at)[apart().argmin()]
