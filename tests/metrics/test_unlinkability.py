"""Unlinkability: a case worked by hand, limits, properties, and how often null and interval are right."""

import re
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from metrics.simulated_linkage import coverage, limits, normal_scores, simulated, with_sum, with_trapezoid
from support import ROOT

from bench.metrics.bootstrap import resample_weights
from bench.metrics.unlinkability import (
    LinkageScores,
    Unlinkability,
    _Trial,
    bins_for,
    d_sys,
    maximal_linkability,
    unlinkability,
)
from bench.metrics.verification import CrossImpostors, Impostors

PAGE = ROOT / "docs/unlinkability.md"

#: Bins with some mated scores in one of them, and some non-mated ones.
histograms = st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=8).filter(
    lambda bins: any(own for own, _ in bins) and any(other for _, other in bins)
)


def _quick(linkage: LinkageScores, seed: int = 0, omega: float = 1.0) -> Unlinkability:
    return unlinkability(linkage, seed=seed, omega=omega, permutations=99, resamples=100, fmrs=(0.01,))


def _matrix(seed: int, people: int, levels: int, mated: float = 0.0) -> LinkageScores:
    """Whole-numbered scores with ties."""
    rng, who = np.random.default_rng(seed), np.arange(people)
    return LinkageScores(np.rint(levels * normal_scores(rng, who, who, mated).scores), who, who)


# ------------------------------------------------------------------------------------------------------------ values


def test_a_case_worked_by_hand() -> None:
    # Three people, scores 0, 1 and 2. Mated: 1, 2, 2. Non-mated: 0, 0, 0, 1, 1, 2. There are two bins for three mated
    # scores, but three values; the masses of the values are 1/4, 1/3 and 5/12, with middles 1/8, 5/12 and 19/24. So the
    # bins are {0, 1} and {2}: P_m = 1/3, 2/3 and P_nm = 5/6, 1/6.
    scores = np.array([[1, 0, 1], [0, 2, 0], [2, 1, 2]])
    found = _quick(LinkageScores(scores, np.array(["a", "b", "c"]), np.array(["a", "b", "c"])))
    assert bins_for(3) == found.bins == 2
    assert found.d_sys.value == pytest.approx(2 / 3 * (2 / 3 - 1 / 6) / (2 / 3 + 1 / 6))
    assert found.maximal_linkability.value == pytest.approx(np.log2(5 / 6 + 2 / 3))
    assert found.auc.value == pytest.approx(((3 + 1) + 2 * (5 + 0.5)) / 18)
    assert (found.d_sys.n, found.non_mated, found.people) == (3, 6, 3)


def test_prior_odds_as_worked_by_hand() -> None:
    # Bin 1: .25 * 3 = .75 against .5; bin 2: .75 * 3 = 2.25 against .5.
    expected = 0.25 * (0.75 - 0.5) / 1.25 + 0.75 * (2.25 - 0.5) / 2.75
    assert d_sys(np.array([1, 3]), np.array([4, 4]), 3.0) == pytest.approx(expected)


def test_columns_are_found_by_their_people_and_not_by_their_place() -> None:
    linkage = normal_scores(np.random.default_rng(0), np.arange(20), np.arange(20).repeat(2), 1.0)
    order = np.random.default_rng(1).permutation(40)
    moved = LinkageScores(linkage.scores[:, order], linkage.rows, linkage.columns[order])
    before, after = _quick(linkage), _quick(moved)
    assert before.d_sys == after.d_sys and before.rates == after.rates
    assert np.array_equal(linkage.mated[:, order], moved.mated)


def test_scores_that_do_not_overlap_are_linked_completely() -> None:
    for levels in (1, 1000):  # discrete and continuous
        found = _quick(_matrix(0, 40, levels, mated=100))
        assert [found.d_sys.value, found.maximal_linkability.value, found.auc.value] == pytest.approx([1, 1, 1])
        assert found.d_sys_null.exceeded and found.d_sys_null.p_value == pytest.approx(0.01)
        assert found.rates["eer"].value == 0 and found.rates["tmr_at_fmr_0.01"].value == 1
        for measure in (found.d_sys, found.maximal_linkability, found.auc):
            assert measure.low is not None and 0.85 < measure.low < 0.92 and measure.high == pytest.approx(1), (
                "as the rule of three"
            )


def test_with_three_people_nothing_can_be_shown() -> None:
    # One shuffle in six restores the order, so that a value of 1 is no surprise.
    found = _quick(_matrix(0, 3, 1000, mated=100))
    assert found.d_sys.value == found.d_sys_null.upper == 1
    assert not found.d_sys_null.exceeded and found.d_sys.low == 0


def test_linked_by_low_scores_too() -> None:
    assert _quick(_matrix(0, 40, 1000, mated=-100)).d_sys.value == 1


def test_people_on_one_side_alone_give_non_mated_scores() -> None:
    linkage = normal_scores(np.random.default_rng(0), np.arange(30), np.arange(20, 60), 2.0)
    found = _quick(linkage)
    assert (found.people, found.d_sys.n, found.non_mated) == (10, 10, 1190)


