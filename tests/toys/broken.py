"""An attack that fails whenever it is asked for anything."""

from dataclasses import dataclass

import torch

from bench.contracts import Knowledge, ReconstructionAttack


@dataclass(frozen=True, kw_only=True)
class Broken(ReconstructionAttack):
    """Fails."""

    how: str = "bug"  #: or memory, as a GPU would

    @property
    def level(self) -> Knowledge:
        return Knowledge.BLIND

    def reconstruct(self, oracle, state, leak, rng):  # type: ignore[no-untyped-def]
        if self.how == "memory":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        raise RuntimeError("a bug in somebody's attack")
