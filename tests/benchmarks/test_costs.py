"""What each defence, attack and training step costs: 16 images, beside one pass of the recogniser."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench.contracts import Knowledge, Leak, Oracle, Rng, SplitNetwork, State, System
from bench.recognizers.compact import Compact
from bench.settings import registry
from bench.synthesis import render, sample_person, sample_shot
from bench.toolkit.decoders import DecoderSpec, build_decoder
from bench.toolkit.precision import autocast

CPU = torch.device("cpu")
BATCH = 16

# Cost an image of what is learned or optimised on the default system: each beside one pass of its recogniser.


def _compact(defense: str = "unprotected") -> System:
    network = Compact().build().eval().requires_grad_(False)
    plugin = registry.make(registry.find("defense", defense, "benchmark"), {}, "benchmark")
    state = _shadow(network) if defense == "advface" else None
    return System(network, plugin, plugin.prepare(network, state))


def _shadow(network: SplitNetwork) -> State:
    """AdvFace's, as it is before training: it costs what a trained one does."""
    shape = network.extract(torch.zeros(1, 3, 96, 96)).shape[1:]
    decoder = build_decoder(DecoderSpec("res", width=64), shape, network.layout, (96, 96))
    return State({**decoder.state_dict(), "feature_std": torch.tensor(1.0)})


@pytest.mark.benchmark(group="16 images at 96x96 through the compact recogniser")
def test_recogniser_forward(benchmark: Any) -> None:
    system, images = _compact(), torch.rand(BATCH, 3, 96, 96)
    with torch.no_grad():
        benchmark(lambda: system.embed(system.encode(images)))


@pytest.mark.benchmark(group="16 images at 96x96 through the compact recogniser")
@pytest.mark.parametrize("steps", [1])
def test_gradient_inversion_step(benchmark: Any, steps: int) -> None:
    system = _compact()
    attack = registry.make(
        registry.find("attack", "gradient_inversion", "benchmark"), {"iterations": steps}, "benchmark"
    )
    stolen = system.encode(torch.rand(BATCH, 3, 96, 96))
    rng = Rng(0).images([str(i) for i in range(BATCH)])
    benchmark(lambda: attack.reconstruct(Oracle(Knowledge.WHITEBOX, system, Rng(0)), None, Leak(stolen), rng))


@pytest.mark.benchmark(group="16 images at 96x96 through the compact recogniser")
def test_gaussian_inversion_queries(benchmark: Any) -> None:
    system = _compact()
    settings = {"queries": BATCH + 1, "candidates": BATCH}
    attack = registry.make(registry.find("attack", "gaussian_inversion", "benchmark"), settings, "benchmark")
    stolen, state = system.embed(system.encode(torch.rand(1, 3, 96, 96))), State({"start": torch.rand(3, 96, 96)})
    rng = Rng(0).images(["one"])
    benchmark(lambda: attack.reconstruct(Oracle(Knowledge.ENROLMENT, system, Rng(0)), state, Leak(stolen), rng))


@pytest.mark.benchmark(group="16 images at 96x96 through the compact recogniser")
@pytest.mark.parametrize("defense", ["unprotected", "random_noise", "laplace", "duetface", "advface"])
def test_template_creation(benchmark: Any, defense: str) -> None:
    system, images = _compact(defense), torch.rand(BATCH, 3, 96, 96)
    rng = Rng(0).images([str(i) for i in range(BATCH)])
    with torch.no_grad():
        benchmark(lambda: system.protect(system.encode(images), rng))


@pytest.mark.benchmark(group="16 images at 96x96 through the compact recogniser")
@pytest.mark.parametrize("architecture", ["trans", "res", "unet"])
def test_decoder_training_step(benchmark: Any, architecture: Any) -> None:
    network = Compact().build().eval().requires_grad_(False)
    images = torch.rand(BATCH, 3, 96, 96)
    with torch.no_grad():
        features = network.extract(images).contiguous(memory_format=torch.channels_last)
    decoder = build_decoder(DecoderSpec(architecture, width=32), features.shape[1:], network.layout, (96, 96))
    decoder = decoder.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]

    def step() -> None:
        with autocast(CPU):
            output = decoder(features)
        (output - images).abs().mean().backward()

    benchmark(step)


@pytest.mark.benchmark(group="16 images at 96x96 through the compact recogniser")
def test_recogniser_training_step(benchmark: Any) -> None:
    network = Compact().build().train()
    network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    images = torch.rand(BATCH, 3, 96, 96).contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with autocast(CPU):
            loss = network.server(network.client(images)).square().mean()
        loss.backward()

    benchmark(step)


@pytest.mark.benchmark(group="16 synthetic faces at 112x112")
def test_rendering(benchmark: Any) -> None:
    people = [sample_person("benchmark", i) for i in range(BATCH)]
    shots = [sample_shot(person, "benchmark", i) for i, person in enumerate(people)]
    benchmark(render, people, shots, (112, 112))
