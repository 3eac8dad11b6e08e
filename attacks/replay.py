"""Replay: presents a reconstruction to the recognition system (AdvFace paper, section 5.1.4, SRRA)."""

from dataclasses import dataclass

from bench.contracts import ReplayAttack


@dataclass(frozen=True, kw_only=True)
class Replay(ReplayAttack):
    """Presents the wrapped attack's reconstructions, or injects the stolen templates (`present = "template"`).

    A reconstruction passes through the whole defended pipeline. It is compared with the stored template of the same
    image (type I) or of the person's other image (type II), at this defence's own threshold. An injected template is
    compared with itself, so type I is 100 % by construction.
    """
