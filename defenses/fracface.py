"""FracFace (NeurIPS 2025): the frequencies that are left, relabelled by a secret square of digits.

A 3 x 3 square of digits 1 to 9 is blown up to 9 x 9 by itself, and each entry says which of 81 channels stands there:
many places show the same channel, and most channels are shown nowhere. The construction can be repeated, but entries
count modulo 81 = 3^4, so that a second round gives the first one again: there is no depth to choose here.
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
_ROW = 9  #: channels in a row of the grid of 18 x 9 that is read as a snake, every second row backwards
_ROWS = [_KEPT[start : start + _ROW] for start in range(0, len(_KEPT), _ROW)]
_SNAKE = [channel for number, row in enumerate(_ROWS) for channel in (row[::-1] if number % 2 else row)]
_SHOWN = _SNAKE[: _ROW**2]  #: plane after plane: all 54 of the luma and 27 of the blue difference
_BATCH = 64  #: images that share a draw, as the released code has it


@dataclass(frozen=True, kw_only=True)
class FracFace(FrequencyDefense):
    """Stores 81 channels, picked by a secret square: one of each image, of each batch, or of the whole system.

    The released code draws once a batch (`draw = "batch"`) and is fed images in [.5, 1] (`input_range = "released"`),
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
        """Unless one secret serves all."""
        return self.draw != "fixed"

    @property
    def protect_batch(self) -> int | None:
        """Those who share a draw."""
        return _BATCH if self.draw == "batch" else None

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """Its first convolution takes 81 channels."""
        return FrequencyNetwork(recognizer, len(_SHOWN))

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Draws the system's own square, where one serves all."""
        return State({"digits": torch.from_numpy(rng.numpy().random(9)).float()}) if self.draw == "fixed" else None

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """The square, where it is computed with."""
        return state.tensors["digits"].to(next(recognizer.parameters()).device) if state else None

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The channels that a square may pick from, (B, 81, h, w)."""
        return block_dct(images if self.input_range == "paper" else 0.5 + 0.5 * images, 8, _SHOWN)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """The channels that the square picks, (B, 81, h, w)."""
        drawn = rng.uniform(features.new_empty(len(features), _ROW)) if self.randomized else system.state
        if self.draw == "batch":
            drawn = drawn[:1]
        chosen = relabelling(drawn).expand(len(features), -1)
        return features.gather(1, chosen[:, :, None, None].expand(-1, -1, *features.shape[-2:]))


def relabelling(drawn: Tensor) -> Tensor:
    """(..., 9) numbers in [0, 1) to (..., 81): the channel that stands in each place."""
    square = 1 + (9 * drawn).long().reshape(*drawn.shape[:-1], 3, 3)
    whole: Tensor = ((square - 1)[..., :, None, :, None] * _ROW + square[..., None, :, None, :]) % _ROW**2
    return whole.flatten(-4)
