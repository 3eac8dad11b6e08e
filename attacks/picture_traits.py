"""Traits from rebuilt pictures: probes that learned age or glasses from photographs read what an attack rebuilt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, Rng, State, TraitAttack
from bench.toolkit.trait_probes import probabilities, train_probes

_BATCH = 50


@dataclass(frozen=True, kw_only=True)
class PictureTraits(TraitAttack):
    """Learns yes/no traits from the attacker's own photographs, and reads them from the pictures that `attack` rebuilt.

    So it measures traits where nobody can enrol faces, such as at levels `database` and `server`. The probes are those
    of `trait_probe`, on photographs averaged down to `side` pixels a side. With the pictures of `mean_face` it is its
    own control: it must be at chance. Its figures on "clean features" are those of the same probes on the original
    photographs: what there was to read.
    """

    #: The probes learned from sharp photographs, and read pictures that are not.
    required: ClassVar[float] = 0.1

    attack: str = "unpaired"  #: label of the reconstruction attack, among run.attacks
    #: That of the attack, or above; written NAME@LEVEL in bench.toml.
    knowledge: Literal["blind", "database", "server", "encoder", "algorithm", "enrolment", "whitebox"] = "database"
    side: int = 24  #: pixels a side to which pictures are averaged down

    def __post_init__(self) -> None:
        if self.side < 1:
            raise ValueError("side must be at least 1")

    @property
    def level(self) -> Knowledge:
        """As `knowledge` says."""
        return Knowledge[self.knowledge.upper()]

    @property
    def parts(self) -> tuple[str, ...]:
        """The attack that rebuilds the pictures."""
        return (self.attack,)

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the probes of every trait that has enough faces of both answers; no query.

        Raises:
            NotApplicable: no trait has.
        """
        batches = (public.batch(slice(i, i + _BATCH)) for i in range(0, len(public), _BATCH))
        return train_probes(torch.cat([self._reduced(images) for images in batches]), public, rng)

    def infer(self, oracle: Oracle, state: State, leak: Leak, rng: ImageRng) -> Mapping[str, Tensor]:
        """Probabilities (B,) of yes."""
        return probabilities(state, self._reduced(leak.guesses[0]))

    def _reduced(self, images: Tensor) -> Tensor:
        size = (self.side, self.side)
        return functional.interpolate(images, size, mode="bilinear", antialias=True, align_corners=False).flatten(1)
