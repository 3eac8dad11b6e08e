"""Attacks on linear secrets and on scores, against analytic limits."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attacks.key_holder import KeyHolder
from attacks.known_pairs import KnownPairs
from attacks.login_scores import LoginScores
from attacks.moments import Moments
from bench.checks import assert_sound
from bench.contracts import InversionAttack, KeyedDefense, KeyedService, KeyOracle, NotApplicable, Rng
from bench.errors import KnowledgeError
from bench.toolkit.imitated_service import imitated_service
from defenses.biohash import BioHash
from defenses.matrix import Matrix

PEOPLE, WIDTH = 24, 32


def _recovered(attack: InversionAttack, defense: KeyedDefense, people: int = 600) -> Tensor:
    """Cosines (PEOPLE,) of recovered with true embeddings, all under one key."""
    embeddings = functional.normalize(torch.randn(PEOPLE, WIDTH, generator=Rng(1).torch()))
    key = defense.draw_key(Rng(2), WIDTH)
    stored = defense.transform(embeddings, key)
    service = imitated_service(defense, key, stored, WIDTH, Rng(3), people)
    oracle = KeyOracle(attack.knows, defense, WIDTH, lambda _: key, Rng(4), attack.level, service, attack.shown)
    return functional.cosine_similarity(attack.invert(oracle, stored, Rng(5)).float(), embeddings)


@pytest.mark.parametrize("pairs", [8, 20, 31, 32])
@pytest.mark.parametrize("solver", ["least_squares", "procrustes", "map"])
def test_pairs_open_a_rotation(solver: str, pairs: int) -> None:
    """m pairs give the part of the embedding in their span, so the cosine is sqrt(m / D); a rotation needs D - 1."""
    attack = KnownPairs(pairs=pairs, solver=solver)  # type: ignore[arg-type]
    found = float(_recovered(attack, Matrix()).mean())
    if solver == "procrustes":
        assert pairs == 31 or found == pytest.approx(pairs / WIDTH, abs=0.2)
        assert pairs < 32 or found > 0.999
    else:
        assert found == pytest.approx(math.sqrt(pairs / WIDTH), abs=0.07)


def test_pairs_open_a_general_matrix_only_when_complete() -> None:
    found = {m: float(_recovered(KnownPairs(pairs=m), Matrix(matrices="general")).mean()) for m in (16, 32)}
    assert found[16] < 0.7 < 0.99 < found[32]


def test_the_trace_form_needs_more_pairs() -> None:
    """The random triangle has (D + 2)(D + 1) / 2 numbers of its own, which pairs must cancel."""
    defense = Matrix(form="trace")
    attack = KnownPairs(pairs=34 * 35 // 2, solver="least_squares")
    assert float(_recovered(KnownPairs(pairs=WIDTH), defense).mean()) < 0.5
    assert float(_recovered(attack, defense, people=34 * 35 // 2).mean()) > 0.95


def test_pairs_under_other_keys_are_of_no_use() -> None:
    defense, attack = Matrix(keys="subject"), KnownPairs()
    embeddings = functional.normalize(torch.randn(PEOPLE, WIDTH, generator=Rng(1).torch()))
    keys = [defense.draw_key(Rng(n), WIDTH) for n in range(2)]
    stored = defense.transform(embeddings, keys[0])
    service = imitated_service(defense, keys[1], stored, WIDTH, Rng(3))
    oracle = KeyOracle("none", defense, WIDTH, lambda _: keys[0], Rng(4), attack.level, service)
    found = functional.cosine_similarity(attack.invert(oracle, stored, Rng(5)).float(), embeddings)
    assert abs(float(found.mean())) < 4 / math.sqrt(WIDTH * PEOPLE)
    assert oracle.queries["enrol_templates"] == WIDTH


@pytest.mark.parametrize(("bits", "low"), [(0, 0.999), (8, 0.99), (4, 0.93), (1, 0.75)])
def test_scores_give_the_embedding_by_their_precision(bits: int, low: float) -> None:
    found = float(_recovered(LoginScores(queries=64, score_bits=bits), Matrix()).mean())
    assert low < found
    baseline = float(_recovered(LoginScores(queries=64, score_bits=bits, affine=True), Matrix()).mean())
    assert found > baseline - 0.03


def test_a_threshold_shows_one_bit() -> None:
    attack = LoginScores(score_bits=1, threshold=0.25)
    shown = attack.shown(torch.tensor([-0.3, 0.2, 0.3, 0.9]))
    assert shown.tolist() == [-0.375, -0.375, 0.625, 0.625]
    low, high = attack.cells(shown)
    assert low.tolist() == [-math.inf, -math.inf, 0.25, 0.25] and high[0] == 0.25 and high[2] == math.inf
    shown = LoginScores(score_bits=4).shown(torch.linspace(-1, 1, 101))
    assert len(shown.unique()) == 16
    assert float((shown - torch.linspace(-1, 1, 101)).abs().max()) <= 1 / 16 + 1e-6


def test_a_key_holder_has_what_can_be_undone() -> None:
    assert float(_recovered(KeyHolder(key="leaked"), Matrix()).min()) > 0.999
    assert abs(float(_recovered(KeyHolder(), Matrix()).mean())) < 4 / math.sqrt(WIDTH * PEOPLE)
    with pytest.raises(NotApplicable, match="cannot be undone"):
        _recovered(KeyHolder(key="leaked"), BioHash(bits=16))


@pytest.mark.parametrize("attack", [KnownPairs(), LoginScores(), KeyHolder(), Moments(steps=5)])
def test_they_keep_the_contract(attack: InversionAttack) -> None:
    assert_sound(attack)


def _skewed(count: int, width: int, seed: int) -> Tensor:
    """Unit embeddings whose directions have different variances and lopsided laws, as those of a recogniser."""
    drawn = torch.empty(count, width).exponential_(generator=Rng(seed).torch()) - 0.8
    return functional.normalize(drawn * torch.linspace(2, 0.5, width))


def test_of_several_starts_the_one_counts_that_fits() -> None:
    """Steps keep the determinant, so one start with a single wrong sign can never arrive."""
    known, unknown = (rows - rows.mean(0) for rows in (_skewed(1500, 6, 1), _skewed(1500, 6, 2)))
    doubtful = torch.tensor([3.0, 3.0, -0.5, 3.0, 3.0, 3.0])
    turned = {n: Moments(steps=60, starts=n)._rotation(doubtful, known, unknown, Rng(0)) for n in (1, 8)}
    assert float(turned[1].det()) < 0 < float(turned[8].det())
    assert float(turned[8].diagonal().min()) > 0.8


@pytest.mark.parametrize("matrices", ["orthogonal", "general"])
def test_a_database_opens_a_matrix_without_a_pair(matrices: str) -> None:
    width, defense = 6, Matrix(matrices=matrices)  # type: ignore[arg-type]
    key = defense.draw_key(Rng(2), width)
    public, others, victims = _skewed(1500, width, 1), _skewed(1500, width, 2), _skewed(50, width, 3)
    service = KeyedService(
        public=public, others=lambda: defense.transform(others, key), enrol=lambda _: others, login=lambda _, f: f[:, 0]
    )
    found = {}
    for name, attack in {"all": Moments(steps=60), "start": Moments(steps=0)}.items():
        oracle = KeyOracle("none", defense, width, lambda _: key, Rng(4), attack.level, service)
        made = attack.invert(oracle, defense.transform(victims, key), Rng(5)).float()
        found[name] = float(functional.cosine_similarity(made, victims).mean())
        with pytest.raises(KnowledgeError, match="enrolment"):
            oracle.enrol(public)
    guess = float(functional.cosine_similarity(public.mean(0).expand_as(victims), victims).mean())
    assert found["all"] > 0.95 > 0.6 > guess
    assert found["all"] > found["start"]
    few = Moments(templates=20)
    if matrices == "general":
        with pytest.raises(NotApplicable, match="21 templates determine it"):
            few.invert(oracle, defense.transform(victims, key), Rng(5))
