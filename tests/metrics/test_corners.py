"""Metrics where they could go wrong in silence: rounding, blocks, other weights, global state."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from skimage.metrics import peak_signal_noise_ratio

from bench.errors import DataError
from bench.metrics import verification
from bench.metrics.bootstrap import interval
from bench.metrics.image import image_scores
from bench.metrics.perceptual import Lpips
from bench.metrics.verification import accepted, all_impostors, best_threshold, fold_accuracy

CPU = torch.device("cpu")
BACKBONE = "weights/alexnet_features_torchvision.safetensors"


def test_psnr_is_scikit_images() -> None:
    one, other = torch.rand(2, 1, 3, 9, 8, generator=torch.Generator().manual_seed(0)).unbind()
    expected = peak_signal_noise_ratio(one[0].double().numpy(), other[0].double().numpy(), data_range=1.0)
    assert image_scores(one, other)["psnr_db"] == pytest.approx([expected])


@given(st.lists(st.tuples(st.integers(-6, 6), st.booleans()), min_size=1, max_size=12))
def test_the_threshold_is_the_one_that_trying_all_would_find(pairs: list[tuple[int, bool]]) -> None:
    similarity, genuine = np.array([s for s, _ in pairs], dtype=float), np.array([g for _, g in pairs])
    best = max(((similarity >= t) == genuine).sum() for t in np.arange(-7, 8) + 0.5)
    for monotone in (np.asarray, np.exp, np.arctan, lambda s: s**3):
        scores = monotone(similarity)
        assert ((scores >= best_threshold(scores, genuine)) == genuine).sum() == best


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("low", [0.5, -0.25, 1e9])
def test_neighbouring_floats_are_parted(dtype: type, low: float) -> None:
    first = dtype(low)
    similarity = np.array([first, np.nextafter(first, dtype(np.inf))], dtype=dtype)
    for genuine in (np.array([False, True]), np.array([False, False]), np.array([True, True])):
        found = fold_accuracy(similarity, genuine, np.zeros(2, dtype=np.int64), np.ones(2, dtype=bool))
        assert found.in_sample
        assert found.accuracy == 1
        assert accepted(similarity, np.zeros(2, dtype=np.int64), found.thresholds).tolist() == genuine.tolist()


def test_a_similarity_that_is_no_number_is_refused_unless_the_pair_is_out() -> None:
    similarity, genuine, fold = np.array([0.9, np.nan, 0.1]), np.array([True, True, False]), np.zeros(3, dtype=np.int64)
    with pytest.raises(ValueError, match="not finite"):
        fold_accuracy(similarity, genuine, fold, np.ones(3, dtype=bool))
    found = fold_accuracy(similarity, genuine, fold, np.array([True, False, True]))
    assert found.correct.tolist() == [True, False, True]


@pytest.mark.parametrize("block", [1, 3, 512])
def test_impostors_do_not_depend_on_the_block(monkeypatch: pytest.MonkeyPatch, block: int) -> None:
    monkeypatch.setattr(verification, "_BLOCK", block)
    rng = np.random.default_rng(0)
    vectors, people = rng.normal(size=(8, 4)), rng.integers(0, 3, 8)
    expected = [vectors[i] @ vectors[j] for i in range(8) for j in range(i + 1, 8) if people[i] != people[j]]
    assert all_impostors(vectors, people) == pytest.approx(expected)
    assert len(all_impostors(vectors[:0], people[:0])) == 0


def test_fewer_people_mean_a_wider_interval() -> None:
    values = np.random.default_rng(0).normal(0, 1, 300)
    widths = [np.diff(interval(values, np.arange(300) % people, seed=0)[1:])[0] for people in (300, 30, 5)]
    sorted_values = np.sort(values)  # people who are alike in themselves
    grouped = [np.diff(interval(sorted_values, np.arange(300) * p // 300, seed=0)[1:])[0] for p in (300, 30, 5)]
    assert grouped[0] < grouped[1] < grouped[2]
    assert max(widths) < grouped[2]


def test_lpips_refuses_an_alexnet_that_it_was_not_fitted_to(data: Path, tmp_path: Path) -> None:
    tensors = load_file(data / BACKBONE)
    save_file({name: value + 1e-3 for name, value in tensors.items()}, tmp_path / "other.safetensors")
    with pytest.raises(DataError, match="not torchvision's ImageNet weights"):
        Lpips.load(tmp_path / "other.safetensors", device=CPU)
    del tensors["features.3.bias"]
    save_file(tensors, tmp_path / "part.safetensors")
    with pytest.raises(DataError, match=r"missing: 3\.bias"):
        Lpips.load(tmp_path / "part.safetensors", device=CPU)


def test_lpips_is_the_same_from_either_format_and_leaves_the_generator_alone(data: Path, tmp_path: Path) -> None:
    torch.save(load_file(data / BACKBONE), tmp_path / "alexnet.pth")
    before = torch.random.get_rng_state()
    first, second = (Lpips.load(path, device=CPU) for path in (data / BACKBONE, tmp_path / "alexnet.pth"))
    assert torch.equal(before, torch.random.get_rng_state())
    assert isinstance(first, Lpips) and isinstance(second, Lpips)
    assert first.settings["weights_sha256"] == second.settings["weights_sha256"]
    one, other = torch.rand(2, 2, 3, 64, 64, generator=torch.Generator().manual_seed(0)).unbind()
    assert (first(one, other) == second(one, other)).all()
    with pytest.raises(ValueError, match="shapes differ"):
        first(one, other[:1])
