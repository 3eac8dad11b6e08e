"""SlerpFace: rotates parts of the embedding towards secret directions on the sphere (Zhong et al., AAAI 2025)."""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import Key, KeyedDefense, NotApplicable, Rng


@dataclass(frozen=True, kw_only=True)
class SlerpFace(KeyedDefense):
    """Stores groups of the embedding's entries after spherical interpolation towards secret directions, some dropped.

    Each group z of unit length becomes [sin((1 - a) t) z + sin(a t) k] / sin t, where k is its secret direction, t the
    angle between both, and a = `alpha` - m. Entries at secret places become 0, and the rest is scaled to length m. The
    groups' weights m, the attention map, sum to 1. A probe is rotated in the same way and loses the entries that are 0
    in the template. The score is the sum of the groups' products; it is not symmetric: only the template's map counts.

    The paper's recogniser, whose training was not released, has 49 groups and learns the map. Here, any embedding is
    divided into groups, and m is a group's share of its squared length. As released, the length of a stored group is
    its weight, and places are drawn with replacement, so less than `drop` is lost.
    """

    keys: Literal["subject", "record", "system", "pool"] = "record"
    group: int = 16  #: entries of a group
    alpha: float = 0.9  #: how far a group is rotated, 0 to 1, before its weight is subtracted
    drop: float = (
        0.5  #: share of the places drawn; half as many again where the weight is low, half as few where it is high
    )
    draws: Literal["with", "without"] = "with"  #: replacement; the released code draws with it
    attention: Literal["scaled", "beside"] = "scaled"  #: where the map is stored; as released: it scales the template

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.group < 2 or not 0 < self.alpha < 1 or not 0 <= self.drop < 1 or self._drawn[0] >= self.group:
            raise ValueError("group must be at least 2, alpha inside 0 to 1, and drop from 0 to less than two thirds")

    @property
    def _drawn(self) -> tuple[int, int]:
        """Places drawn in groups of low and of high weight."""
        gap = int(self.group / 2 * self.drop)
        return int(self.group * self.drop + gap), int(self.group * self.drop - gap)

    def draw_key(self, rng: Rng, width: int) -> Key:
        """`directions` (groups, group), unit vectors, and `places` (groups, draws), of the entries to drop."""
        if width % self.group:
            raise NotApplicable(f"embeddings of {width} entries do not divide into groups of {self.group}")
        count, low = width // self.group, self._drawn[0]
        directions = torch.randn(count, self.group, generator=rng.child("directions").torch())
        chance = torch.ones(count, self.group)
        places = torch.zeros(count, 0, dtype=torch.long)
        if low:
            places = torch.multinomial(chance, low, self.draws == "with", generator=rng.child("places").torch())
        return {"directions": functional.normalize(directions), "places": places}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """(B, groups, group), float32."""
        maps, (low, high) = self.map_of(embeddings), self._drawn
        less = (maps < maps.quantile(0.5, dim=1, keepdim=True))[:, :, None]
        none = torch.zeros_like(key["directions"], dtype=torch.bool)
        many, few = (none.scatter(1, key["places"][:, :count], True) for count in (low, high))
        kept = self._rotated(embeddings, key).masked_fill(torch.where(less, many, few), 0.0)
        stored = functional.normalize(kept, dim=2)
        return stored * maps[:, :, None] if self.attention == "scaled" else stored

    def auxiliary(self, embeddings: Tensor, key: Key) -> Tensor | None:
        """The attention map (B, groups), unless it scales the template."""
        return self.map_of(embeddings) if self.attention == "beside" else None

    def probe(self, embeddings: Tensor, key: Key) -> Tensor:
        """Unit groups (B, groups, group), of which nothing is dropped."""
        return self._rotated(embeddings, key)

    def probe_beside(self, embeddings: Tensor, key: Key, auxiliary: Tensor | None) -> Tensor:
        """The same, scaled by the claimed record's map where that is beside."""
        rotated = self._rotated(embeddings, key)
        return rotated if auxiliary is None else rotated * auxiliary[:, None]

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """The sum of products of the template's groups with the probe's, which lose the same entries."""
        weights = probes.norm(dim=2)
        kept = functional.normalize(probes.masked_fill(stored == 0, 0.0), dim=2)
        found: Tensor = ((stored * kept).sum(2) * weights).sum(1)
        return found

    def map_of(self, embeddings: Tensor) -> Tensor:
        """The attention map (B, groups): each group's share of the squared length."""
        squares = self._groups(embeddings).square().sum(2)
        found: Tensor = squares / squares.sum(1, keepdim=True).clamp_min(1e-12)
        return found

    def _groups(self, embeddings: Tensor) -> Tensor:
        return embeddings.reshape(len(embeddings), -1, self.group)

    def _rotated(self, embeddings: Tensor, key: Key) -> Tensor:
        """Unit groups (B, groups, group), rotated towards their directions."""
        groups = functional.normalize(self._groups(embeddings), dim=2)
        angle = (groups * key["directions"]).sum(2, keepdim=True).clamp(-1, 1).arccos().clamp_min(1e-6)
        part = self.alpha - self.map_of(embeddings)[:, :, None]
        return (((1 - part) * angle).sin() * groups + (part * angle).sin() * key["directions"]) / angle.sin()
