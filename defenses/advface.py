"""AdvFace (Wang et al., CVPR 2023, section 4): adversarial features against a shadow decoder."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.cuda_graphs import Repeated
from bench.toolkit.decoders import (
    DecoderSpec,
    Training,
    build_decoder,
    restore_decoder,
    set_batch_statistics,
    train_decoder,
)
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.feature_scale import feature_scale
from bench.toolkit.precision import autocast
from bench.toolkit.server_training import Labels, restore_server, teaching_faces, train_server
from bench.toolkit.template_cache import TemplateCache

# Settings that only offline mode uses: they change neither the shadow decoder nor a template.
_SERVER = frozenset({"mode", "labels", "server_images", "recipe"})
_AMPLITUDES = (0.4, 1.6)  #: range of the drawn amplitudes, relative to their mean


@dataclass(frozen=True)
class _Shadow:
    """The fitted state, ready for use: the decoder S and the unit of the noise."""

    decoder: nn.Module
    unit: float
    #: on a GPU, the last batch's, whose recorded step serves the next batch of the same size
    ascents: dict[tuple[object, ...], _Ascent] = field(default_factory=dict, repr=False, compare=False)

    def ascent(self, start: Tensor, image: Tensor, alpha: float, epsilon: float | None) -> _Ascent:
        """Signed PGD from these shadow features (B, C, h, w) away from these shadow images (B, 3, H, W)."""
        if start.device.type != "cuda":
            return _Ascent(self.decoder, start, image, alpha, epsilon)
        key = (tuple(start.shape), alpha, epsilon)
        if key not in self.ascents:
            for old in self.ascents.values():
                old.repeated.free()
            self.ascents.clear()
            self.ascents[key] = _Ascent(self.decoder, start.clone(), image.clone(), alpha, epsilon)
        found = self.ascents[key]
        found.begin(start, image)
        return found


class _Ascent:
    """Steps of signed PGD (Eq. 5 and 6), each from the point of the last."""

    def __init__(self, decoder: nn.Module, start: Tensor, image: Tensor, alpha: float, epsilon: float | None) -> None:
        """Without `epsilon` the sum of the steps has no bound."""
        self.noise, self.signs = torch.zeros_like(start), torch.zeros_like(start)
        self._decoder, self._start, self._image, self._alpha, self._epsilon = decoder, start, image, alpha, epsilon
        self.repeated = Repeated(self._step, start.device)

    def begin(self, start: Tensor, image: Tensor) -> None:
        """The same for another batch."""
        self._start.copy_(start)
        self._image.copy_(image)
        self.noise.zero_()

    def _step(self) -> None:
        with torch.enable_grad(), autocast(self._start.device):
            point = (self._start + self.noise).requires_grad_()
            loss = (self._decoder(point) - self._image).abs().sum()
        (gradient,) = torch.autograd.grad(loss, point)
        torch.sign(gradient, out=self.signs)
        self.noise.add_(self.signs, alpha=self._alpha)
        if self._epsilon is not None:
            self.noise.clamp_(-self._epsilon, self._epsilon)


@dataclass(frozen=True, kw_only=True)
class AdvFace(Defense):
    """Stores E(S(z)) + noise, where signed PGD raises the shadow decoder's reconstruction loss.

    The paper bounds each step (Eq. 6), but its problem statement bounds the total (Eq. 2). These are different
    defences; `bound` selects one. `bn` selects the statistics with which the shadow decoder normalises: those of the
    batch being protected (section 4.2, last paragraph), which makes a template depend on the other images in its batch,
    or its own.

    With alpha = epsilon and a total bound, every element of the noise is -epsilon, 0 or +epsilon. An attacker who has
    the client can correct such noise like a code. `amplitudes = "drawn"` is not part of the paper: the noise keeps its
    signs and each image's rms, but the size of every element is drawn between .4 and 1.6 of the mean. The largest
    elements then exceed epsilon. It was meant as a repair, but the attack `snap` opens it as well.

    `mode = "offline"` (section 4.4) stores the same templates and retrains the server's part on templates of public
    faces, starting from its current weights.
    """

    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"epsilon", "alpha", "iterations", "bound", "bn", "batch", "units", "amplitudes", *_SERVER}),
        "protect": _SERVER,
    }

    #: architecture of the shadow decoder, the defender's model of an attacker
    shadow: Literal["trans", "res", "unet"] = "res"
    epsilon: float = 0.2  #: largest change of an element, in total or per step (see `bound`)
    alpha: float = 0.2  #: step size
    iterations: int = 40  #: number of PGD steps
    bound: Literal["total", "step"] = "total"  #: whether epsilon bounds the whole noise (Eq. 2) or each step (Eq. 6)
    bn: Literal["batch", "frozen"] = "batch"  #: the shadow decoder's batch norm: batch or running statistics
    batch: int = 50  #: number of images protected together if bn = "batch"
    units: Literal["absolute", "std"] = "absolute"  #: std: epsilon and alpha in standard deviations of the features
    amplitudes: Literal["steps", "drawn"] = "steps"  #: steps: the sum of the steps; drawn: random sizes
    width: int = 64  #: channels of the shadow decoder at the features' resolution; `trans` uses the extractor's
    training: Training = Training()
    mode: Literal["online", "offline"] = "online"  #: offline: the server's part is trained again (section 4.4)
    labels: Labels = "auto"  #: offline: the training target of the server's part
    server_images: int | None = 500  #: offline: number of public faces to train on; each must be protected first
    #: offline: the training settings
    recipe: Recipe = Recipe(epochs=10, batch=32, schedule="cosine", warm_up=0, flip=False)

    def __post_init__(self) -> None:
        if self.epsilon < 0 or self.alpha < 0 or self.iterations < 0 or self.batch < 1:
            raise ValueError("epsilon, alpha and iterations must be at least 0, and batch at least 1")
        if self.server_images is not None and self.server_images < 4:
            raise ValueError("server_images must be at least 4")

    @property
    def randomized(self) -> bool:  # type: ignore[override]
        """Whether amplitudes are drawn."""
        return self.amplitudes == "drawn"

    @property
    def protect_batch(self) -> int | None:
        """Batch statistics make a template depend on the other images in its batch."""
        return self.batch if self.bn == "batch" else None

    def _decoder_parts(self, recognizer: SplitNetwork) -> tuple[DecoderSpec, Sequence[int]]:
        device = next(recognizer.parameters()).device
        with torch.no_grad():
            features = recognizer.extract(torch.zeros(1, 3, *recognizer.image_size, device=device))
        return DecoderSpec(self.shadow, "batch", self.width), features.shape[1:]

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Trains the shadow model on the defender's public faces (section 4.2, Eq. 3)."""
        spec, shape = self._decoder_parts(recognizer)
        state = train_decoder(
            lambda: build_decoder(spec, shape, recognizer.layout, recognizer.image_size),
            recognizer.extract,
            public,
            self.training,
            rng,
            next(recognizer.parameters()).device,
            f"training AdvFace's {self.shadow} shadow",
            fixed=True,
        )
        std = feature_scale(recognizer, public)["std"]
        return State({**state.tensors, "feature_std": std}, {**state.info, "feature_std": float(std)})

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> _Shadow:
        """The shadow decoder, with the normalisation that `bn` selects."""
        if state is None:
            raise ValueError("advface has no trained shadow")
        tensors = dict(state.tensors)
        std = float(tensors.pop("feature_std"))
        spec, shape = self._decoder_parts(recognizer)
        decoder = restore_decoder(
            spec,
            State(tensors),
            shape,
            recognizer.layout,
            recognizer.image_size,
            next(recognizer.parameters()).device,
        )
        set_batch_statistics(decoder, self.bn == "batch")
        return _Shadow(decoder, std if self.units == "std" else 1.0)

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State | None:
        """Offline: retrains Psi on adversarial features, with identities or clean embeddings as targets."""
        if self.mode == "online":
            return None
        faces, identities = teaching_faces(public, self.labels, self.server_images, rng.child("faces"))
        protecting = rng.child("protect")

        def enrol(images: Tensor, names: Sequence[str]) -> Tensor:
            with torch.no_grad():
                return self.protect(system, self.encode(system, images), protecting.images(names))

        archive = TemplateCache(enrol, system.device)
        archive.fill(faces, self.batch, "protecting public faces")
        server = copy.deepcopy(system.recognizer.server)
        what = "retraining the server on adversarial features"
        return train_server(
            server, archive, system.recognizer, faces, identities, self.recipe, rng.child("train"), what
        )

    def prepare_server(self, recognizer: SplitNetwork, state: State | None) -> nn.Module | None:
        """The retrained Psi."""
        if state is None:
            return None
        return restore_server(copy.deepcopy(recognizer.server), state, next(recognizer.parameters()).device)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Psi, or the retrained one in offline mode."""
        return super().embed(system, templates) if system.server is None else normalize(system.server(templates))

    def reference(self, system: System, features: Tensor) -> Tensor:
        """The shadow feature (Eq. 4)."""
        return self._shadow(system, features)[1]

    def _shadow(self, system: System, features: Tensor) -> tuple[Tensor, Tensor]:
        """Shadow image and shadow feature (Eq. 4)."""
        with torch.no_grad():
            with autocast(system.device):
                image = system.state.decoder(features.contiguous(memory_format=torch.channels_last))
            return image, system.recognizer.extract(image)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Adversarial features (Eq. 5 and 6)."""
        if not len(features):
            return features
        shadow: _Shadow = system.state
        image, start = self._shadow(system, features)
        start = start.contiguous(memory_format=torch.channels_last)
        alpha, epsilon = self.alpha * shadow.unit, self.epsilon * shadow.unit
        ascent = (
            shadow.ascent(start, image, min(alpha, epsilon), None)
            if self.bound == "step"
            else shadow.ascent(start, image, alpha, epsilon)
        )
        for _ in range(self.iterations):
            ascent.repeated()
        noise = ascent.noise
        if self.amplitudes == "drawn" and self.iterations:
            noise = _redrawn(noise, ascent.signs, rng)
        return start + noise


def _redrawn(noise: Tensor, last: Tensor, rng: ImageRng) -> Tensor:
    """Keeps the signs of the noise and each image's rms, and draws the amplitudes uniformly.

    Args:
        last: signs (B, C, h, w) for the elements whose steps cancelled.
    """
    signs = torch.where(noise == 0, last, noise.sign())
    drawn = signs * rng.uniform(noise, *_AMPLITUDES)
    rms, made = (values.flatten(1).square().mean(1).sqrt() for values in (noise, drawn))
    return drawn * (rms / made.clamp_min(1e-12)).reshape(-1, 1, 1, 1)
