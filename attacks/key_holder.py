"""Undoes a transform with its key: what a thief of templates and keys has of schemes that can be undone."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from bench.contracts import InversionAttack, KeyOracle, NotApplicable, Rng


@dataclass(frozen=True, kw_only=True)
class KeyHolder(InversionAttack):
    """Decrypts with the leaked key; without it, with a key of the attacker's own, which must give nothing."""

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("matrix", {})
    required: ClassVar[float] = 0.99
    sealed: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("ckks", {})

    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """One template after the other, since each may have its own key."""
        defense, found = oracle.defense, []
        for number, template in enumerate(templates.unbind(0)):
            opened = defense.undo(template[None], self.key_of(oracle, number))
            if opened is None:
                raise NotApplicable(f"{type(defense).__name__} cannot be undone, not even with its key")
            found.append(opened)
        return torch.cat(found)
