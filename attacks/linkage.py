"""Links a stolen template to a person by the likeness that a login with their public photograph would score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, LinkageAttack, Oracle, State

_BATCH = 50


@dataclass(frozen=True, kw_only=True)
class Linkage(LinkageAttack):
    """Tries every face of a gallery as a probe against every stolen template: no picture, but a name.

    Recognition is what the system is for, so much of this restates its accuracy with raw probes; what it adds is that
    hiding pixels hides no names from whoever may try to log in.
    """

    @property
    def level(self) -> Knowledge:
        """A login says how alike a face and a template are."""
        return Knowledge.ENROLMENT

    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """Cosines (B, N) of what is stored with unprotected probes."""
        batches = (gallery.batch(slice(i, i + _BATCH)) for i in range(0, len(gallery), _BATCH))
        return torch.cat([oracle.similarities(batch, leak.rows) for batch in batches]).T
