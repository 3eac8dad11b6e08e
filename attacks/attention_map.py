"""Links templates of two applications by the weights of their groups, which a key does not change."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from bench.contracts import CrossmatchAttack, KeyOracle, NotApplicable, Stolen


@dataclass(frozen=True, kw_only=True)
class AttentionMap(CrossmatchAttack):
    """Scores two records by the correlation of the logarithms of their groups' weights.

    SlerpFace scales each stored group to its weight in the attention map, so the groups' lengths are the map, whatever
    the key: a soft biometric that links templates. If the map is stored as auxiliary data, `reads = "auxiliary"` takes
    it from there. The rows of a template are its groups; a template without rows has none.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("slerpface", {})
    required: ClassVar[float] = 0.7
    steals_auxiliary: ClassVar[bool] = True

    reads: Literal["template", "auxiliary"] = "template"  #: the lengths of the stored groups, or what is stored beside

    def link(self, oracle: KeyOracle, first: Stolen, second: Stolen) -> Tensor:
        """Correlations (A, B)."""
        one, other = (self._maps(stolen).clamp_min(1e-12).log() for stolen in (first, second))
        one, other = (maps - maps.mean(1, keepdim=True) for maps in (one, other))
        return functional.normalize(one) @ functional.normalize(other).T

    def _maps(self, stolen: Stolen) -> Tensor:
        """Weights (N, groups)."""
        if self.reads == "auxiliary":
            if stolen.auxiliary is None or stolen.auxiliary.ndim != 2:
                raise NotApplicable("this scheme stores no map beside its templates")
            return stolen.auxiliary.float()
        if stolen.templates.ndim != 3 or not stolen.templates.is_floating_point():
            raise NotApplicable(f"templates of shape {tuple(stolen.templates.shape[1:])} have no groups")
        lengths: Tensor = stolen.templates.norm(dim=2)
        if float(lengths.std(1).max()) < 1e-5:
            raise NotApplicable("all groups of a template have the same length")
        return lengths
