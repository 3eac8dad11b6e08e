"""Training a decoder beside its arithmetic alone: the rest is what the input pipeline and the optimiser cost."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

from bench.contracts import FaceSet, Rng
from bench.recognizers.compact import Compact
from bench.toolkit.block_dct import block_dct
from bench.toolkit.decoders import DecoderSpec, Training, build_decoder, train_decoder
from bench.toolkit.precision import autocast

CPU, FACES, BATCH, SIZE = torch.device("cpu"), 330, 16, (96, 96)
GROUP = f"decoder training: one epoch of {FACES} faces at 96x96"


def _faces() -> FaceSet:
    pixels = np.random.default_rng(0).integers(0, 256, (FACES, *SIZE, 3), dtype=np.uint8)
    names = tuple(map(str, range(FACES)))
    return FaceSet(pixels, np.arange(FACES), names, None, np.ones(FACES, dtype=bool))


@pytest.mark.benchmark(group=GROUP)
def test_training(benchmark: Any) -> None:
    network, faces = Compact().load().eval().requires_grad_(False), _faces()
    shape = network.extract(torch.zeros(1, 3, *SIZE)).shape[1:]

    def train() -> None:
        train_decoder(
            lambda: build_decoder(DecoderSpec("res", width=64), shape, network.layout, SIZE),
            network.extract, faces, Training(epochs=1, batch=BATCH), Rng(0), CPU, "training",
        )  # fmt: skip

    benchmark.pedantic(train, rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group=GROUP)
def test_forward_and_backward_alone(benchmark: Any) -> None:
    """As many steps, and the held-out images, with features that are there already."""
    network, faces = Compact().load().eval().requires_grad_(False), _faces()
    images = faces.batch(slice(0, BATCH))
    with torch.no_grad():
        features = network.extract(images).contiguous(memory_format=torch.channels_last)
    decoder = build_decoder(DecoderSpec("res", width=64), features.shape[1:], network.layout, SIZE)
    decoder = decoder.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    held_out = FACES // 10

    def steps() -> None:
        for _ in range(-(-(FACES - held_out) // BATCH)):
            with autocast(CPU):
                output = decoder(features)
            decoder.zero_grad(set_to_none=True)
            (output - images).abs().mean().backward()
        with torch.no_grad(), autocast(CPU):
            for _ in range(-(-held_out // BATCH)):
                decoder(features)

    benchmark.pedantic(steps, rounds=3, warmup_rounds=1)


@pytest.mark.benchmark(group="decoder training behind a frequency split: ten epochs of 96 faces at 96x96")
@pytest.mark.parametrize("fixed", [True, False], ids=["features made once", "features made at each step"])
def test_training_behind_a_frequency_split(benchmark: Any, fixed: bool) -> None:
    faces = _faces().subset(range(96))

    def split(images: torch.Tensor) -> torch.Tensor:
        return block_dct(images, channels=range(30, 192))

    shape = split(torch.zeros(1, 3, *SIZE)).shape[1:]

    def train() -> None:
        train_decoder(
            lambda: build_decoder(DecoderSpec("res", width=32), shape, (), SIZE),
            split, faces, Training(epochs=10, batch=8), Rng(0), CPU, "training", fixed=fixed,
        )  # fmt: skip

    benchmark.pedantic(train, rounds=2, warmup_rounds=1)
