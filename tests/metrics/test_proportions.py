"""Intervals of shares and rates: what must be true of every one of them, and how often they hold the truth."""

import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from metrics.simulated import DESIGNS, METHODS, PERSONAL, VALUES, Coverage, acceptance, accuracy, rates

from bench.metrics.bootstrap import measure
from bench.metrics.proportions import _over_sharing, agresti_coull, effective_size, proportion, share_difference
from bench.metrics.rates import error_rates
from bench.metrics.verification import Impostors

decisions = st.lists(st.tuples(st.booleans(), st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=60)

#: Three standard errors of a coverage of .92 in so many runs.
RUNS = 300
TOLERANCE = 3 * np.sqrt(0.92 * 0.08 / RUNS)


def _parts(some: list[tuple[bool, int, int]]) -> tuple[np.ndarray, np.ndarray]:
    return np.array([right for right, _, _ in some]), np.array([[left, other] for _, left, other in some])


# ------------------------------------------------------------------------------------------------------ properties


@given(decisions, st.booleans(), st.booleans())
def test_an_interval_holds_its_share_and_is_never_empty(
    some: list[tuple[bool, int, int]], weighted: bool, kinds: bool
) -> None:
    correct, owners = _parts(some)
    weights = np.arange(1.0, len(correct) + 1) if weighted else None
    found = proportion(correct, owners, weights=weights, kinds=owners[:, 0] == owners[:, 1] if kinds else None)
    assert found.value is not None and found.low is not None and found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.high - found.low > 0.01
    assert found.value == pytest.approx(np.average(correct, weights=weights))


@given(decisions)
def test_failures_have_the_interval_of_successes_turned_over(some: list[tuple[bool, int, int]]) -> None:
    correct, owners = _parts(some)
    one, other = proportion(correct, owners), proportion(~correct, owners)
    assert other.low == pytest.approx(1 - (one.high or 0), abs=1e-9)
    assert other.high == pytest.approx(1 - (one.low or 0), abs=1e-9)


@given(st.integers(0, 40), st.integers(1, 40))
def test_more_people_mean_a_narrower_interval(right: int, wrong: int) -> None:
    correct = np.repeat([True, False], [right, wrong])
    few = proportion(correct, np.arange(len(correct)))
    many = proportion(np.tile(correct, 3), np.arange(3 * len(correct)))
    assert (many.high or 0) - (many.low or 0) < (few.high or 0) - (few.low or 0)


@given(decisions)
def test_more_images_of_the_same_people_do_not(some: list[tuple[bool, int, int]]) -> None:
    correct, owners = _parts(some)
    once, often = (proportion(np.tile(correct, times), np.tile(owners[:, 0], times)) for times in (1, 5))
    assert often.value == pytest.approx(once.value)
    if correct.all() or not correct.any():
        independent = agresti_coull(once.value or 0, 5 * len(correct))
        assert (often.high or 0) - (often.low or 0) > 1.2 * (independent[1] - independent[0]), "they may err together"
    elif len(set(owners[:, 0].tolist())) == len(owners):
        assert (often.high or 0) - (often.low or 0) >= ((once.high or 0) - (once.low or 0)) * 0.999


@given(decisions, st.integers(0, 2**32 - 1))
def test_a_difference_is_between_its_ends_and_turns_its_sign(some: list[tuple[bool, int, int]], seed: int) -> None:
    first, owners = _parts(some)
    second = np.random.default_rng(seed).random(len(first)) < 0.5
    mean, low, high = share_difference(first, second, owners)
    assert -1 <= low <= mean <= high <= 1
    assert low < high
    assert share_difference(second, first, owners) == pytest.approx((-mean, -high, -low))


@given(st.floats(0, 1), st.floats(1, 1e6))
def test_at_the_edges_it_is_no_narrower_than_the_rule_of_three(share: float, size: float) -> None:
    low, high = agresti_coull(share, size)
    assert 0 <= low <= share <= high <= 1
    assert low < high
    if size >= 10:
        assert agresti_coull(1, size)[0] <= 1 - 3 / size


scores = st.lists(st.floats(-1, 1, width=32), min_size=2, max_size=30)


@given(scores, st.integers(0, 2**32 - 1), st.floats(0, 2))
@settings(deadline=None)
def test_rates_lie_in_their_intervals(own: list[float], seed: int, shift: float) -> None:
    rng = np.random.default_rng(seed)
    people = np.repeat(np.arange(12), 2)
    impostors = Impostors(rng.normal(size=264), people)
    for found in error_rates(np.array(own) + shift, np.arange(len(own)), impostors, (0.1, 0.5, 1.0)).values():
        assert found.value is not None and found.low is not None and found.high is not None
        assert 0 <= found.low <= found.value <= found.high <= 1
        assert found.high - found.low > 0.001


# ----------------------------------------------------------------------------------------------------- known cases


def test_what_one_person_says_is_worth_one_decision() -> None:
    assert effective_size(np.ones(50), np.zeros(50)) < 2
    assert effective_size(np.arange(100) % 2, np.arange(100)) == pytest.approx(99)
    alike = np.repeat(np.arange(20) % 2, 5)  # each person's five decisions are the same
    assert effective_size(alike, np.repeat(np.arange(20), 5)) == pytest.approx(19, rel=0.15)


def test_pairs_that_share_a_person_count_as_less() -> None:
    wrong = np.array([0, 1, 2, 3, 20, 40, 60, 80])
    owners = np.stack([np.arange(0, 200, 2), np.arange(1, 200, 2)], 1)
    correct = ~np.isin(np.arange(100), wrong)
    apart = proportion(correct, owners)
    owners[wrong, 0] = 0  # all mistakes are with one person
    together = proportion(correct, owners)
    assert (together.high or 0) - (together.low or 0) > 1.5 * ((apart.high or 0) - (apart.low or 0))


def test_all_pairs_of_pairs_with_a_person_in_common_are_summed() -> None:
    rng = np.random.default_rng(0)
    owners, parts = rng.integers(0, 9, (40, 2)), rng.normal(size=40)
    sharing = (owners[:, None, :, None] == owners[None, :, None, :]).any((2, 3))
    assert _over_sharing(parts, *owners.T) == pytest.approx((sharing * np.outer(parts, parts)).sum())


def test_impostors_are_counted_for_both_of_their_people() -> None:
    rng = np.random.default_rng(1)
    vectors, people = rng.normal(size=(9, 4)), np.array(list("abcabcaad"))
    number = np.unique(people, return_inverse=True)[1]
    expected = np.zeros(4, dtype=int)
    for i in range(9):
        for j in range(i + 1, 9):
            if people[i] != people[j] and vectors[i] @ vectors[j] >= 0.2:
                expected[number[[i, j]]] += 1
    assert Impostors.among(vectors, people).accepted([0.2])[0].tolist() == expected.tolist()
    scores = rng.normal(size=(5, 5))
    hits = (scores >= 0.1) & ~np.eye(5, dtype=bool)
    assert Impostors.off_diagonal(scores).accepted([0.1])[0].tolist() == (hits.sum(0) + hits.sum(1)).tolist()


def test_few_discordant_pairs_are_no_difference() -> None:
    base = np.ones(80, dtype=bool)
    for lost, certain in ((0, False), (4, False), (6, True)):
        _, _, high = share_difference(np.arange(80) >= lost, base, np.arange(80))
        assert (high < 0) == certain, lost


def test_what_is_no_decision_is_refused() -> None:
    with pytest.raises(ValueError, match="true or false"):
        proportion(np.array([0.5, 1]), np.arange(2))
    with pytest.raises(ValueError, match="0 decisions"):
        proportion(np.array([]), np.array([]))
    with pytest.raises(ValueError, match="no interval for a share"):
        agresti_coull(1.2, 5)


@pytest.mark.parametrize(
    ("values", "owners", "said"), [([0.2, 0.4], "aa", "one person"), ([0.3, 0.3, 0.3], "abc", "the same")]
)
def test_a_mean_without_an_interval_says_so(values: list[float], owners: str, said: str) -> None:
    found = measure(np.array(values), np.array(list(owners)), seed=0)
    assert found.value == pytest.approx(np.mean(values))
    assert (found.low, found.high) == (None, None)
    assert said in found.note


# -------------------------------------------------------------------------------------------------------- coverage


def _holds(found: Coverage, smooth: bool) -> None:
    assert found.held >= 0.92 - TOLERANCE
    assert found.empty == 0
    if smooth:  # elsewhere there are too few values that the share can take
        assert found.held <= 0.975 + TOLERANCE


@pytest.mark.parametrize("name", ["default", "lfw", "lfw, all"])
@pytest.mark.parametrize("value", VALUES)
def test_accuracy_is_where_its_interval_says(name: str, value: float) -> None:
    runs = RUNS if name != "lfw, all" else RUNS // 2
    _holds(accuracy(DESIGNS[name], value, runs, {"now": METHODS["now"]})["now"], smooth=value in (0.5, 0.9))


@pytest.mark.parametrize("name", ["default", "lfw"])
@pytest.mark.parametrize("value", VALUES)
def test_acceptance_is_where_its_interval_says(name: str, value: float) -> None:
    _holds(acceptance(DESIGNS[name], value, RUNS)["now"], smooth=value == 0.5)


@pytest.mark.parametrize("separation", [2.6, 4.7, 12.0])
def test_error_rates_are_where_their_intervals_say(separation: float) -> None:
    for found in rates(separation, RUNS // 2, people=40).values():
        _holds(found, smooth=False)


def test_the_percentiles_of_the_bootstrap_would_fail() -> None:
    """The simulation can tell: what was printed before does not pass it."""
    found = accuracy(DESIGNS["lfw"], 0.99, RUNS, {"before": METHODS["percentile (before)"]}, PERSONAL)["before"]
    assert found.held < 0.75
    assert found.empty > 0.2


def test_an_interval_takes_less_time_than_resampling() -> None:
    design, rng = DESIGNS["lfw, all"], np.random.default_rng(0)
    correct = rng.random(len(design.fold)) < 0.97

    def best(work: object) -> float:
        took = []
        for _ in range(5):
            start = time.perf_counter()
            work()  # type: ignore[operator]
            took.append(time.perf_counter() - start)
        return min(took)

    ours = best(lambda: proportion(correct, design.owners, kinds=design.genuine))
    assert ours < best(lambda: measure(correct.astype(float), design.owners, seed=0))
