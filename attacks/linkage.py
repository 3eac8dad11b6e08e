"""Links a stolen template to a person by comparing it with their public photograph, as a login would."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, LinkageAttack, Oracle, State

_BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Linkage(LinkageAttack):
    """Compares every face of a gallery with every stolen template: it reveals a name and no picture.

    Since the system exists to recognise people, most of the result restates its accuracy with raw probes. It shows that
    hiding pixels does not hide names from anyone who can attempt a login.
    """

    @property
    def level(self) -> Knowledge:
        """Needs the similarity score of a login."""
        return Knowledge.ENROLMENT

    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """Cosines (B, N) of stored templates with unprotected probes."""
        batches = (gallery.batch(slice(i, i + _BATCH)) for i in range(0, len(gallery), _BATCH))
        return torch.cat([oracle.similarities(batch, leak.rows) for batch in batches]).T
