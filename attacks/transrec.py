"""TransRec, a reconstruction network of the AdvFace paper (section 5.1.2): the extractor mirrored layer by layer."""

from dataclasses import dataclass
from typing import ClassVar

from bench.toolkit.decoders import DecoderAttack, Training
from bench.toolkit.decoders.networks import Architecture


@dataclass(frozen=True, kw_only=True)
class TransRec(DecoderAttack):
    """A decoder attack: the extractor mirrored layer by layer."""

    architecture: ClassVar[Architecture] = "trans"

    # Its ten thousand weights bear, and want, longer strides than a wide network's: 36 dB against 30 in as many steps.
    training: Training = Training(epochs=15, learning_rate=1e-2)
