"""Snap: an attacker with black-box access to the client corrects noise of few distinct values like a code."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from bench.contracts import Defense, FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.errors import NotApplicable
from bench.toolkit.decoders import (
    DecoderAttack,
    Training,
    build_decoder,
    filled_decoder,
    stores_features,
    train_decoder,
)
from bench.toolkit.decoders.disturbed import TrainingNoise
from bench.toolkit.decoders.networks import Architecture
from bench.toolkit.image_search import SEARCHES, Posterior, Search, best_search
from bench.toolkit.noise_law import NoiseLaw, noise_law
from bench.toolkit.precision import as_decoder_input, autocast
from bench.toolkit.template_cache import TemplateCache

_BATCH = 16  #: images decoded in parallel
_SAMPLE = 64  #: own templates used to measure the noise before any training
_LOOKS = (0, 1, 3, 7, 15)  #: rounds in which the noise is measured again; a better guess shows it more clearly
_ROUNDS = 40
_OF_A_SEARCH = ("iterations", "learning_rate", "tried", "measured", "images")
Encode = Callable[[Tensor], Tensor]
_SEARCH = "search."  #: what a search needs, in the stored state beside the decoder


@dataclass(frozen=True, kw_only=True)
class Snap(DecoderAttack):
    """Guesses the face, subtracts the noise value nearest to template - E(guess) from the template, decodes, and
    repeats.

    Sign gradient descent with a step as large as its bound (AdvFace's published settings) leaves noise of three values.
    Each entry of the clean feature is then one of three numbers, and a guess that is accurate to half a step determines
    which. The attack estimates the values, or the bound where only that exists, from template - E(guess) over the
    stolen batch; level `encoder` suffices. For each image it keeps the most consistent round: the one whose corrected
    template is closest to E of the image decoded from it.

    If the noise has no such structure, the result is the first guess and `snapped` in the record is 0. The first guess
    comes from a decoder trained with many kinds of noise and with residuals of a correction. Above `encoder`, training
    continues with own templates and their corrections.

    Level `whitebox` starts from the result of level `enrolment` and uses the client's gradients to search for the most
    likely image (`bench.toolkit.image_search`). The attacker enrols and rebuilds own faces to measure the errors of
    templates and of decoded images. SSIM on these faces also decides which search is run, if any: where gradients do
    not help, the attack returns its start. The victims' images are never used for this choice.
    """

    architecture: ClassVar[Architecture] = "res"

    augment: float = 1.0
    knowledge: Literal["encoder", "algorithm", "enrolment", "whitebox"] = "encoder"  # type: ignore[assignment]  # a level more
    rounds: int = _ROUNDS  #: number of rounds in which noise is estimated and subtracted
    iterations: int = 150  #: of a search, at level `whitebox`
    learning_rate: float = 0.1  #: of a search, in standard deviations of the decoder's error, wave by wave
    tried: int = 16  #: own faces on which searches are compared
    measured: int = 48  #: own faces on which errors are measured
    images: int | None = 32  #: attacked at level `whitebox`; None: all

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.augment <= 0:
            raise ValueError("rounds must be at least 1, and augment above 0")
        if self.iterations < 1 or self.learning_rate <= 0 or not 2 <= self.tried <= self.measured:
            raise ValueError("iterations must be at least 1, learning_rate above 0, tried between 2 and measured")

    @property
    def base(self) -> ReconstructionAttack | None:
        """The noise-tolerant decoder, shared by all levels; for `whitebox`, the decoder of level `enrolment`."""
        if self.level == Knowledge.WHITEBOX:
            return replace(self._without_search, knowledge="enrolment")
        below = super().base
        base = replace((below if isinstance(below, Snap) else self)._without_search, rounds=_ROUNDS)
        return None if base == self else base

    @property
    def _without_search(self) -> Snap:
        defaults: dict[str, Any] = {f.name: f.default for f in fields(Snap) if f.name in _OF_A_SEARCH}
        return replace(self, **defaults)

    def subset(self, defense: Defense) -> int | None:
        """A search takes long: `images` of them at level `whitebox`."""
        return self.images if self.level == Knowledge.WHITEBOX else None

    @property
    def coupled(self) -> bool:
        """Stolen templates are processed as one batch, because the noise is estimated from all of them."""
        return True

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the decoder twice: on noise of many kinds, then on that and on what a correction leaves."""

        def trained(start: Callable[[], nn.Module], training: Training, disturb: Encode, rng: Rng, label: str) -> State:
            fixed = not oracle.varies
            return train_decoder(
                start, oracle.encode, public, training, rng, oracle.device, label, fixed=fixed, disturb=disturb
            )

        shapes = (oracle.feature_shape, oracle.layout, oracle.image_size)
        noise = TrainingNoise(self.augment, rng.child("disturb").torch())
        first = trained(
            lambda: build_decoder(self._spec, *shapes),
            self.training,
            noise.grainy,
            rng,
            "training Snap's decoder on noise",
        )
        second = trained(
            lambda: filled_decoder(self._spec, first, *shapes),
            replace(self.training, learning_rate=self.training.learning_rate / 2),
            noise.mixed,
            rng.child("corrections"),
            "training Snap's decoder on corrections",
        )
        both = {name: first.info[name] + second.info[name] for name in ("steps", "train_s")}
        return State(second.tensors, {**second.info, **both})

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Continues with own templates and with their corrections by the current decoder, half of each."""
        if start is None or self.level == Knowledge.ENCODER:
            return start
        if self.level == Knowledge.WHITEBOX:
            return self._compare_searches(oracle, public, start)
        if stores_features(oracle.defense):
            return start
        decoder, _ = self.prepare(oracle, start)
        faces = self._own(public)
        enrolled = self._archive(oracle, faces, rng)
        law = _correct(oracle, decoder, enrolled(faces.batch(slice(0, _SAMPLE))), self.rounds).law
        if law.family == "none":
            state = super().adapt(oracle, public, rng, start)
            return None if state is None else State(state.tensors, {**state.info, "values": law.family})

        def corrected(images: Tensor, names: Sequence[str]) -> Tensor:
            return _correct(oracle, decoder, enrolled(images), self.rounds, law).templates

        archive = TemplateCache(corrected, oracle.device)

        def both(images: Tensor) -> Tensor:
            half = len(images) // 2
            parts = [some(part) for some, part in ((archive, images[:half]), (enrolled, images[half:])) if len(part)]
            return torch.cat(parts)

        archive.fill(faces, _BATCH, "correcting own templates")
        state = self._continued(oracle, faces, both, rng, start)
        return State(state.tensors, {**state.info, "values": law.family, "spacing": law.spacing})

    def _compare_searches(self, oracle: Oracle, public: FaceSet, start: State) -> State:
        """Measures on the last of the own faces what templates and start are worth, and chooses a search."""
        count = min(self.measured, len(public))
        truth = public.batch(slice(len(public) - count, len(public)), oracle.device)
        names = [f"own {place}" for place in range(count)]
        size = oracle.defense.protect_batch or _BATCH
        parts = [slice(first, first + size) for first in range(0, count, size)]
        stolen = torch.cat([oracle.enrol(truth[some], names[some]) for some in parts])
        decoder = super().prepare(oracle, start)
        first = _correct(oracle, decoder, stolen, self.rounds)
        encode = oracle.system.encode
        if encode(truth[:1]).shape[1:] != stolen.shape[1:]:
            raise NotApplicable("templates differ in shape from the client's features, whose gradients it needs")
        posterior = Posterior.measured(encode, truth, first.templates, first.images)
        some = slice(0, self.tried)
        near = first.images[some]

        def found(how: Search) -> Tensor:
            return posterior.search(encode, stolen[some], near, first.law, self._at_length(how))

        chosen, scores = best_search(truth[some], near, found)
        learned = {f"{_SEARCH}{name}": value.cpu() for name, value in vars(posterior).items()}
        learned[f"{_SEARCH}chosen"] = torch.tensor(chosen)
        return State({**start.tensors, **learned}, {**start.info, "ssim_on_own_faces": scores})

    def prepare(self, oracle: Oracle, state: State | None) -> Any:
        """(the trained decoder, what a search needs)."""
        tensors = {} if state is None else state.tensors
        decoder = {name: value for name, value in tensors.items() if not name.startswith(_SEARCH)}
        search = {name.removeprefix(_SEARCH): value for name, value in tensors.items() if name.startswith(_SEARCH)}
        return super().prepare(oracle, state and State(decoder, state.info)), search

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Alternates correction and decoding; then searches, at level `whitebox`."""
        decoder, search = state
        stolen = self._mean(leak)
        found = _correct(oracle, decoder, stolen, self.rounds)
        count = len(found.images)
        oracle.report(
            snapped=torch.full((count,), float(found.law.family != "none")),
            spacing=torch.full((count,), found.law.spacing),
            values=torch.full((count,), float(found.law.values)),
            told_apart=torch.full((count,), found.law.told),
            best_round=found.rounds,
            inconsistency=found.inconsistency,
        )
        if not search:
            return found.images
        chosen = int(search["chosen"])
        oracle.report(searched=torch.full((count,), float(chosen >= 0)))
        if chosen < 0:
            return found.images
        posterior = Posterior(**{name: value for name, value in search.items() if name != "chosen"}).to(oracle.device)
        how = self._at_length(SEARCHES[chosen])
        return posterior.search(oracle.system.encode, stolen, found.images, found.law, how)

    def _at_length(self, how: Search) -> Search:
        return replace(how, iterations=self.iterations, learning_rate=self.learning_rate)


@dataclass(frozen=True, eq=False)
class _Corrected:
    """The outcome of the correction, per image."""

    images: Tensor  #: (B, 3, H, W)
    templates: Tensor  #: (B, C, h, w), with the noise subtracted
    law: NoiseLaw
    rounds: Tensor  #: (B,), 0 for the first guess
    inconsistency: Tensor  #: (B,), rms of corrected template - E(image)


def _decoded(decoder: nn.Module, templates: Tensor) -> Tensor:
    with torch.no_grad(), autocast(templates.device):
        return torch.cat([decoder(as_decoder_input(some)) for some in torch.split(templates, _BATCH)])


def _seen(oracle: Oracle, images: Tensor) -> Tensor:
    return torch.cat([oracle.encode(some) for some in torch.split(images, _BATCH)])


def _rms(values: Tensor) -> Tensor:
    return values.flatten(1).square().mean(1).sqrt()


def _correct(
    oracle: Oracle, decoder: nn.Module, stolen: Tensor, rounds: int, known: NoiseLaw | None = None
) -> _Corrected:
    """Alternates subtracting the nearest noise value and decoding, and keeps each image's most consistent round.

    Args:
        known: the noise's distribution; estimated if missing.
    """
    images = _decoded(decoder, stolen)
    residue = stolen - _seen(oracle, images)
    law = known or NoiseLaw("none")
    best = _Corrected(images, stolen, law, torch.zeros(len(stolen), device=stolen.device), _rms(residue))
    lowest = torch.full_like(
        best.inconsistency, math.inf
    )  # the first guess explains no noise, so any correction is better
    for turn in range(rounds):
        if known is None and turn in _LOOKS:
            looked = noise_law(residue)
            law = law if looked.family == "none" else looked
        if law.family == "none":
            break
        cleaned = stolen - law.nearest(residue)
        images = _decoded(decoder, cleaned)
        features = _seen(oracle, images)
        departs, residue = _rms(cleaned - features), stolen - features
        better = (departs < lowest).reshape(-1, 1, 1, 1)
        lowest = torch.minimum(departs, lowest)
        best = _Corrected(
            torch.where(better, images, best.images),
            torch.where(better, cleaned, best.templates),
            law,
            torch.where(better.flatten(), turn + 1.0, best.rounds),
            lowest,
        )
    return best
