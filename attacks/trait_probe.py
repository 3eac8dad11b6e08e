"""Soft biometrics: probes that read age, glasses or a beard from templates, without a picture.

The field calls it attribute inference. Age, gender and many other attributes can be predicted from the embeddings of
recognisers that were not trained for it (Terhörst et al., "Beyond Identity: What Information Is Stored in Biometric
Face Templates?", IJCB 2020). A defence against reconstruction does not promise to prevent that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, Rng, State, TraitAttack
from bench.toolkit.trait_probes import LEAST, many_people, probabilities, train_probes

_BATCH = 50  #: faces enrolled together


@dataclass(frozen=True, kw_only=True)
class TraitProbe(TraitAttack):
    """Learns yes/no traits from the templates of own faces: a linear probe, or a small network.

    It enrols own faces whose traits it knows, as many people as possible. A trait's probe is the mean of four, each
    trained on the templates of three quarters of these people, while the others decide on its weight decay (linear,
    logistic regression) or on when it stops (a network with one hidden layer). Templates and their magnitudes are
    averaged down to `side` places a side and projected on the principal components of those of own faces.
    """

    probe: Literal["linear", "network"] = "linear"  #: logistic regression, or one hidden layer
    enrolled: int = 800  #: own faces whose templates it learns from
    side: int = 12  #: places a side to which templates are averaged down
    hidden: int = 32  #: units of the network's hidden layer

    def __post_init__(self) -> None:
        if self.enrolled < 2 * LEAST or min(self.side, self.hidden) < 1:
            raise ValueError(f"enrolled must be at least {2 * LEAST}, side and hidden at least 1")

    @property
    def level(self) -> Knowledge:
        """Enrols own faces and reads their templates back."""
        return Knowledge.ENROLMENT

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the probes of every trait that has enough faces of both answers.

        Raises:
            NotApplicable: no trait has.
        """
        faces = public.subset(many_people(public)[: self.enrolled])
        return train_probes(self._reduced(_enrolled(oracle, faces)), faces, rng, probe=self.probe, hidden=self.hidden)

    def infer(self, oracle: Oracle, state: State, leak: Leak, rng: ImageRng) -> Mapping[str, Tensor]:
        """Probabilities (B,) of yes."""
        return probabilities(state, self._reduced(leak.values))

    def _reduced(self, templates: Tensor) -> Tensor:
        """Templates (B, C, h, w) as (B, 2 * C * side * side): means and mean magnitudes; as they are without places.

        What alternates in sign, such as a frequency's coefficient, averages to nothing and still has a magnitude.
        """
        if templates.ndim != 4:
            return templates.float().flatten(1)
        height, width = (min(self.side, length) for length in templates.shape[2:])
        both = torch.cat([templates.float(), templates.float().abs()], 1)
        return functional.adaptive_avg_pool2d(both, (height, width)).flatten(1)


def _enrolled(oracle: Oracle, faces: FaceSet) -> Tensor:
    """Templates of own faces, as the server stores them."""
    size = oracle.defense.protect_batch or _BATCH
    made = []
    for start in range(0, len(faces), size):
        some = slice(start, start + size)
        made.append(oracle.enrol(faces.batch(some, oracle.device), faces.names[some]).cpu())
    return torch.cat(made)
