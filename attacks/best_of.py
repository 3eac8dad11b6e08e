"""Chooses the best of several attacks' reconstructions for each image, by what the client makes of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.contracts import ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack

_BATCH = 16  #: images encoded together


@dataclass(frozen=True, kw_only=True)
class BestOf(ReconstructionAttack):
    """Encodes each part's reconstruction with the client and keeps the one whose features are closest to the template.

    The distance is the rms over the features, each channel divided by its standard deviation over the guesses, so that
    no channel dominates. The original images take no part in the choice. The oracle bound of a leaderboard does choose
    by the originals; this attack is what an attacker can achieve of it. It trains nothing: each part's state and
    reconstructions are those of its own cell. If one of the parts does not apply to a defence, this attack does not
    either.

    Source: the choice among restarts by the lowest objective, as in He et al. (ACSAC 2019), over whole attacks.
    """

    #: What the attacker knows; written NAME@LEVEL in bench.toml.
    knowledge: Literal["encoder", "algorithm", "enrolment", "whitebox"] = "encoder"
    attacks: tuple[str, ...] = ("resrec", "resrec_noisy", "urec", "snap")  #: labels, each among run.attacks

    def __post_init__(self) -> None:
        if len(self.attacks) < 2 or len(set(self.attacks)) < len(self.attacks):
            raise ValueError("attacks must name at least two different attacks")

    @property
    def level(self) -> Knowledge:
        """Encodes own images, so at least `encoder`."""
        return Knowledge[self.knowledge.upper()]

    @property
    def parts(self) -> tuple[str, ...]:
        """As configured."""
        return self.attacks

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Chooses for each image independently; reports the share of images for which each part was chosen."""
        features = [torch.cat([oracle.encode(some) for some in torch.split(g, _BATCH)]) for g in leak.guesses]
        distances = torch.stack([_distance(seen, leak.values, features) for seen in features])
        chosen = distances.argmin(0)
        for index, label in enumerate(self.attacks):
            oracle.report(**{f"chose_{label}": (chosen == index).float()})
        oracle.report(distance=distances.amin(0))
        return torch.stack(leak.guesses)[chosen, torch.arange(len(chosen), device=chosen.device)]


def _distance(seen: Tensor, stolen: Tensor, features: list[Tensor]) -> Tensor:
    """Rms distance (B,) between features (B, C, h, w), in units of each channel's spread in all guesses of an image."""
    spread = torch.stack(features).flatten(3).std((0, 3)).clamp_min(1e-6)
    return ((seen - stolen).flatten(2) / spread[..., None]).square().mean((1, 2)).sqrt()
