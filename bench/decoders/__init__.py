"""Networks that turn features back into images, and their training; shared by attacks and by AdvFace's shadow."""

from bench.decoders.attack import DecoderAttack, restore_decoder
from bench.decoders.networks import Decoder, DecoderSpec, build_decoder, set_batch_statistics
from bench.decoders.training import Training, train_decoder

__all__ = [
    "Decoder",
    "DecoderAttack",
    "DecoderSpec",
    "Training",
    "build_decoder",
    "restore_decoder",
    "set_batch_statistics",
    "train_decoder",
]
