"""Averages several captures of one face and decodes the mean with a decoder trained on such means."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from bench.contracts import FaceSet, Knowledge, ReconstructionAttack, Rng, State
from bench.toolkit.decoders import DecoderAttack, Training, build_decoder, train_decoder
from bench.toolkit.decoders.networks import Architecture

if TYPE_CHECKING:
    from bench.contracts.oracle import Oracle


@dataclass(frozen=True, kw_only=True)
class Captures(DecoderAttack):
    """A U-Net decoder for the mean of `average` captures, for clients that draw fresh randomness each time.

    `resrec` with `average` decodes the mean with a decoder trained on single templates. That suits additive noise, but
    not a shuffle, whose mean looks like none of its draws. Averaged over all channel orders, what MinusFace sends is a
    fixed filter of one picture: the mean of its channels. For a deterministic client this is an ordinary decoder.
    """

    architecture: ClassVar[Architecture] = "unet"

    average: int = 16
    training: Training = Training(epochs=30, batch=8, flip=False, images=300)  #: each training image is captured once

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.knowledge != "encoder":
            raise ValueError("captures learns from a client device alone: knowledge is encoder")

    @property
    def level(self) -> Knowledge:
        """Needs a client device that it can query several times."""
        return Knowledge.ENCODER

    @property
    def base(self) -> ReconstructionAttack | None:
        """None: the training data depends on the number of captures."""
        return None

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the decoder on means of captures of the attacker's own faces."""
        count = self.average if oracle.varies else 1

        def encode(images: Tensor) -> Tensor:
            total = oracle.encode(images)
            for _ in range(count - 1):
                total = total + oracle.encode(images)
            return total / count

        return train_decoder(
            lambda: build_decoder(self._spec, oracle.feature_shape, oracle.layout, oracle.image_size),
            encode,
            public,
            self.training,
            rng,
            oracle.device,
            "training on means of captures",
            fixed=True,
        )

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Does not start from another attack's decoder."""
        return start
