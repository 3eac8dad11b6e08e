"""A bottleneck in the client: fewer channels, of few bits (as in BottleNet, Eshratifar et al., ISLPED 2019)."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.feature_scale import feature_batches

_FACES = 300  #: public faces on which the directions are found
_EDGE = 1e-3  #: share of the values beyond each end of the quantiser's range


@dataclass(frozen=True, kw_only=True)
class Bottleneck(Defense):
    """Stores the features' principal channels, each value rounded to one of 2^`bits` levels.

    A 1 x 1 convolution projects the channels of each place on the `channels` directions that have most of their
    variance over public faces. The server projects back and uses the recogniser under test: nothing is trained by
    gradients, and of all linear maps to so few channels this one loses least of the features. BottleNet trains both
    maps with the network, for size, and does not speak of privacy; SIMBA has no such row.

    A value outside the middle 99.8 % of its channel is clipped. Gradients pass the rounding unchanged.
    """

    client_side: ClassVar[bool] = True
    adds_noise: ClassVar[bool] = False

    channels: int = 8  #: channels that are stored
    bits: int = 8  #: bits of a stored value, 1 to 16

    def __post_init__(self) -> None:
        if self.channels < 1 or not 1 <= self.bits <= 16:
            raise ValueError("channels must be at least 1, and bits between 1 and 16")

    @property
    def value_bits(self) -> int:
        """As `bits`: levels have an equal distance, so that an index is enough."""
        return self.bits

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Finds the directions and the range of each.

        Raises:
            ValueError: the features have fewer channels.
        """
        batches = [batch.cpu() for batch in feature_batches(recognizer, public, _FACES)]
        width = batches[0].shape[1]
        if self.channels > width:
            raise ValueError(f"bottleneck: channels = {self.channels}, but the features have {width}")
        count = sum(batch.numel() // width for batch in batches)
        mean = torch.stack([batch.double().sum((0, 2, 3)) for batch in batches]).sum(0) / count
        covariance = torch.zeros(width, width, dtype=torch.float64)
        for batch in batches:
            flat = batch.double().transpose(0, 1).flatten(1) - mean[:, None]
            covariance += flat @ flat.T / count
        values, vectors = torch.linalg.eigh(covariance)
        directions = vectors.flip(1)[:, : self.channels].T
        largest = directions.abs().argmax(1, keepdim=True)
        directions = (directions * directions.gather(1, largest).sign()).float()  # the sign of an eigenvector is free
        ends = []
        for batch in batches:
            flat = (directions @ (batch.transpose(0, 1).flatten(1) - mean.float()[:, None])).sort(1).values
            edge = int(_EDGE * flat.shape[1])
            ends.append(torch.stack([flat[:, edge], flat[:, -1 - edge]]))
        low, high = torch.stack(ends).mean(0)
        kept = float(values.flip(0)[: self.channels].sum() / values.sum())
        tensors = {"mean": mean.float(), "directions": directions.contiguous(), "low": low, "high": high}
        return State(tensors, {"variance_kept": round(kept, 5)})

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Mapping[str, Tensor]:
        """`mean` (C,), `directions` (channels, C), `low` and `high` (channels,), on the system's device."""
        if state is None:
            raise ValueError("bottleneck has no directions")
        device = next(recognizer.parameters()).device
        return {name: value.to(device) for name, value in state.tensors.items()}

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """The rounded projections, (B, channels, h, w)."""
        found = system.state
        centred = features - found["mean"][:, None, None]
        projected = torch.einsum("kc,bchw->bkhw", found["directions"], centred)
        low, high = found["low"][:, None, None], found["high"][:, None, None]
        step = ((high - low) / (2**self.bits - 1)).clamp_min(1e-12)
        inside = torch.minimum(torch.maximum(projected, low), high)
        rounded = low + ((inside - low) / step).round() * step
        stored: Tensor = rounded.detach() + (projected - projected.detach())
        return stored

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """The recogniser's Psi on what the projections tell of the features."""
        found = system.state
        lifted = torch.einsum("kc,bkhw->bchw", found["directions"], templates) + found["mean"][:, None, None]
        embeddings: Tensor = system.recognizer.embed(lifted)
        return embeddings
