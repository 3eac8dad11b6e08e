"""Inverts SlerpFace's templates whose key leaked: an interpolation on the sphere can be followed back to its start."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import InversionAttack, KeyOracle, NotApplicable, Rng
from bench.toolkit.progress import track

_ANGLES, _LENGTHS = 90, 120  #: grid of the angle between a group and its direction, and of the length of what was kept
_LEAST = 1e-6


@dataclass(frozen=True, kw_only=True)
class SlerpInversion(InversionAttack):
    """Recovers each group of the embedding from its stored group, its direction and its weight.

    A stored group lies in the plane of the original one and its direction k: r = cos(b t) k + sin(b t) w, where t is
    the original angle, w a unit vector orthogonal to k, and b = 1 - alpha + m. Without dropped entries, t is the angle
    between r and k, divided by b, and the original cos(t) k + sin(t) w is exact. Where entries were dropped and the
    rest was scaled, t and the lost length are unknown: the result is then the mean over a grid of both, weighted by
    their probability if groups are uniformly distributed on the sphere. The weight m is the length of the stored group,
    or comes from the auxiliary data; the group is scaled to length sqrt(m). Without the victim's key, it uses one of
    the attacker's.

    Source of the exact inverse: the interpolation's formula (SlerpFace, AAAI 2025). The mean over what is unknown is
    ours.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("slerpface", {"drop": 0.0})
    required: ClassVar[float] = 0.99
    steals_auxiliary: ClassVar[bool] = True

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """One embedding after the other, since each may have its own key."""
        defense = oracle.defense
        alpha = getattr(defense, "alpha", None)
        if alpha is None or templates.ndim != 3 or not templates.is_floating_point():
            raise NotApplicable(f"templates of shape {tuple(templates.shape[1:])} are no groups of entries on a sphere")
        found = []
        for number, template in enumerate(track(templates.unbind(0), "inverting templates", len(templates))):
            key, beside = self.key_of(oracle, number), oracle.auxiliary(number)
            if "directions" not in key:
                raise NotApplicable(f"the key of {type(defense).__name__} has no directions")
            weights = template.norm(dim=1) if beside is None else beside.to(template)
            kept = functional.normalize(template, dim=1)
            groups = _unrotated(kept, key["directions"].to(template), 1 - float(alpha) + weights)
            found.append((groups * weights.clamp_min(0).sqrt()[:, None]).flatten())
        return torch.stack(found)


def _unrotated(kept: Tensor, directions: Tensor, rest: Tensor) -> Tensor:
    """Mean original groups (G, d) from what was kept of them (G, d), unit directions (G, d) and b (G,)."""
    whole = (kept != 0).all(1)
    angle = (kept * directions).sum(1).clamp(-1, 1).arccos()
    across = functional.normalize(kept - angle.cos()[:, None] * directions, dim=1)
    original = angle / rest
    exact = original.cos()[:, None] * directions + original.sin()[:, None] * across
    return torch.where(whole[:, None], exact, _averaged(kept, directions, rest))


def _averaged(kept: Tensor, directions: Tensor, rest: Tensor) -> Tensor:
    """The mean over unknown angles t and lengths of what was kept, as w is uniform on the sphere orthogonal to k.

    For given t and length s, the kept entries p give those of w, (s p - cos(b t) k) / sin(b t). The lost entries of w
    make it orthogonal to k, which fixes their part along k, and complete its length to 1: the rest of them has length
    sqrt(rho) and lost - 1 dimensions.
    """
    size = kept.shape[1]
    seen = kept != 0
    lost = (~seen).sum(1).clamp_min(1)
    t = torch.linspace(0.5, _ANGLES - 0.5, _ANGLES, device=kept.device) * torch.pi / _ANGLES
    s = torch.linspace(0.5, _LENGTHS - 0.5, _LENGTHS, device=kept.device) / _LENGTHS
    bent = rest[:, None] * t  # (G, T)
    along, beyond = torch.where(seen, directions, 0), torch.where(seen, 0, directions)
    inner, length = (kept * along).sum(1)[:, None, None], along.square().sum(1)[:, None, None]
    c, sine, row = bent.cos()[:, :, None], bent.sin().clamp_min(_LEAST)[:, :, None], s[None, None, :]
    norm = (row.square() - 2 * row * c * inner + c.square() * length) / sine.square()
    product = (row * inner - c * length) / sine  # of the kept entries of w and of k
    beyond_length = beyond.square().sum(1).clamp_min(_LEAST)[:, None, None]
    rho = 1 - norm - product.square() / beyond_length
    many = lost[:, None, None]
    log = (many - 3) / 2 * rho.clamp_min(1e-3).log() + (size - many - 1) * row.log() - (size - many) * sine.log()
    log = torch.where(rho > 0, log + (size - 2) * t.sin().clamp_min(_LEAST).log()[None, :, None], -torch.inf)
    log = torch.where(torch.isfinite(log.amax((1, 2), keepdim=True)), log, -norm)  # nothing fits: the smallest norm
    chance = log.flatten(1).softmax(1).view_as(log)
    ratio = t.sin()[None, :, None] / sine
    # z = cos t k + sin t w; kept: w = (s p - c k) / sine; lost: w = -product k / |k lost|^2, on average.
    of_kept = (chance * ratio * row).sum((1, 2))
    turned = (chance * (t.cos()[None, :, None] - ratio * c)).sum((1, 2))
    guessed = (chance * (t.cos()[None, :, None] - t.sin()[None, :, None] * product / beyond_length)).sum((1, 2))
    return of_kept[:, None] * kept + turned[:, None] * along + guessed[:, None] * beyond
