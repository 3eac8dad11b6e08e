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
_BATCH = 50
_SEEN = 300  #: own faces on which the shadow's moments are measured
_RIDGE = 0.01  #: penalty of the shadow client's linear start, relative to a pixel's variance over places
_BYTES = 2**29  #: of stolen templates to read; fewer of large ones
_PLACES = 16  #: a template with fewer places is no feature map


@dataclass(frozen=True)
class ShadowTraining:
    """How the shadow client is trained: with Adam, whose learning rate falls to zero."""

    steps: int = 600  #: of training the client
    batch: int = 32  #: images per step
    learning_rate: float = 2e-3  #: the peak
    match: float = 1.0  #: weight of the stolen templates' moments beside the classification; 0: not used

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or self.learning_rate <= 0 or self.match < 0:
            raise ValueError("steps must be at least 1, batch at least 2, learning_rate above 0, match at least 0")


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
        moments = {"factor": torch.ones(shape[0], 1, 1), "offset": torch.zeros(shape)}
        if self.shadow.match:
            moments = _moments(client, public, self._taken(oracle))
        named = {f"moments.{name}": value for name, value in moments.items()}
        return State({**decoder.tensors, **named}, {**decoder.info, "shadow": account})

    def _taken(self, oracle: Oracle) -> Tensor:
        return oracle.stolen(min(self.stolen, max(4, _BYTES // (4 * oracle.stolen(1).numel()))))

    @property
    def _spec(self) -> DecoderSpec:
        return DecoderSpec("res", "batch", self.width)

    def _shadow(
        self, oracle: Oracle, public: FaceSet, shape: tuple[int, ...], rng: Rng
    ) -> tuple[nn.Module, dict[str, Any]]:
        """The shadow client, frozen, and its loss and accuracy on the last steps."""
        began, device, settings = time.perf_counter(), oracle.device, self.shadow
        taken = self._taken(oracle)
        mean, spread = taken.mean(0), taken.std(0)
        unit = taken.std().clamp_min(1e-6)
        order = torch.arange(shape[0], device=device)
        if self.shuffled:
            order = torch.from_numpy(rng.child("control").numpy().permutation(shape[0])).to(device)
        people, labels = np.unique(np.array(public.subjects or public.names, dtype=object), return_inverse=True)
        width = oracle.recognise(taken[:1]).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.child("weights").seed)
            client = _Client(shape, oracle.image_size, self.width).to(device)
            centres = nn.Parameter((torch.randn(len(people), width) / width**0.5).to(device))
        with torch.no_grad():
            client.scale.copy_(taken.std((0, 2, 3)).reshape(-1, 1, 1).clamp_min(1e-6))
            parts = [public.batch(slice(i, i + _BATCH), device).sum(0) for i in range(0, len(public), _BATCH)]
            if settings.match:
                client.start(torch.stack(parts).sum(0) / len(public), mean)
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


class _Client(nn.Module):
    """Images (B, 3, H, W) to maps (B, C, h, w): a linear convolution, plus a network that starts at 0."""

    scale: Tensor

    def __init__(self, shape: tuple[int, ...], image_size: tuple[int, int], width: int) -> None:
        super().__init__()
        self.finer = max(1, round(image_size[0] / shape[1]))
        self.places = (self.finer * shape[1], self.finer * shape[2])
        inputs = 3 * self.finer**2
        self.linear = nn.Conv2d(inputs, shape[0], 3, 1, 1)
        last = nn.Conv2d(width, shape[0], 3, 1, 1)
        nn.init.zeros_(last.weight)
        self.rest = nn.Sequential(
            nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), last
        )
        self.register_buffer("scale", torch.ones(shape[0], 1, 1))

    def start(self, face: Tensor, template: Tensor) -> None:
        """Solves for the linear convolution that turns the mean face (3, H, W) into the mean template (C, h, w)."""
        rows = functional.unfold(self.pixels(face[None]), 3, padding=1)[0].T.double()
        wanted = template.flatten(1).T.double()
        centre, level = rows.mean(0), wanted.mean(0)
        rows, scale = rows - centre, rows.std(0).clamp_min(1e-6)
        rows = rows / scale
        gram = rows.T @ rows
        gram += _RIDGE * len(rows) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram, rows.T @ (wanted - level)) / scale[:, None]
        with torch.no_grad():
            self.linear.weight.copy_(weights.T.reshape(self.linear.weight.shape).float())
            self.linear.bias.copy_((level - centre @ weights).float())  # type: ignore[union-attr]

    def pixels(self, images: Tensor) -> Tensor:
        resized = functional.interpolate(images, self.places, mode="bilinear", antialias=True, align_corners=False)
        return functional.pixel_unshuffle(resized, self.finer)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.pixels(images)
        made: Tensor = self.linear(seen) + self.rest(seen - 0.5) * self.scale
        return made
