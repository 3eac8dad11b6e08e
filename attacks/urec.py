"""URec, a reconstruction network of the AdvFace paper (section 5.1.2): a U-Net."""

from dataclasses import dataclass
from typing import ClassVar

from bench.toolkit.decoders import DecoderAttack
from bench.toolkit.decoders.networks import Architecture


@dataclass(frozen=True, kw_only=True)
class URec(DecoderAttack):
    """Decoder attack with a U-Net."""

    architecture: ClassVar[Architecture] = "unet"
