"""An attack that fails whenever it is asked for anything."""

from dataclasses import dataclass

from bench.contracts import Knowledge, ReconstructionAttack


@dataclass(frozen=True, kw_only=True)
class Broken(ReconstructionAttack):
    """Fails."""

    @property
    def level(self) -> Knowledge:
        return Knowledge.BLIND

    def reconstruct(self, oracle, state, leak, rng):  # type: ignore[no-untyped-def]
        raise RuntimeError("a bug in somebody's attack")
