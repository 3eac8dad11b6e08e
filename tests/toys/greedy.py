"""An attack that declares little and asks for much."""

from dataclasses import dataclass

import torch

from bench.contracts import Knowledge, ReconstructionAttack


@dataclass(frozen=True, kw_only=True)
class Greedy(ReconstructionAttack):
    """Declares `encoder` and enrols."""

    @property
    def level(self) -> Knowledge:
        return Knowledge.ENCODER

    def fit(self, oracle, public, rng):  # type: ignore[no-untyped-def]
        oracle.encode(torch.zeros(1, 3, *oracle.image_size))
        oracle.enrol(torch.zeros(1, 3, *oracle.image_size), ["me"])

    def reconstruct(self, oracle, state, leak, rng):  # type: ignore[no-untyped-def]
        return torch.zeros(len(leak.values), 3, *oracle.image_size)
