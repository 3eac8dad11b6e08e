"""Speed as ratios within one run: each thing beside a plain reference. `make benchmark` compares their medians."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from skimage.metrics import structural_similarity
from torch import Tensor, nn

from bench.contracts import Conv
from bench.decoders import DecoderSpec, build_decoder, set_batch_statistics
from bench.metrics.image import SSIM_WINDOW, image_scores
from bench.precision import autocast

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
