"""TransRec, a reconstruction network of the AdvFace paper (section 5.1.2): the extractor mirrored layer by layer."""

from dataclasses import dataclass
from typing import ClassVar

from bench.toolkit.decoders import DecoderAttack, Training
from bench.toolkit.decoders.networks import Architecture


@dataclass(frozen=True, kw_only=True)
class TransRec(DecoderAttack):
    """Decoder attack that mirrors the extractor layer by layer."""

    architecture: ClassVar[Architecture] = "trans"

    # It has only ten thousand weights and needs a higher learning rate: 36 dB instead of 30 in the same number of
    # steps.
    training: Training = Training(epochs=15, learning_rate=1e-2)
