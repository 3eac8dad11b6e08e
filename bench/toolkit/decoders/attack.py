"""The common base of TransRec, ResRec and URec: a decoder trained to turn stored templates back into faces."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.contracts import Conv, Defense, FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.decoders.disturbed import TrainingNoise
from bench.toolkit.decoders.networks import Architecture, DecoderSpec, Norm, build_decoder, set_batch_statistics
from bench.toolkit.decoders.training import Training, train_decoder
from bench.toolkit.own_templates import own_templates
from bench.toolkit.precision import as_decoder_input, autocast
from bench.toolkit.template_cache import TemplateCache

_BATCH = 50  #: number of faces enrolled together, unless the defence specifies it
_ENROLLED = 500
_ADAPTATION = Training(epochs=7, learning_rate=1e-3, flip=False, schedule="settle")


def restore_decoder(
    spec: DecoderSpec,
    state: State,
    feature_shape: Sequence[int],
    layout: Sequence[Conv],
    image_size: tuple[int, int],
    device: torch.device,
) -> nn.Module:
    """The trained decoder in eval mode, with frozen weights: only gradients with respect to its input are needed."""
    placed: nn.Module = filled_decoder(spec, state, feature_shape, layout, image_size)
    placed = placed.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    return placed.eval().requires_grad_(False)


def filled_decoder(
    spec: DecoderSpec, state: State, feature_shape: Sequence[int], layout: Sequence[Conv], image_size: tuple[int, int]
) -> nn.Module:
    """A decoder with the weights of `state`, ready to be trained further."""
    with torch.random.fork_rng(devices=[]):
        decoder = build_decoder(spec, feature_shape, layout, image_size)
    decoder.load_state_dict(dict(state.tensors))
    return decoder


@dataclass(frozen=True, kw_only=True)
class DecoderAttack(ReconstructionAttack):
    """A decoder as the attacker (AdvFace paper, Eq. 1). Subclasses choose the architecture.

    `batch_statistics` and `average` only apply during the attack, so attacks that differ in them share the training.

    At level `encoder` the decoder is trained on (image, clean feature) pairs, as in the paper. At higher levels
    training continues from that decoder on (image, template) pairs, from a copy of the defence fitted on the attacker's
    faces (`algorithm`), or from the attacker's faces enrolled in the real system (`enrolment`).
    """

    architecture: ClassVar[Architecture]

    #: What the attacker knows; written NAME@LEVEL in bench.toml.
    knowledge: Literal["encoder", "algorithm", "enrolment"] = "encoder"
    norm: Norm = "batch"  #: normalisation inside the decoder
    batch_statistics: bool = False  #: normalise with the stolen batch's statistics instead of the training's
    average: int = 1  #: templates per image that are averaged before decoding, for randomised defences
    augment: float = 0.0  #: largest noise added to features in training, in their standard deviations; 0: none
    width: int = 64  #: channels at the features' resolution; `trans` uses the extractor's
    training: Training = Training()
    enrolled: int = _ENROLLED  #: number of own faces for the continued training above `encoder`
    adaptation: Training = _ADAPTATION  #: continued training above `encoder`; an epoch has the steps of 500 faces

    def __post_init__(self) -> None:
        if self.average < 1 or self.enrolled < 2 or self.augment < 0:
            raise ValueError("average must be at least 1, enrolled at least 2, and augment at least 0")

    @property
    def level(self) -> Knowledge:
        """By default the paper's attacker, who has a client device as a black box."""
        return Knowledge[self.knowledge.upper()]

    @property
    def base(self) -> ReconstructionAttack | None:
        """The decoder of clean features, shared by all levels and by attacks that normalise differently."""
        plain = replace(self, knowledge="encoder", batch_statistics=False, average=1)
        base = replace(plain, enrolled=_ENROLLED, adaptation=_ADAPTATION)
        return None if base == self else base

    def does_as_its_base(self, defense: Defense) -> bool:
        """True if it differs in averaging equal templates, or in having learned from templates that are features."""
        relevant = self if defense.randomized else replace(self, average=1)
        if self.level <= Knowledge.ENROLMENT and stores_features(defense):
            relevant = replace(relevant, knowledge="encoder", enrolled=_ENROLLED, adaptation=_ADAPTATION)
        return relevant == self.base

    @property
    def copies(self) -> int:
        """The number of templates that are averaged."""
        return self.average

    @property
    def coupled(self) -> bool:
        """Whether the statistics of the stolen batch are used."""
        return self.batch_statistics

    @property
    def asks_surrogate(self) -> bool:
        """True at level `algorithm` only: an attacker who can enrol uses the real system."""
        return self.level == Knowledge.ALGORITHM

    @property
    def _spec(self) -> DecoderSpec:
        return DecoderSpec(self.architecture, self.norm, self.width)

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the decoder on the attacker's own public faces, encoded by the client's extractor."""
        return train_decoder(
            lambda: build_decoder(self._spec, oracle.feature_shape, oracle.layout, oracle.image_size),
            _noisy(oracle.encode, self.augment, rng.child("augment")) if self.augment else oracle.encode,
            public,
            self.training,
            rng,
            oracle.device,
            f"training {type(self).__name__}",
            fixed=not self.augment and not oracle.varies,
        )

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Continues training on templates, if the server stores something other than what the client sends."""
        if start is None or self.level == Knowledge.ENCODER:
            return start
        if stores_features(oracle.defense):
            return start
        faces = self._own(public)
        if oracle.defense.randomized and oracle.defense.protect_batch is None:
            # Fresh randomness for every image at every step.
            enrol = own_templates(oracle, rng.child("protect"))
            encode: Callable[[Tensor], Tensor] = lambda images: enrol(images, [*map(str, range(len(images)))])  # noqa: E731
        else:
            encode = self._archive(oracle, faces, rng)
        return self._continued(oracle, faces, encode, rng, start)

    def _own(self, public: FaceSet) -> FaceSet:
        """The attacker's faces to enrol."""
        return public.subset(range(min(len(public), self.enrolled)))

    def _archive(self, oracle: Oracle, faces: FaceSet, rng: Rng) -> TemplateCache:
        """Enrols the attacker's faces and returns their templates, computed once per face."""
        archive = TemplateCache(own_templates(oracle, rng.child("protect")), oracle.device)
        archive.fill(faces, oracle.defense.protect_batch or _BATCH, f"enrolling for {type(self).__name__}")
        return archive

    def _continued(
        self, oracle: Oracle, faces: FaceSet, encode: Callable[[Tensor], Tensor], rng: Rng, start: State
    ) -> State:
        """Continues training to undo `encode`; few faces get as many steps as many."""
        epochs = math.ceil(self.adaptation.epochs * max(1.0, _ENROLLED / len(faces)))
        return train_decoder(
            lambda: filled_decoder(self._spec, start, oracle.feature_shape, oracle.layout, oracle.image_size),
            encode,
            faces,
            replace(self.adaptation, epochs=epochs),
            rng,
            oracle.device,
            f"adapting {type(self).__name__} to templates",
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
        """One forward pass on the mean of all copies."""
        with torch.no_grad(), autocast(oracle.device):
            images: Tensor = state(as_decoder_input(self._mean(leak)))
        return images

    def _mean(self, leak: Leak) -> Tensor:
        """The mean of all stolen copies of each template."""
        total, count = leak.values, 1
        for other in leak.others:
            total, count = total + other, count + 1
        return total / count


def stores_features(defense: Defense) -> bool:
    """Whether the server stores what the client sends."""
    return type(defense).protect is Defense.protect or defense.client_side


def _noisy(encode: Callable[[Tensor], Tensor], most: float, rng: Rng) -> Callable[[Tensor], Tensor]:
    """Features with many kinds of noise, so that the decoder depends less on single values."""
    noise = TrainingNoise(most, rng.torch())
    return lambda images: noise.grainy(encode(images))
