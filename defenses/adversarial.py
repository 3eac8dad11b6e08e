"""A client trained against a decoder (Xiao et al., AAAI 2020; DeepObfuscator, Li et al., IoTDI 2021)."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from bench.contracts import FaceSet, Rng, SplitNetwork
from bench.toolkit.inner_decoder import InnerDecoder
from bench.toolkit.trained_client import Privacy, TrainedClient


@dataclass(frozen=True, kw_only=True)
class Adversarial(TrainedClient):
    """Stores the features of a client that was trained so that a decoder fails to rebuild the face from them.

    Decoder and client take turns, `decoder_steps` of the one for one of the other. The client's term is the decoder's
    success, 1 - its squared error over the mean face's, and stops at 0: beyond that the client would only run away from
    this one decoder. What counts is how a new decoder fares that is trained on the finished client. SIMBA takes a
    weight of .5.
    """

    decoder_steps: int = 1  #: steps of the decoder for one of the client
    decoder_rate: float = 2e-3  #: learning rate of the decoder
    width: int = 16  #: channels of the decoder

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.decoder_steps, self.width) < 1 or self.decoder_rate <= 0:
            raise ValueError("decoder_steps and width must be at least 1, and decoder_rate above 0")

    def privacy(self, recognizer: SplitNetwork, shape: Sequence[int], public: FaceSet, rng: Rng) -> Privacy:
        """The success of a decoder that learns at the same time."""
        inner = InnerDecoder(recognizer, shape, public, self.width, self.decoder_rate, rng)

        def success(features: Tensor, images: Tensor, people: Tensor) -> Tensor:
            for _ in range(self.decoder_steps):
                inner.learn(features, images)
            return inner.success(features, images)

        return success
