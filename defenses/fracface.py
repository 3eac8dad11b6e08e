"""FracFace (NeurIPS 2025): selects the remaining frequencies with a secret square of digits.

A 3 x 3 square of the digits 1 to 9 is expanded to 9 x 9 by itself. Each entry says which of 81 channels is stored at
that position: many positions show the same channel, and most channels are not stored. Repeating the construction has no
effect, because entries count modulo 81 = 3^4 and a second round reproduces the first; so there is no depth parameter.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.block_dct import BLOCK, CHANNELS, block_dct
from bench.toolkit.frequency_defense import STRONG, FrequencyDefense, FrequencyNetwork

_KEPT = [c for c in range(CHANNELS) if c % BLOCK**2 not in STRONG]
_ROW = 9  #: channels per row of the 18 x 9 grid, which is read in alternating directions
_ROWS = [_KEPT[start : start + _ROW] for start in range(0, len(_KEPT), _ROW)]
_SNAKE = [channel for number, row in enumerate(_ROWS) for channel in (row[::-1] if number % 2 else row)]
_SHOWN = _SNAKE[: _ROW**2]  #: plane by plane: all 54 of the luma and 27 of the blue difference
_BATCH = 64  #: images that share a draw, as in the released code


@dataclass(frozen=True, kw_only=True)
class FracFace(FrequencyDefense):
    """Stores 81 channels selected by a secret square, drawn for each image, each batch or the whole system.

    The released code draws once per batch (`draw = "batch"`) and takes images in [.5, 1] (`input_range = "released"`),
    which halves every channel.
    """

    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"input_range", "mode", "weights", "recipe"}),
        "protect": frozenset({"mode", "weights", "recipe"}),
    }

    draw: Literal["image", "batch", "fixed"] = "image"
    input_range: Literal["paper", "released"] = "paper"

    @property
    def randomized(self) -> bool:  # type: ignore[override]
        """True unless one secret serves the whole system."""
        return self.draw != "fixed"

    @property
    def protect_batch(self) -> int | None:
        """The number of images that share a draw."""
        return _BATCH if self.draw == "batch" else None

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """A recogniser whose first convolution has 81 input channels."""
        return FrequencyNetwork(recognizer, len(_SHOWN))

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Draws the system's square, if there is one for the whole system."""
        return State({"digits": torch.from_numpy(rng.numpy().random(9)).float()}) if self.draw == "fixed" else None

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """The square, on the system's device."""
        return state.tensors["digits"].to(next(recognizer.parameters()).device) if state else None

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The channels that a square may select, (B, 81, h, w)."""
        return block_dct(images if self.input_range == "paper" else 0.5 + 0.5 * images, 8, _SHOWN)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """The channels that the square selects, (B, 81, h, w)."""
        drawn = rng.uniform(features.new_empty(len(features), _ROW)) if self.randomized else system.state
        if self.draw == "batch":
            drawn = drawn[:1]
        chosen = relabelling(drawn).expand(len(features), -1)
        return features.gather(1, chosen[:, :, None, None].expand(-1, -1, *features.shape[-2:]))


def relabelling(drawn: Tensor) -> Tensor:
    """Maps (..., 9) numbers in [0, 1) to (..., 81): the channel stored at each position."""
    square = 1 + (9 * drawn).long().reshape(*drawn.shape[:-1], 3, 3)
    whole: Tensor = ((square - 1)[..., :, None, :, None] * _ROW + square[..., None, :, None, :]) % _ROW**2
    return whole.flatten(-4)
