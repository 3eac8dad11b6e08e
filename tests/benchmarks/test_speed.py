"""Speed as ratios within one run: each thing beside a plain reference. `make benchmark` compares their medians."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from bench import registry
from bench.contracts import Conv, Knowledge, Leak, Rng, State, System
from bench.decoders import DecoderSpec, build_decoder, set_batch_statistics
from bench.metrics.image import SSIM_WINDOW, image_scores
from bench.oracle import Oracle
from bench.precision import autocast
from bench.recognizers.compact import Compact
from bench.synthesis import render, sample_person, sample_shot

SHAPE, LAYOUT, SIZE = (128, 56, 48), (Conv(3, 64, 3, 2, 1), Conv(64, 64, 3, 1, 1, 64), Conv(64, 128, 1)), (112, 96)
CPU = torch.device("cpu")
BATCH = 16


def _decoder(frozen: bool) -> nn.Module:
    torch.manual_seed(0)
    decoder = build_decoder(DecoderSpec("res"), SHAPE, LAYOUT, SIZE).eval().requires_grad_(not frozen)
    set_batch_statistics(decoder, True)
    return decoder


@pytest.mark.benchmark(group="AdvFace: one PGD step, 16 images")
def test_pgd_step_as_the_defence_takes_it(benchmark: Any) -> None:
    decoder = _decoder(frozen=True).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    start = torch.rand(BATCH, *SHAPE).contiguous(memory_format=torch.channels_last)
    target = torch.rand(BATCH, 3, *SIZE)

    def step() -> Tensor:
        point = start.clone().requires_grad_()
        with autocast(CPU):
            loss = (decoder(point) - target).abs().sum()
        (gradient,) = torch.autograd.grad(loss, point)
        return gradient.sign_()

    benchmark(step)


@pytest.mark.benchmark(group="AdvFace: one PGD step, 16 images")
def test_pgd_step_plain_float32(benchmark: Any) -> None:
    decoder = _decoder(frozen=False)
    start, target = torch.rand(BATCH, *SHAPE), torch.rand(BATCH, 3, *SIZE)

    def step() -> Tensor:
        point = start.clone().requires_grad_()
        (decoder(point) - target).abs().sum().backward()
        assert point.grad is not None
        return point.grad.sign()

    benchmark(step)


@pytest.mark.benchmark(group="SSIM, PSNR and MSE of 64 pairs at 160x160")
def test_metrics_as_the_judge_takes_them(benchmark: Any) -> None:
    one, other = torch.rand(64, 3, 160, 160), torch.rand(64, 3, 160, 160)
    benchmark(image_scores, one, other)


@pytest.mark.benchmark(group="SSIM, PSNR and MSE of 64 pairs at 160x160")
def test_metrics_in_a_plain_scikit_image_loop(benchmark: Any) -> None:
    one, other = (np.random.default_rng(s).random((64, 160, 160, 3)) for s in (0, 1))

    def loop() -> list[float]:
        scores = []
        for a, b in zip(one, other, strict=True):
            mse = ((a - b) ** 2).mean()
            scores.append(structural_similarity(a, b, win_size=SSIM_WINDOW, data_range=1.0, channel_axis=-1))
            scores.append(-10 * np.log10(mse))
        return scores

    benchmark(loop)


# Cost an image of what is learned or optimised on the default system: each beside one pass of its recogniser.


def _compact(defense: str = "unprotected") -> System:
    network = Compact().build().eval().requires_grad_(False)
    plugin = registry.make(registry.find("defense", defense, "benchmark"), {}, "benchmark")
    return System(network, plugin)


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
def test_duetface_transform(benchmark: Any) -> None:
    system, images = _compact("duetface"), torch.rand(BATCH, 3, 96, 96)
    with torch.no_grad():
        benchmark(lambda: system.encode(images))


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
