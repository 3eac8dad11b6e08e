"""AdvFace, online mode (Wang et al., CVPR 2023, section 4): adversarial features against a shadow decoder."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.decoders import DecoderSpec, Training, build_decoder, restore_decoder, set_batch_statistics, train_decoder
from bench.features import feature_scale
from bench.precision import autocast


@dataclass(frozen=True)
class _Shadow:
    """The fitted state, ready for use: the decoder S, and what a unit of noise is worth."""

    decoder: nn.Module
    unit: float


@dataclass(frozen=True, kw_only=True)
class AdvFace(Defense):
    """Stores E(S(z)) + noise, the noise climbing the shadow decoder's reconstruction loss by PGD with sign.

    The paper bounds each step (Eq. 6) where its problem statement bounds the total (Eq. 2). They are different
    defences; `bound` says which. `bn` says whether the shadow normalises with the statistics of the batch being
    protected (section 4.2, last paragraph), which makes a template depend on its batch mates, or with its own.
    With alpha = epsilon and a total bound, every element of the noise is -epsilon, 0 or +epsilon.
    """

    shadow: Literal["trans", "res", "unet"] = "res"
    epsilon: float = 0.2  #: largest change of an element, in all (total) or per step (step)
    alpha: float = 0.2  #: step length
    iterations: int = 40
    bound: Literal["total", "step"] = "total"
    bn: Literal["batch", "frozen"] = "batch"
    batch: int = 50  #: images protected together where bn = "batch"
    units: Literal["absolute", "std"] = "absolute"  #: std: epsilon and alpha count the features' standard deviations
    width: int = 64
    training: Training = Training()

    def __post_init__(self) -> None:
        if self.epsilon < 0 or self.alpha < 0 or self.iterations < 0 or self.batch < 1:
            raise ValueError("epsilon, alpha and iterations must be at least 0, and batch at least 1")

    @property
    def protect_batch(self) -> int | None:
        """Batch statistics couple a template to its batch mates."""
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
        )
        std = feature_scale(recognizer, public)["std"]
        return State({**state.tensors, "feature_std": std}, {**state.info, "feature_std": float(std)})

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> _Shadow:
        """The shadow decoder with the normalisation that `bn` asks for."""
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
        shadow: _Shadow = system.state
        image, start = self._shadow(system, features)
        start = start.contiguous(memory_format=torch.channels_last)
        alpha, epsilon = self.alpha * shadow.unit, self.epsilon * shadow.unit
        noise = torch.zeros_like(start)
        for _ in range(self.iterations):
            with torch.enable_grad(), autocast(system.device):
                point = (start + noise).requires_grad_()
                loss = (shadow.decoder(point) - image).abs().sum()
            (gradient,) = torch.autograd.grad(loss, point)
            if self.bound == "step":
                noise.add_(gradient.sign_(), alpha=min(alpha, epsilon))
            else:
                noise.add_(gradient.sign_(), alpha=alpha).clamp_(-epsilon, epsilon)
        return start + noise
