"""ResRec, a reconstruction network of the AdvFace paper (section 5.1.2): residual blocks, then upsampling."""

from dataclasses import dataclass
from typing import ClassVar

from bench.toolkit.decoders import DecoderAttack
from bench.toolkit.decoders.networks import Architecture


@dataclass(frozen=True, kw_only=True)
class ResRec(DecoderAttack):
    """Decoder attack with residual blocks, then upsampling."""

    architecture: ClassVar[Architecture] = "res"
