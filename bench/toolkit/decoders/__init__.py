"""Decoder networks that turn features back into images, and their training; used by attacks and AdvFace's shadow."""

from bench.toolkit.decoders.attack import DecoderAttack, filled_decoder, restore_decoder, stores_features
from bench.toolkit.decoders.networks import Decoder, DecoderSpec, build_decoder, set_batch_statistics
from bench.toolkit.decoders.training import Training, train_decoder

__all__ = [
    "Decoder",
    "DecoderAttack",
    "DecoderSpec",
    "Training",
    "build_decoder",
    "filled_decoder",
    "restore_decoder",
    "set_batch_statistics",
    "stores_features",
    "train_decoder",
]
