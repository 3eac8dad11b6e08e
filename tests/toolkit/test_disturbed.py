"""Noise for training has the strength, grain and share that it states, for features of any size and number format."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.toolkit.decoders.disturbed import TrainingNoise

SIZES = st.tuples(st.integers(1, 4), st.integers(2, 6), st.integers(1, 19), st.integers(1, 19))


def _noise(seed: int = 0, most: float = 1.0) -> TrainingNoise:
    return TrainingNoise(most, torch.Generator().manual_seed(seed))


def _alike(shape: tuple[int, ...], seed: int = 1) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def _grains(noise: Tensor) -> int:
    """The coarsest grain that explains the noise of one image (C, h, w)."""
    return max(g for g in (1, 2, 4, 8) if torch.equal(noise, _coarse(noise, g)))


def _coarse(noise: Tensor, grain: int) -> Tensor:
    some = noise[:, ::grain, ::grain].repeat_interleave(grain, 1).repeat_interleave(grain, 2)
    return some[:, : noise.shape[1], : noise.shape[2]]


@settings(deadline=None, max_examples=15)
@given(SIZES, st.integers(0, 3))
def test_any_size_and_seed(shape: tuple[int, int, int, int], seed: int) -> None:
    features = _alike(shape)
    for kind in (TrainingNoise.grainy, TrainingNoise.miscorrected, TrainingNoise.mixed):
        before = features.clone()
        noisy = kind(_noise(seed), features)
        assert noisy.shape == features.shape and torch.equal(features, before)
        assert noisy.is_contiguous(memory_format=torch.channels_last) and torch.isfinite(noisy).all()
        assert torch.equal(kind(_noise(seed), features), noisy)


def test_normal_noise_has_four_grains_and_strengths_up_to_the_most() -> None:
    flat = torch.zeros(64, 16, 16, 16)
    flat[0] = 1e3 * _alike((16, 16, 16))  # the deviation comes from one image, so that the others show the noise alone
    alone = _noise(most=0.5).grainy(flat)[1:]
    assert {_grains(one) for one in alone} == {1, 2, 4, 8}
    strengths = alone.flatten(1).std(1) / flat[..., ::4, ::4].std()
    assert 0.0 < strengths.min() < 0.1 and 0.4 < strengths.max() < 0.65
    assert abs(float(alone.mean())) < 0.1 * float(alone.std())


def test_a_correction_leaves_errors_of_one_step_in_patches() -> None:
    flat = torch.zeros(64, 16, 16, 24)
    flat[0] = 1e3 * _alike((16, 16, 24))
    alone = _noise().miscorrected(flat)[1:] / flat[..., ::4, ::4].std()
    for one in alone:
        steps = one[one != 0].abs()
        assert not len(steps) or (steps.min() > 0.199 and steps.max() < 0.451 and torch.allclose(steps, steps[0]))
    wrong = (alone != 0).float()
    shares = torch.nn.functional.avg_pool2d(wrong.mean(1, keepdim=True), 8).flatten()
    assert shares.min() < 0.02 and 0.35 < shares.max() < 0.5
    assert float((alone > 0).float().mean()) == pytest.approx(float((alone < 0).float().mean()), abs=0.005)


@pytest.mark.parametrize("kind", [TrainingNoise.grainy, TrainingNoise.miscorrected, TrainingNoise.mixed])
def test_bfloat16_shows_the_same_noise(kind: Callable[[TrainingNoise, Tensor], Tensor]) -> None:
    features = _alike((6, 8, 16, 16))
    exact, rounded = kind(_noise(), features), kind(_noise(), features.bfloat16())
    assert rounded.dtype == torch.bfloat16
    torch.testing.assert_close(rounded.float(), exact, atol=0.04, rtol=0.02)
