"""The judge's metrics beside plain loops over scikit-image and lpips, and beside insightface's protocol in numpy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from bench.metrics.image import SSIM_WINDOW, image_scores
from bench.metrics.verification import fold_accuracy

PAIRS = 100


@cache
def _images() -> tuple[torch.Tensor, torch.Tensor]:
    rng = np.random.default_rng(0)
    one = rng.random((PAIRS, 3, 160, 160), dtype=np.float32)
    return torch.from_numpy(one), torch.from_numpy(np.clip(one + 0.1 * rng.standard_normal(one.shape), 0, 1)).float()


@pytest.mark.benchmark(group=f"SSIM and PSNR of {PAIRS} pairs at 160x160")
def test_as_the_judge_takes_them(benchmark: Any) -> None:
    benchmark(image_scores, *_images())


@pytest.mark.benchmark(group=f"SSIM and PSNR of {PAIRS} pairs at 160x160")
def test_a_plain_scikit_image_loop(benchmark: Any) -> None:
    one, other = (images.permute(0, 2, 3, 1).double().numpy() for images in _images())

    def loop() -> NDArray[Any]:
        settings: dict[str, Any] = {"win_size": SSIM_WINDOW, "data_range": 1.0, "channel_axis": -1}
        found = [
            (structural_similarity(a, b, **settings), peak_signal_noise_ratio(a, b, data_range=1.0))
            for a, b in zip(one, other, strict=True)
        ]
        return np.array(found)

    loops = benchmark(loop)
    scores = image_scores(*_images())
    assert np.abs(loops - np.stack([scores["ssim"], scores["psnr_db"]], 1)).max() < 1e-6


@cache
def _verification() -> tuple[NDArray[Any], ...]:
    rng = np.random.default_rng(0)
    left, right = rng.standard_normal((2, 6000, 128))
    genuine = np.arange(6000) % 600 < 300
    right[genuine] += 1.5 * left[genuine]
    left, right = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in (left, right))
    return left, right, genuine, np.arange(6000) // 600


@pytest.mark.benchmark(group="verification of 6,000 pairs in ten folds")
def test_exact_thresholds(benchmark: Any) -> None:
    left, right, genuine, fold = _verification()
    benchmark(lambda: fold_accuracy((left * right).sum(1), genuine, fold, np.ones(len(fold), dtype=bool)))


@pytest.mark.benchmark(group="verification of 6,000 pairs in ten folds")
def test_insightface_protocol(benchmark: Any) -> None:
    """400 thresholds of the squared distance, 0 to 4 in steps of .01; a fold takes the first that is best elsewhere."""
    left, right, genuine, fold = _verification()
    thresholds = np.arange(0, 4, 0.01)

    def protocol() -> float:
        distance = np.square(left - right).sum(1)
        found = []
        for number in range(10):
            here = fold == number
            elsewhere = [((distance < t) == genuine)[~here].mean() for t in thresholds]
            found.append(((distance < thresholds[int(np.argmax(elsewhere))]) == genuine)[here].mean())
        return float(np.mean(found))

    accuracy = benchmark(protocol)
    exact = fold_accuracy((left * right).sum(1), genuine, fold, np.ones(len(fold), dtype=bool)).accuracy
    assert abs(accuracy - exact) < 0.005