# -------------------------------------------------------------------------------------------------------- properties


@given(histograms, st.floats(0.1, 10))
def test_indices_stay_in_their_range(bins: list[tuple[int, int]], omega: float) -> None:
    own, others = np.array(bins).T
    assert 0 <= d_sys(own, others, omega) <= 1 + 1e-12
    assert -1e-12 <= maximal_linkability(own, others) <= 1 + 1e-12
    assert d_sys(own, own, 1.0) == 0 and maximal_linkability(own, own) == pytest.approx(0)
    assert d_sys(own, others) <= 2 ** maximal_linkability(own, others) - 1 + 1e-12, "the total variation bounds D_sys"


@given(histograms)
def test_finer_bins_never_lower_an_index(bins: list[tuple[int, int]]) -> None:
    own, others = np.array(bins).T
    merged = [np.array([*side[2:], side[:2].sum()]) for side in (own, others)]
    assert d_sys(*merged) <= d_sys(own, others) + 1e-12
    assert maximal_linkability(*merged) <= maximal_linkability(own, others) + 1e-12


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 99), st.integers(1, 30), st.floats(0, 3))
def test_only_the_order_of_scores_matters(seed: int, levels: int, mated: float) -> None:
    linkage = _matrix(seed, 12, levels, mated)
    found = _quick(linkage)
    for monotone in (lambda s: s / 100 - 1, lambda s: s**3, lambda s: np.exp(s / 20)):
        assert _quick(LinkageScores(monotone(linkage.scores), linkage.rows, linkage.columns)) == found


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 99), st.integers(3, 12), st.integers(2, 30), st.floats(0, 3))
def test_intervals_hold_their_values(seed: int, people: int, levels: int, mated: float) -> None:
    linkage = _matrix(seed, people, levels, mated)
    found = _quick(linkage)
    for measure in (found.d_sys, found.maximal_linkability, found.auc):
        assert measure.value is not None
        if measure.low is None:
            assert measure.value == 0 and measure.note
        else:
            assert measure.high is not None and 0 <= measure.low <= measure.value <= measure.high <= 1
            assert measure.low < measure.high
    for null in (found.d_sys_null, found.maximal_linkability_null):
        assert 0 <= null.mean <= 1 + 1e-12 and 0 <= null.upper <= 1 + 1e-12 and 0 < null.p_value <= 1


def test_few_values_are_the_bins_and_many_are_not_split() -> None:
    two = _quick(_matrix(0, 60, 0.4))  # 0, 1, -1
    assert two.bins == 3 < bins_for(60)
    trial = _Trial(_matrix(0, 60, 20), 0, 100)
    assert len(trial.tied) > 100 and trial.counts.shape[1] == bins_for(60) == 8
    own, others = trial.counts
    masses = own / own.sum() / 2 + others / others.sum() / 2
    assert masses == pytest.approx(np.full(8, 1 / 8), abs=0.04)


def test_a_frequent_score_has_a_bin_of_its_own() -> None:
    linkage = normal_scores(np.random.default_rng(0), np.arange(30), np.arange(30), 0.0)
    scores = np.maximum(linkage.scores, 0)  # half of them are 0
    trial = _Trial(LinkageScores(scores, linkage.rows, linkage.columns), 0, 100)
    assert trial.counts.sum(1)[0] == 30 and (trial.counts.sum(0) > 0).all()
    assert trial.counts.sum(0)[0] == (scores == 0).sum()


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 99), st.integers(3, 30), st.integers(2, 30), st.floats(0, 3))
def test_a_value_is_in_the_bin_that_the_middle_of_its_mass_is_in(
    seed: int, people: int, levels: int, mated: float
) -> None:
    trial = _Trial(_matrix(seed, people, levels, mated), 0, 100)
    bins = bins_for(people)
    assume(len(trial.tied) > bins)
    own = np.bincount(trial.rank[trial.mated], minlength=len(trial.tied))
    mass = own / own.sum() / 2 + (trial.tied - own) / (trial.tied - own).sum() / 2
    middle = (np.cumsum(mass) - mass / 2) * bins
    assume(np.abs(middle - np.rint(middle)).min() > 1e-9)  # on an edge, rounding decides
    expected = [np.bincount(middle.astype(int), side, bins) for side in (own, trial.tied - own)]
    filled = np.bincount(middle.astype(int), minlength=bins) > 0
    assert np.array_equal(trial.counts, np.array(expected)[:, filled])


def test_resampled_sums_are_those_of_the_vertex_bootstrap() -> None:
    linkage = normal_scores(np.random.default_rng(0), np.arange(5).repeat(2), np.arange(6), 1.0)
    trial = _Trial(linkage, 7, 100)
    owners = np.stack([trial.left.ravel(), trial.right.ravel()], axis=1)
    weights, mated = resample_weights(owners, 7, 100), trial.mated.ravel()
    for side, sums in zip((mated, ~mated), trial._resampled(linkage.scores), strict=True):
        assert sums == pytest.approx(weights[:, side] @ linkage.scores.ravel()[side])


