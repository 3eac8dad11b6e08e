"""Balanced accuracy and calibration of inferred traits, against figures worked out by hand and by simulation."""

import numpy as np
import pytest

from bench.metrics.traits import Inferred, balanced_accuracy, calibration_error, mean_accuracy


def _answers(truth: list[int], probability: list[float], share: float = 0.5, people: int | None = None) -> Inferred:
    owners = np.array([f"p{i % (people or len(truth))}" for i in range(len(truth))], dtype=object)
    found = np.ones(len(truth), bool)
    return Inferred.decided(np.array(truth, bool), np.array(probability), owners, share=share, found=found)


def test_balanced_accuracy_is_the_mean_of_both_rates() -> None:
    answers = _answers([1, 1, 0, 0, 0, 0, 0, 0], [0.9, 0.1, 0.1, 0.1, 0.1, 0.1, 0.1, 0.9])
    found = balanced_accuracy(answers)
    assert found.value == pytest.approx((1 / 2 + 5 / 6) / 2)
    assert found.low is not None and found.high is not None and found.low < found.value < found.high


def test_always_the_commoner_answer_is_chance() -> None:
    found = balanced_accuracy(_answers([0] * 18 + [1] * 2, [0.1] * 20))
    assert found.value == pytest.approx(0.5) and found.low is not None and found.low < 0.5


def test_the_decision_is_relative_to_the_attackers_share() -> None:
    assert balanced_accuracy(_answers([1, 0], [0.3, 0.05], share=0.1)).value == 1
    assert balanced_accuracy(_answers([1, 0], [0.3, 0.05], share=0.5)).value == 0.5


def test_a_face_that_was_not_found_counts_as_wrong() -> None:
    owners = np.array(["a", "b", "c", "d"], dtype=object)
    truth = np.array([True, True, False, False])
    found = Inferred.decided(truth, truth * 1.0, owners, share=0.5, found=np.array([True, False, True, True]))
    assert balanced_accuracy(found).value == 0.75


def test_one_answer_alone_has_no_figure() -> None:
    found = balanced_accuracy(_answers([1, 1, 1], [0.9, 0.8, 0.7]))
    assert found.value is None and "the same for all" in found.note


def test_a_perfect_probe_has_an_interval() -> None:
    found = balanced_accuracy(_answers([0, 1] * 20, [0.0, 1.0] * 20))
    assert found.value == 1 and found.low is not None and 0.8 < found.low < 1


def test_calibration_error_by_hand() -> None:
    # Two bins: .25 where a half is true, .85 where all are.
    found = calibration_error(_answers([0, 1, 1, 1], [0.25, 0.25, 0.85, 0.85]), seed=0)
    assert found.value == pytest.approx((0.25 + 0.15) / 2)
    assert found.low is not None and found.high is not None and found.low <= found.value <= found.high


def test_a_calibrated_probe_has_a_small_error_and_an_overconfident_one_has_not() -> None:
    rng = np.random.default_rng(0)
    probability = rng.uniform(0, 1, 4000)
    truth = (rng.random(4000) < probability).astype(int).tolist()
    calm = calibration_error(_answers(truth, probability.tolist()), seed=0, resamples=200)
    bold = calibration_error(_answers(truth, np.round(probability).tolist()), seed=0, resamples=200)
    assert calm.value is not None and calm.value < 0.03
    assert bold.value == pytest.approx(0.25, abs=0.02)
    assert bold.low is not None and bold.low > 0.2


def test_the_mean_is_over_traits_that_have_a_figure() -> None:
    one = _answers([1, 0] * 10, [0.9, 0.1] * 10)
    other = _answers([1, 0, 1, 0] * 5, [0.9, 0.9, 0.1, 0.1] * 5)
    alike = _answers([1] * 20, [0.9] * 20)
    found = mean_accuracy([one, other, alike], seed=0)
    assert found.value == pytest.approx(0.75)
    assert found.low is not None and found.high is not None and 0.5 < found.low < 0.75 < found.high < 1
    assert mean_accuracy([], seed=0).value is None
