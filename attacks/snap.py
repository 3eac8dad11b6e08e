"""Snap: an attacker with black-box access to the client corrects noise of few distinct values like a code."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from bench.contracts import Defense, FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.decoders import DecoderAttack, build_decoder, train_decoder
from bench.toolkit.decoders.disturbed import disturbing
from bench.toolkit.decoders.networks import Architecture
from bench.toolkit.noise_law import NoiseLaw, noise_law
from bench.toolkit.precision import as_decoder_input, autocast
from bench.toolkit.template_cache import TemplateCache

_BATCH = 16  #: images decoded in parallel
_SAMPLE = 64  #: own templates used to measure the noise before any training
_LOOKS = (0, 1, 3)  #: rounds in which the noise is measured again; a better guess shows it more clearly
_ROUNDS = 16


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
    """

    architecture: ClassVar[Architecture] = "res"

    augment: float = 1.0
    rounds: int = _ROUNDS  #: number of rounds in which noise is estimated and subtracted

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.rounds < 1 or self.augment <= 0:
            raise ValueError("rounds must be at least 1, and augment above 0")

    @property
    def base(self) -> ReconstructionAttack | None:
        """The noise-tolerant decoder, shared by all levels."""
        below = super().base
        base = replace(below if isinstance(below, Snap) else self, rounds=_ROUNDS)
        return None if base == self else base

    @property
    def coupled(self) -> bool:
        """Stolen templates are processed as one batch, because the noise is estimated from all of them."""
        return True

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the decoder on features that are perturbed anew at every step."""
        return train_decoder(
            lambda: build_decoder(self._spec, oracle.feature_shape, oracle.layout, oracle.image_size),
            oracle.encode,
            public,
            self.training,
            rng,
            oracle.device,
            "training Snap",
            fixed=not oracle.varies,
            disturb=disturbing(self.augment, rng.child("disturb").torch()),
        )

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Continues with own templates and with their corrections by the current decoder, half of each."""
        if start is None or self.level == Knowledge.ENCODER:
            return start
        if type(oracle.defense).protect is Defense.protect or oracle.defense.client_side:
            return start
        decoder = self.prepare(oracle, start)
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

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Alternates correction and decoding."""
        found = _correct(oracle, state, self._mean(leak), self.rounds)
        count = len(found.images)
        oracle.report(
            snapped=torch.full((count,), float(found.law.family != "none")),
            spacing=torch.full((count,), found.law.spacing),
            values=torch.full((count,), float(found.law.values)),
            told_apart=torch.full((count,), found.law.told),
            best_round=found.rounds,
            inconsistency=found.inconsistency,
        )
        return found.images


@dataclass(frozen=True, eq=False)
class _Corrected:
    """The outcome of the correction, per image."""

    images: Tensor  #: (B, 3, H, W)
    templates: Tensor  #: (B, C, h, w), the subtracted noise
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
