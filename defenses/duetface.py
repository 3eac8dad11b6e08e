"""DuetFace-style channel splitting (Mi et al., ACM MM 2022, section 3): stores the channels that show least to the eye.

It omits their interactive attention and region of interest, with which the client's crucial channels guide the server.
That can only lower the accuracy; the templates are the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor

from bench.contracts import SplitNetwork, System
from bench.toolkit.block_dct import BLOCK, CHANNELS, block_dct, inverse_block_dct
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.frequency_defense import STRONG, FrequencyDefense, FrequencyNetwork
from bench.toolkit.server_training import Labels

_STORED = [c for c in range(CHANNELS) if c % BLOCK**2 not in STRONG]


@dataclass(frozen=True, kw_only=True)
class DuetFace(FrequencyDefense):
    """Stores the 162 of 192 block-DCT channels with the least visual content; the client keeps the 30 crucial ones.

    The server uses the body of the recogniser under test behind a new first convolution. A template takes 3.5 MB for a
    112 x 96 image in half precision.
    """

    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"upsample", "mode", "weights", "recipe"}),
        "protect": frozenset({"mode", "weights", "recipe"}),
    }

    mode: Labels = "auto"
    recipe: Recipe = Recipe(epochs=6, batch=32, schedule="cosine", warm_up=0)
    upsample: Literal[1, 8] = 8  #: 8 is the paper's: channels as large as the image; 1: plain 8 x 8 blocks

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """With plain blocks, an eighth of the image's size, the stored channels are first converted back to pixels."""
        if self.upsample > 1:
            return FrequencyNetwork(recognizer, len(_STORED))

        def pixels(templates: Tensor) -> Tensor:
            whole = templates.new_zeros(len(templates), CHANNELS, *templates.shape[-2:])
            whole[:, _STORED] = templates
            return inverse_block_dct(whole, recognizer.image_size, self.upsample)

        return FrequencyNetwork(recognizer, 3, pixels)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The channels that are not crucial, (B, 162, h, w)."""
        return block_dct(images, self.upsample, _STORED)
