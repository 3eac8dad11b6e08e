"""Templates of the attacker's own faces, from a copy of the defence or from the real system."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.contracts import Knowledge, Oracle, Rng

#: Maps images (B, 3, H, W) and as many names to their templates.
Enrol = Callable[[Tensor, Sequence[str]], Tensor]


def own_templates(oracle: Oracle, rng: Rng) -> Enrol:
    """What the server stores for own images, as well as the attacker's level allows.

    At level `enrolment` and above it is the real system, at `algorithm` a copy of the defence, fitted on the attacker's
    faces. Every call draws fresh randomness.

    Raises:
        KnowledgeError: below level `algorithm`.
    """
    if oracle.level >= Knowledge.ENROLMENT:
        return oracle.enrol
    copy = oracle.surrogate
    calls = iter(range(1 << 62))

    def protect(images: Tensor, names: Sequence[str]) -> Tensor:
        with torch.no_grad():
            call = rng.child(next(calls))
            return copy.protect(copy.encode(images.to(oracle.device)), call.images(names)).detach()

    return protect
