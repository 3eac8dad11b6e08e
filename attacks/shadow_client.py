"""The server's operator: trains a client of its own that fits the server, and a decoder that undoes it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.decoders.attack import restore_decoder
from bench.toolkit.decoders.networks import DecoderSpec, build_decoder
from bench.toolkit.decoders.training import Training, train_decoder
from bench.toolkit.precision import as_decoder_input, autocast
from bench.toolkit.shadow_training import ShadowTraining, taken_templates, train_shadow

_BATCH = 50
_SEEN = 300  #: own faces on which the shadow's moments are measured


@dataclass(frozen=True, kw_only=True)
class ShadowClient(ReconstructionAttack):
    """Learns a client g such that the server recognises the attacker's public people in g(x), then inverts g.

    The loss is the cross-entropy of own people by their cosines with the server's embedding of g(x), as in the
    query-free attack of He, Zhang and Lee (ACSAC 2019). The server alone fixes g only up to what it ignores, so g must
    also reproduce what is known of the stolen templates without a pair: their mean and standard deviation at every
    place. g starts from the linear map of the mean face to the mean template, as in `unpaired`. A decoder is trained on
    (g(x), x), and applied to the stolen templates, after these were given the moments of g(x). Whatever system-wide
    secret the server undoes, g learns with it. Where no two public faces are known to show one person, each counts as a
    person.

    `shadow.match = 0` uses no moments, and is closest to the published attack. With `shuffled`, the server's network
    gets its input channels in a random order: the control. With `match = 0` it must fail; otherwise it shows what the
    moments say by themselves.

    Source: He et al., Model inversion attacks against collaborative inference (ACSAC 2019), section 5 (query-free). The
    moments and the decoder in place of their search are ours.
    """

    asks_server: ClassVar[bool] = True
    asks_stolen: ClassVar[bool] = True
    #: Without queries, He et al. reach an SSIM of .17 where an attack with queries reaches .69.
    required: ClassVar[float] = 0.05

    shuffled: bool = False  #: the control: the server's input channels in a random order
    width: int = 32  #: channels of the shadow client's hidden layers, and of the decoder
    stolen: int = 1000  #: number of stolen templates to learn from, at most
    shadow: ShadowTraining = field(default=ShadowTraining())
    training: Training = Training()  #: of the decoder

    def __post_init__(self) -> None:
        if self.width < 4 or self.stolen < 4:
            raise ValueError("width and stolen must be at least 4")

    @property
    def level(self) -> Knowledge:
        """The server's network, and the stolen templates; no client."""
        return Knowledge.SERVER

    @property
    def control(self) -> bool:
        """With shuffled channels."""
        return self.shuffled

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the shadow client, then the decoder.

        Raises:
            NotApplicable: the stolen templates are no feature maps.
        """
        taken = taken_templates(oracle, self.stolen)
        shape = tuple(taken.shape[1:])
        client, account = train_shadow(
            oracle, public, taken, self.width, self.shadow, self.shuffled, rng.child("shadow")
        )
        decoder = train_decoder(
            lambda: build_decoder(self._spec, shape, oracle.layout, oracle.image_size),
            client,
            public,
            self.training,
            rng.child("decoder"),
            oracle.device,
            "training ShadowClient's decoder",
            fixed=True,
        )
        moments = {"factor": torch.ones(shape[0], 1, 1), "offset": torch.zeros(shape)}
        if self.shadow.match:
            moments = _moments(client, public, taken)
        named = {f"moments.{name}": value for name, value in moments.items()}
        return State({**decoder.tensors, **named}, {**decoder.info, "shadow": account})

    @property
    def _spec(self) -> DecoderSpec:
        return DecoderSpec("res", "batch", self.width)

    def prepare(self, oracle: Oracle, state: State | None) -> tuple[nn.Module, Tensor, Tensor]:
        """The trained decoder, and what gives stolen templates the moments of the shadow's: (factor, offset)."""
        if state is None:
            raise ValueError("ShadowClient has no trained state")
        factor, offset = (state.tensors[name].to(oracle.device) for name in ("moments.factor", "moments.offset"))
        own = {name: value for name, value in state.tensors.items() if not name.startswith("moments.")}
        shape = tuple(offset.shape)
        decoder = restore_decoder(self._spec, State(own), shape, oracle.layout, oracle.image_size, oracle.device)
        return decoder, factor, offset

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """One forward pass; no query."""
        decoder, factor, offset = state
        with torch.no_grad(), autocast(oracle.device):
            images: Tensor = decoder(as_decoder_input(leak.values * factor + offset))
        return images


def _moments(client: nn.Module, public: FaceSet, stolen: Tensor) -> dict[str, Tensor]:
    """What the shadow client did not reach of the stolen templates' moments, as `factor` (C, 1, 1) and `offset`.

    factor * stolen + offset has the shadow's mean at every place, and its standard deviation in every channel.
    """
    parts = [public.batch(slice(i, i + _BATCH), stolen.device) for i in range(0, min(len(public), _SEEN), _BATCH)]
    with torch.no_grad():
        made = torch.cat([client(images) for images in parts])
    spread = [(values - values.mean(0)).square().mean((0, 2, 3)).sqrt() for values in (made, stolen)]
    factor = (spread[0] / spread[1].clamp_min(1e-6)).reshape(-1, 1, 1)
    offset = made.mean(0) - factor * stolen.mean(0)
    return {"factor": factor.cpu(), "offset": offset.cpu().contiguous()}
