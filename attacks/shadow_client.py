"""The server's operator: trains a client of its own that fits the server, and a decoder that undoes it."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.errors import NotApplicable
from bench.toolkit.decoders.attack import restore_decoder
from bench.toolkit.decoders.networks import DecoderSpec, build_decoder
from bench.toolkit.decoders.training import Training, train_decoder
from bench.toolkit.precision import as_decoder_input, autocast
from bench.toolkit.progress import track

_SCALE = 24.0  #: of the cosines before the cross-entropy
_BYTES = 2**29  #: of stolen templates to read; fewer of large ones
_PLACES = 16  #: a template with fewer places is no feature map


@dataclass(frozen=True)
class ShadowTraining:
    """How the shadow client is trained: with Adam, whose learning rate falls to zero."""

    steps: int = 600
    batch: int = 32  #: images per step
    learning_rate: float = 2e-3  #: the peak
    match: float = 1.0  #: weight of the stolen templates' moments beside the classification of people; 0: none

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or self.learning_rate <= 0 or self.match < 0:
            raise ValueError("steps must be at least 1, batch at least 2, learning_rate above 0, match at least 0")


@dataclass(frozen=True, kw_only=True)
class ShadowClient(ReconstructionAttack):
    """Learns a client g such that the server recognises the attacker's public people in g(x), then inverts g.

    The loss is the cross-entropy of own people by their cosines with the server's embedding of g(x), as in the
    query-free attack of He, Zhang and Lee (ACSAC 2019). The server alone fixes g only up to what it ignores, so g must
    also reproduce what is known of the stolen templates without a pair: their mean and standard deviation at every
    place. A decoder is trained on (g(x), x), and applied to the stolen templates. Whatever system-wide secret the
    server undoes, g learns with it. Where no two public faces are known to show one person, each is a person.

    With `shuffled`, the server's network gets its input channels in a random order: the control. What is then
    left is what the moments say.

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

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the shadow client, then the decoder.

        Raises:
            NotApplicable: the stolen templates are no feature maps.
        """
        shape = tuple(oracle.stolen(1).shape[1:])
        if len(shape) != 3 or shape[1] * shape[2] < _PLACES:
            raise NotApplicable(f"templates of shape {shape} are no feature maps that a client of convolutions makes")
        client, account = self._shadow(oracle, public, shape, rng.child("shadow"))
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
        return State(decoder.tensors, {**decoder.info, "shadow": account})

    @property
    def _spec(self) -> DecoderSpec:
        return DecoderSpec("res", "batch", self.width)

    def _shadow(
        self, oracle: Oracle, public: FaceSet, shape: tuple[int, ...], rng: Rng
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The shadow client, frozen, and its loss and accuracy on the last steps."""
        began, device, settings = time.perf_counter(), oracle.device, self.shadow
        size = int(np.prod(shape))
        taken = oracle.stolen(min(self.stolen, max(4, _BYTES // (4 * size))))
        mean, spread = taken.mean(0), taken.std(0)
        unit = taken.std().clamp_min(1e-6)
        order = torch.arange(shape[0], device=device)
        if self.shuffled:
            order = torch.from_numpy(rng.child("control").numpy().permutation(shape[0])).to(device)
        people, labels = np.unique(np.array(public.subjects or public.names, dtype=object), return_inverse=True)
        width = oracle.recognise(taken[:1]).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.child("weights").seed)
            client = _Client(shape, self.width).to(device)
            centres = nn.Parameter((torch.randn(len(people), width) / width**0.5).to(device))
        with torch.no_grad():
            client.scale.copy_(taken.std((0, 2, 3)).reshape(-1, 1, 1).clamp_min(1e-6))
            client.shift.copy_(taken.mean((0, 2, 3)).reshape(-1, 1, 1))
        optimiser = torch.optim.Adam([*client.parameters(), centres], lr=settings.learning_rate)
        turns, losses, right = rng.child("order").numpy(), [], []
        for step in track(range(settings.steps), "training a shadow client", settings.steps):
            chosen = turns.choice(len(public), min(settings.batch, len(public)), replace=False)
            images = public.batch(chosen, device)
            mirrored = torch.from_numpy(turns.random(len(chosen)) < 0.5).to(device)
            images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
            sent = client(images)
            cosines = oracle.recognise(sent[:, order]).float() @ functional.normalize(centres).T
            truth = torch.from_numpy(labels[chosen]).to(device)
            loss = functional.cross_entropy(_SCALE * cosines, truth)
            if settings.match:
                apart = (sent.mean(0) - mean).square().mean() + (sent.std(0) - spread).square().mean()
                loss = loss + settings.match * 10 * apart / unit.square()
            optimiser.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            for group in optimiser.param_groups:
                group["lr"] = settings.learning_rate * 0.5 * (1 + np.cos(np.pi * step / settings.steps))
            optimiser.step()
            losses.append(float(loss.detach()))
            right.append(float((cosines.argmax(1) == truth).float().mean()))
        last = max(1, settings.steps // 10)
        account = {
            "people": len(people),
            "stolen": len(taken),
            "loss": round(float(np.mean(losses[-last:])), 4),
            "accuracy": round(float(np.mean(right[-last:])), 4),
            "train_s": round(time.perf_counter() - began, 2),
        }
        return client.eval().requires_grad_(False), account

    def prepare(self, oracle: Oracle, state: State | None) -> nn.Module:
        """The trained decoder."""
        if state is None:
            raise ValueError("ShadowClient has no trained state")
        shape = tuple(oracle.stolen(1).shape[1:])
        return restore_decoder(self._spec, state, shape, oracle.layout, oracle.image_size, oracle.device)

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """One forward pass; no query."""
        with torch.no_grad(), autocast(oracle.device):
            images: Tensor = state(as_decoder_input(leak.values))
        return images


class _Client(nn.Module):
    """Images (B, 3, H, W) to maps of a given shape; starts at their mean and scale in each channel."""

    scale: Tensor
    shift: Tensor

    def __init__(self, shape: tuple[int, ...], width: int) -> None:
        super().__init__()
        self.places = (shape[1], shape[2])
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU())
        self.last = nn.Conv2d(width, shape[0], 3, 1, 1)
        self.register_buffer("scale", torch.ones(shape[0], 1, 1))
        self.register_buffer("shift", torch.zeros(shape[0], 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        reduced = functional.adaptive_avg_pool2d(self.first(images - 0.5), self.places)
        made: Tensor = self.last(reduced) * self.scale + self.shift
        return made
