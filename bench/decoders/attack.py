"""What TransRec, ResRec and URec have in common: a decoder trained on (image, clean feature) pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from bench.contracts import Conv, FaceSet, ImageRng, Knowledge, Leak, ReconstructionAttack, Rng, State
from bench.decoders.networks import Architecture, DecoderSpec, Norm, build_decoder, set_batch_statistics
from bench.decoders.training import Training, train_decoder
from bench.precision import autocast

if TYPE_CHECKING:
    from bench.oracle import Oracle


def restore_decoder(
    spec: DecoderSpec,
    state: State,
    feature_shape: Sequence[int],
    layout: Sequence[Conv],
    image_size: tuple[int, int],
    device: torch.device,
) -> nn.Module:
    """The trained decoder, in eval mode, its weights frozen: only gradients towards its input are ever wanted."""
    with torch.random.fork_rng(devices=[]):
        decoder = build_decoder(spec, feature_shape, layout, image_size)
    decoder.load_state_dict(dict(state.tensors))
    placed: nn.Module = decoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed.eval().requires_grad_(False)


@dataclass(frozen=True, kw_only=True)
class DecoderAttack(ReconstructionAttack):
    """A decoder as the attacker (AdvFace paper, Eq. 1). Subclasses name the architecture."""

    architecture: ClassVar[Architecture]

    norm: Norm = "batch"
    batch_statistics: bool = False  #: normalise with the statistics of the stolen batch instead of the training's
    width: int = 64
    training: Training = Training()

    @property
    def level(self) -> Knowledge:
        """The paper's attacker: a black-box client device."""
        return Knowledge.ENCODER

    @property
    def _spec(self) -> DecoderSpec:
        return DecoderSpec(self.architecture, self.norm, self.width)

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the decoder on the attacker's own public faces, seen through the client's extractor."""
        return train_decoder(
            lambda: build_decoder(self._spec, oracle.feature_shape, oracle.layout, oracle.image_size),
            oracle.encode,
            public,
            self.training,
            rng,
            oracle.device,
            f"training {type(self).__name__}",
        )

    def prepare(self, oracle: Oracle, state: State | None) -> nn.Module:
        """The trained decoder."""
        if state is None:
            raise ValueError(f"{type(self).__name__} has no trained state")
        decoder = restore_decoder(
            self._spec, state, oracle.feature_shape, oracle.layout, oracle.image_size, oracle.device
        )
        set_batch_statistics(decoder, self.batch_statistics)
        return decoder

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """One forward pass."""
        with torch.no_grad(), autocast(oracle.device):
            images: Tensor = state(leak.values.contiguous(memory_format=torch.channels_last))
        return images