def test_impostors_are_counted_by_person_as_those_of_a_square_matrix() -> None:
    scores = np.random.default_rng(0).normal(size=(9, 9))
    ours = CrossImpostors.between(scores, np.arange(9), np.arange(9))
    square = Impostors.off_diagonal(scores)
    assert np.array_equal(ours.similarity, square.similarity)
    assert np.array_equal(ours.accepted([0.0, 1.0]), square.accepted([0.0, 1.0]))


# --------------------------------------------------------------------------------------------- by simulation


def test_the_null_is_exceeded_by_chance_in_one_case_of_twenty() -> None:
    # Within three binomial standard errors of .05 in 200 runs: .004 to .096.
    rng, who, exceeded = np.random.default_rng(0), np.arange(30), 0
    for run in range(200):
        trial = _Trial(normal_scores(rng, who, who, 0.0), run, 100)
        exceeded += trial.null(d_sys, trial.shuffled(run, 39)).exceeded
    assert abs(exceeded / 200 - 0.05) < 3 * np.sqrt(0.05 * 0.95 / 200)


def test_a_shuffle_keeps_the_columns_of_a_person_together() -> None:
    # Each person's ten columns are alike. If single columns were shuffled, the null would be far too narrow, and
    # templates that cannot be linked would be called linked in most runs.
    rng, who = np.random.default_rng(0), np.arange(12)
    exceeded = 0
    for run in range(40):
        scores = rng.normal(size=(12, 12)).repeat(10, axis=1) + 0.01 * rng.normal(size=(12, 120))
        exceeded += _quick(LinkageScores(scores, who, who.repeat(10)), run).d_sys_null.exceeded
    assert exceeded / 40 < 0.05 + 3 * np.sqrt(0.05 * 0.95 / 40)


@pytest.mark.parametrize("separation", [0.0, 1.0, 4.0])
def test_intervals_hold_the_truth(separation: float) -> None:
    # The page shows .90 and more; three standard errors of 50 runs below that are .77.
    found, exceeded = simulated("30 people, 30 mated", separation, 50)
    assert (coverage(found, limits(separation)) > 0.90 - 3 * np.sqrt(0.90 * 0.10 / 50)).all()
    assert exceeded > 0.9 or separation == 0
    assert 0.05 < (found[:, 0, 2] - found[:, 0, 1]).mean() < 0.3, "an interval of everything would hold it too"


# --------------------------------------------------------------------------- faults of D_sys as it is often computed


def test_few_scores_make_the_common_computation_report_a_link_where_there_is_none() -> None:
    rng, who = np.random.default_rng(0), np.arange(100)
    linkage = [normal_scores(rng, who, who, 0.0) for _ in range(20)]
    common = [with_trapezoid(each.scores[each.mated], each.scores[~each.mated], 100) for each in linkage]
    assert np.mean(common) > 0.18
    for each in linkage[:3]:
        found = _quick(each)
        assert found.d_sys.value is not None and found.d_sys.value < 0.13
        assert abs(found.d_sys.value - found.d_sys_null.mean) < 0.06, "what chance alone gives stands beside it"


def test_the_trapezoid_halves_a_perfect_link_and_the_sum_does_not() -> None:
    rng = np.random.default_rng(0)
    mated, others = 100 + rng.normal(size=100), rng.normal(size=9900)
    assert with_trapezoid(mated, others, 10) == pytest.approx(0.5, abs=0.01)
    assert with_sum(mated, others, 10) == 1


# ------------------------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("scores", "rows", "columns", "message"),
    [
        (np.zeros((2, 3)), [0, 1], [0, 1], r"shape \(2, 3\) for 2 rows and 2 columns"),
        (np.zeros(4), [0, 1], [0, 1], r"shape \(4,\)"),
        ([[1.0, np.nan], [0.0, 1.0]], [0, 1], [0, 1], "not finite"),
        ([[1.0, 0.0], [0.0, 1.0]], [0, 1], [1, 2], "two people or more with templates on both sides, here: 1"),
        (np.zeros((0, 0)), [], [], "here: 0"),
        (np.ones((2, 2)), [0, 1], [0, 1], "all linkage scores are equal"),
    ],
)
def test_degenerate_scores_are_refused(scores: object, rows: list[int], columns: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        LinkageScores(np.array(scores), np.array(rows), np.array(columns))


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"omega": 0.0}, "omega is 0"),
        ({"omega": np.inf}, "omega is inf"),
        ({"permutations": 18}, "18 permutations"),
        ({"resamples": 99}, "99 resamples"),
    ],
)
def test_impossible_settings_are_refused(changed: dict[str, float], message: str) -> None:
    settings = {"permutations": 19, "resamples": 100, **changed}
    with pytest.raises(ValueError, match=message):
        unlinkability(_matrix(0, 4, 10), seed=0, **settings)  # type: ignore[arg-type]


# ------------------------------------------------------------------------------------------------ the documentation


def test_the_page_shows_how_to_call_it(capsys: pytest.CaptureFixture[str]) -> None:
    code, shown = re.findall(r"```(?:python|text)\n(.*?)```", Path(PAGE).read_text(encoding="utf-8"), re.DOTALL)
    exec(code, {})
    assert capsys.readouterr().out == shown
