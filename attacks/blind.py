"""Baseline guesses that never look at the template: the floor that every real attack must beat."""

from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State


@dataclass(frozen=True, kw_only=True)
class Blind(ReconstructionAttack):
    """Answers every template with the same picture."""

    guess: Literal["mean", "grey"] = "mean"  #: the mean public face, or uniform mid-grey

    @property
    def level(self) -> Knowledge:
        """Needs public faces only."""
        return Knowledge.BLIND

    def fit(self, oracle: "Oracle", public: FaceSet, rng: Rng) -> State:
        """Computes the mean of the attacker's public faces."""
        height, width = oracle.image_size
        if self.guess == "grey":
            return State({"picture": torch.full((3, height, width), 0.5)})
        total = torch.zeros(3, height, width, dtype=torch.float64)
        for start in range(0, len(public), 100):
            total += public.batch(slice(start, start + 100)).double().sum(0)
        return State({"picture": (total / len(public)).float()})

    def reconstruct(self, oracle: "Oracle", state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Returns the same picture for every template."""
        picture: Tensor = state.tensors["picture"].to(oracle.device)
        return picture.expand(len(leak.values), *picture.shape)
