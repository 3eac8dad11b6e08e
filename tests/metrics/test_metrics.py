"""Metrics against what they are defined to be."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from bench.errors import DataError
from bench.metrics.bootstrap import interval, measure, paired_difference
from bench.metrics.image import image_scores
from bench.metrics.perceptual import Lpips, Unavailable
from bench.metrics.verification import (
    accepted,
    all_impostors,
    best_threshold,
    equal_error_rate,
    fold_accuracy,
    tar_at_far,
)

CPU = torch.device("cpu")
score = st.floats(-1, 1, allow_nan=False, width=32)


@given(st.integers(0, 10_000), st.floats(0.001, 0.5))
@settings(max_examples=25, deadline=None)
def test_ssim_psnr_and_mse_agree_with_their_definitions(seed: int, spread: float) -> None:
    rng = torch.Generator().manual_seed(seed)
    images = torch.rand(3, 3, 12, 10, generator=rng)
    other = (images + spread * torch.randn(images.shape, generator=rng)).clamp(0, 1)
    scores = image_scores(images, other)
    mse = (images.double() - other.double()).square().mean((1, 2, 3)).numpy()
    assert scores["mse"] == pytest.approx(mse, rel=1e-9)
    mae = (images.double() - other.double()).abs().mean((1, 2, 3)).numpy()
    assert scores["mae"] == pytest.approx(mae, rel=1e-9)
    assert (scores["mae"] <= np.sqrt(scores["mse"]) + 1e-12).all(), "Jensen"
    assert scores["psnr_db"] == pytest.approx(-10 * np.log10(mse), rel=1e-9)
    assert (scores["ssim"] < 1).all()
    assert scores["psnr_db"].mean() >= -10 * np.log10(scores["mse"].mean()) - 1e-9, "Jensen"


def test_identical_images_score_perfectly() -> None:
    images = torch.rand(2, 3, 16, 16)
    scores = image_scores(images, images)
    assert scores["ssim"] == pytest.approx([1, 1])
    assert scores["psnr_db"].tolist() == [100, 100]
    assert scores["mse"].tolist() == [0, 0]


@pytest.mark.parametrize(
    ("one", "other", "said"),
    [
        (torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 9), "expected two"),
        (torch.rand(1, 3, 6, 8), torch.rand(1, 3, 6, 8), "smaller than SSIM's"),
        (torch.full((1, 3, 8, 8), float("nan")), torch.rand(1, 3, 8, 8), "not finite"),
    ],
)
def test_what_cannot_be_scored_is_refused(one: torch.Tensor, other: torch.Tensor, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        image_scores(one, other)


@given(st.lists(st.tuples(score, st.booleans()), min_size=1, max_size=40))
def test_no_threshold_decides_more_pairs_rightly(pairs: list[tuple[float, bool]]) -> None:
    similarity = np.array([s for s, _ in pairs], dtype=np.float64)
    genuine = np.array([g for _, g in pairs])
    chosen = best_threshold(similarity, genuine)
    candidates = np.concatenate([similarity, np.unique(similarity) + 1e-9, [-2, 2]])
    best = max(((similarity >= t) == genuine).sum() for t in candidates)
    assert ((similarity >= chosen) == genuine).sum() >= best - (np.diff(np.unique(similarity)) < 1e-7).sum()


@given(arrays(np.int64, 60, elements=st.integers(-50, 50)), st.integers(0, 100))
def test_accuracy_does_not_depend_on_the_scores_scale(raw: np.ndarray, seed: int) -> None:
    rng = np.random.default_rng(seed)
    genuine, fold = rng.random(60) < 0.5, np.arange(60) // 20
    valid = np.ones(60, dtype=bool)
    # Powers of two keep a threshold that falls on a held-out score there: any other scale may round it past.
    first = fold_accuracy(raw / 64, genuine, fold, valid)
    second = fold_accuracy(raw / 256 + 0.25, genuine, fold, valid)
    assert first.accuracy == pytest.approx(second.accuracy)
    assert not first.in_sample
    assert (accepted(raw / 64, fold, first.thresholds) == genuine).tolist() == first.correct.tolist()


def test_thresholds_come_from_the_other_folds() -> None:
    similarity = np.array([0.9, 0.1, 0.4, 0.2, 0.8, 0.3])
    genuine = np.array([True, False, True, False, True, False])
    found = fold_accuracy(similarity, genuine, np.array([0, 0, 1, 1, 2, 2]), np.ones(6, dtype=bool))
    assert found.thresholds[0] == pytest.approx(0.35)
    assert found.thresholds[1] == pytest.approx(0.55)
    assert found.correct.tolist() == [True, True, False, True, True, True]


def test_a_pair_without_a_face_is_a_failure_and_not_dropped() -> None:
    similarity = np.array([0.9, 0.1] * 4)
    genuine = np.array([True, False] * 4)
    valid = np.ones(8, dtype=bool)
    valid[1] = False
    found = fold_accuracy(similarity, genuine, np.arange(8) // 4, valid)
    assert found.accuracy == pytest.approx(7 / 8)
    assert not found.correct[1]


@given(arrays(np.float64, 30, elements=score), arrays(np.float64, 50, elements=score))
def test_equal_error_rate_is_a_rate_and_keeps_its_order(genuine: np.ndarray, impostor: np.ndarray) -> None:
    rate = equal_error_rate(genuine, impostor)
    assert 0 <= rate <= 1
    assert equal_error_rate(genuine + 3, impostor) == 0
    assert equal_error_rate(genuine, genuine) == pytest.approx(0.5, abs=0.5)


def test_equal_error_rate_of_known_cases() -> None:
    assert equal_error_rate(np.array([2.0, 3, 4, 5]), np.array([0.0, 1, 2.5, -1])) == pytest.approx(0.25)
    rng = np.random.default_rng(0)
    assert equal_error_rate(rng.normal(2, 1, 20_000), rng.normal(0, 1, 20_000)) == pytest.approx(0.1587, abs=0.005)


def test_tar_at_far_counts_and_is_silent_where_too_little_stands_behind_it() -> None:
    impostor = np.linspace(0, 1, 1000, endpoint=False)
    assert tar_at_far(np.array([0.95, 0.5, 0.9905]), impostor, 0.1) == pytest.approx(2 / 3)
    assert tar_at_far(np.array([0.95, 0.5, 0.9905]), impostor, 0.01) == pytest.approx(1 / 3)
    assert tar_at_far(np.array([0.95]), impostor, 0.009) is None
    assert tar_at_far(np.ones(3), np.ones(100), 0.5) == 0.0


def test_all_impostors_are_all_pairs_of_different_people() -> None:
    embeddings = np.eye(4)
    assert len(all_impostors(embeddings, np.array(["a", "a", "b", "c"]))) == 5


def test_an_interval_is_over_people_not_images() -> None:
    rng = np.random.default_rng(0)
    means = rng.normal(0, 1, 20)
    one = interval(means, np.arange(20), seed=1)
    copies = interval(np.repeat(means, 50), np.repeat(np.arange(20), 50), seed=1)
    assert copies == pytest.approx(one), "fifty copies of each image tell nothing new"
    assert interval(np.full(9, 0.5), np.arange(9), seed=0) == (0.5, 0.5, 0.5)
    assert one == interval(means, np.arange(20), seed=1)
    assert one != interval(means, np.arange(20), seed=2)


def test_intervals_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(3)
    covered = 0
    for trial in range(200):
        people = rng.normal(0, 1, 60)
        values = np.repeat(people, 3) + rng.normal(0, 0.3, 180)
        _, low, high = interval(values, np.repeat(np.arange(60), 3), seed=trial, resamples=300)
        covered += low <= 0 <= high
    assert 0.89 <= covered / 200 <= 0.99


def test_pairs_weigh_the_product_of_their_people() -> None:
    people = np.array([["a", "a"], ["b", "b"], ["a", "b"]])
    mean, low, high = interval(np.array([1.0, 1.0, 0.0]), people, seed=0)
    assert mean == pytest.approx(2 / 3)
    assert low == pytest.approx(0.5 + 1 / 6) or low < mean
    assert high == 1.0


def test_differences_are_paired() -> None:
    rng = np.random.default_rng(1)
    base = rng.normal(0, 1, 100)
    mean, low, high = paired_difference(base + 0.1, base, np.arange(100), seed=0)
    assert (mean, low, high) == pytest.approx((0.1, 0.1, 0.1))


def test_what_has_no_interval_is_refused() -> None:
    with pytest.raises(ValueError, match="not finite"):
        measure(np.array([1.0, np.nan]), np.array(["a", "b"]), seed=0)
    with pytest.raises(ValueError, match="0 values"):
        measure(np.array([]), np.array([]), seed=0)


def test_lpips_is_unavailable_rather_than_zero(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    found = Lpips.load(None, device=CPU)
    assert isinstance(found, Unavailable)
    assert "metrics.lpips_backbone" in found.reason
    with pytest.raises(DataError, match="no such LPIPS backbone"):
        Lpips.load(tmp_path / "none.safetensors", device=CPU)


def test_lpips_with_the_real_backbone(data: Path) -> None:
    lpips = Lpips.load(data / "weights/alexnet_features_torchvision.safetensors", device=CPU)
    assert isinstance(lpips, Lpips)
    images = torch.rand(3, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    assert lpips(images, images) == pytest.approx([0, 0, 0], abs=1e-6)
    small, large = ((images + s * torch.randn_like(images)).clamp(0, 1) for s in (0.02, 0.3))
    assert (lpips(images, small) < lpips(images, large)).all()
    assert lpips.settings["backbone_sha256"].startswith("9f97fd313f4d")


def test_another_networks_backbone_is_refused(data: Path) -> None:
    with pytest.raises(DataError, match="another architecture"):
        Lpips.load(data / "weights/mobilefacenet_casia_112x96.safetensors", device=CPU)
