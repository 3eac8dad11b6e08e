"""AdvFace's PGD: beside a plain loop, beside foolbox's PGD on the same decoder, and beside what the processor can do.

Each benchmark protects the same 32 features of the compact recogniser at 96x96, with the same untrained shadow,
in 10 steps. `extra_info.gflops` is arithmetic done a second, counted by torch's own counter: divided by the
convolution's it is the share of the machine's peak.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from bench.contracts import Rng, State, System
from bench.metrics.image import image_scores
from bench.recognizers.compact import Compact
from bench.settings import registry
from bench.synthesis import render, sample_person, sample_shot
from bench.toolkit.decoders import DecoderSpec, build_decoder, set_batch_statistics
from bench.toolkit.precision import autocast

BATCH, STEPS, EPSILON, SIZE = 32, 10, 0.2, (96, 96)
GROUP = f"AdvFace's PGD: {STEPS} steps on {BATCH} images"


@cache
def _scene() -> tuple[System, nn.Module, Tensor]:
    """The defended system, its shadow as a plain float32 network, and clean features."""
    network = Compact().load().eval().requires_grad_(False)
    people = [sample_person("benchmark", i) for i in range(BATCH)]
    images = render(people, [sample_shot(p, "benchmark", i) for i, p in enumerate(people)], SIZE)
    with torch.no_grad():
        features = network.extract(torch.as_tensor(images).permute(0, 3, 1, 2).float() / 255)
    torch.manual_seed(0)
    decoder = build_decoder(DecoderSpec("res", width=64), features.shape[1:], network.layout, SIZE)
    defense = registry.make(registry.find("defense", "advface", "benchmark"), {"iterations": STEPS}, "benchmark")
    state = State({**decoder.state_dict(), "feature_std": torch.tensor(1.0)})
    set_batch_statistics(decoder, True)
    return System(network, defense, defense.prepare(network, state)), decoder.eval().requires_grad_(False), features


def _ours() -> Tensor:
    system, _, features = _scene()
    return system.protect(features, Rng(0).images([str(i) for i in range(BATCH)]))


def _start() -> tuple[Tensor, Tensor]:
    """Shadow image and shadow feature, in float32."""
    system, decoder, features = _scene()
    with torch.no_grad():
        image = decoder(features)
        return image, system.recognizer.extract(image)


def _plain(weight_gradients: bool) -> Tensor:
    """What one would write down from the paper's Eq. 5 and 6, in float32 and the default memory format."""
    _, decoder, _ = _scene()
    decoder.requires_grad_(weight_gradients)
    image, start = _start()
    noise = torch.zeros_like(start)
    for _ in range(STEPS):
        point = (start + noise).requires_grad_()
        (decoder(point) - image).abs().sum().backward()
        assert point.grad is not None
        noise = (noise + EPSILON * point.grad.sign()).clamp(-EPSILON, EPSILON)
    decoder.requires_grad_(False).zero_grad(set_to_none=True)
    return start + noise


def _foolbox() -> Tensor:
    """foolbox's LinfPGD, without a random start, climbing the same loss."""
    foolbox = pytest.importorskip("foolbox", reason="foolbox is not installed: pip install foolbox")
    _, decoder, _ = _scene()
    image, start = _start()

    class Climb(foolbox.attacks.LinfPGD):
        def get_loss_fn(self, model: Any, labels: Any) -> Callable[[Any], Any]:
            return lambda point: (model(point) - labels).abs().sum()

    model = foolbox.PyTorchModel(decoder, bounds=(-1e6, 1e6), device="cpu")
    criterion = foolbox.criteria.Misclassification(image)
    climb = Climb(abs_stepsize=EPSILON, steps=STEPS, random_start=False)
    return climb.run(model, start, criterion, epsilon=EPSILON)


def _rate(benchmark: Any, work: Callable[[], Any]) -> None:
    """Notes the arithmetic that `work` stands for, over the time that was measured."""
    with FlopCounterMode(display=False) as counter:
        work()
    if benchmark.stats is not None:
        benchmark.extra_info["gflops"] = round(counter.get_total_flops() / benchmark.stats.stats.median / 1e9, 1)


@pytest.mark.benchmark(group=GROUP)
def test_as_the_defence_takes_them(benchmark: Any) -> None:
    benchmark.pedantic(_ours, rounds=3, warmup_rounds=1)
    _rate(benchmark, lambda: _plain(False))  # the same sums: the counter cannot follow torch.autograd.grad


@pytest.mark.benchmark(group=GROUP)
@pytest.mark.parametrize("weight_gradients", [False, True])
def test_a_plain_float32_loop(benchmark: Any, weight_gradients: bool) -> None:
    noise = benchmark.pedantic(_plain, (weight_gradients,), rounds=3, warmup_rounds=1)
    _agree(noise)


@pytest.mark.benchmark(group=GROUP)
def test_foolbox(benchmark: Any) -> None:
    noise = benchmark.pedantic(_foolbox, rounds=3, warmup_rounds=1)
    _agree(noise)


def _agree(plain: Tensor) -> None:
    """What a decoder makes of the templates has the SSIM that float32's have, within .01."""
    _, decoder, _ = _scene()
    image, _ = _start()
    with torch.no_grad():
        ours, theirs = (image_scores(image, decoder(t.contiguous()))["ssim"].mean() for t in (_ours(), plain))
    assert abs(ours - theirs) < 0.01, (ours, theirs)


@pytest.mark.benchmark(group="the processor's peak: a 3x3 convolution, 64 to 64 channels")
def test_convolution(benchmark: Any) -> None:
    shape = _scene()[2].shape[-2:]
    conv = nn.Conv2d(64, 64, 3, padding=1, bias=False).requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    x = torch.rand(BATCH, 64, *shape).contiguous(memory_format=torch.channels_last)
    with autocast(torch.device("cpu")):
        low = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else torch.float32
    conv, x = conv.to(low), x.to(low)

    def work() -> None:
        for _ in range(10):
            conv(x)

    benchmark(work)
    _rate(benchmark, work)
