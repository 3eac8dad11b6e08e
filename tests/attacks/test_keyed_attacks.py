"""Attacks on keyed templates against analytic limits, on random unit embeddings."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attacks.attention_map import AttentionMap
from attacks.descent_inversion import DescentInversion
from attacks.exponent_one import ExponentOne
from attacks.key_inversion import KeyInversion
from attacks.shift_linkage import ShiftLinkage
from attacks.slerp_inversion import SlerpInversion
from bench.contracts import CrossmatchAttack, InversionAttack, KeyedDefense, KeyOracle, NotApplicable, Rng, Stolen
from bench.errors import KnowledgeError
from defenses.biohash import BioHash
from defenses.iom_grp import IomGrp
from defenses.polyprotect import PolyProtect
from defenses.randcnn import RandCNN
from defenses.slerpface import SlerpFace

PEOPLE = 24


def _recovered(attack: InversionAttack, defense: KeyedDefense, width: int) -> Tensor:
    """Cosines (PEOPLE,) of recovered with true embeddings, each under a key of its own."""
    embeddings = functional.normalize(torch.randn(PEOPLE, width, generator=Rng(1).torch()))
    keys = [defense.draw_key(Rng(2).child(n), width) for n in range(PEOPLE)]
    made = torch.cat([defense.transform(embeddings[n : n + 1], key) for n, key in enumerate(keys)])
    beside = [defense.auxiliary(embeddings[n : n + 1], key) for n, key in enumerate(keys)]

    def auxiliary(number: int) -> Tensor | None:
        found = beside[number]
        return None if found is None else found[0]

    oracle = KeyOracle(attack.knows, defense, width, keys.__getitem__, Rng(3), auxiliary=auxiliary)
    found = attack.invert(oracle, made, Rng(4))
    return functional.cosine_similarity(found, embeddings)


@pytest.mark.parametrize("bits", [64, 128, 256])
def test_biohash_with_its_key_gives_away_what_its_signs_hold(bits: int) -> None:
    """The closed form's cosine is sqrt(2 m / (pi D)), and nothing is gained beyond: every constraint holds there."""
    found = _recovered(KeyInversion(key="leaked"), BioHash(bits=bits), 256)
    assert float(found.mean()) == pytest.approx(math.sqrt(2 * bits / (math.pi * 256)), abs=0.03)


def test_without_the_key_there_is_nothing() -> None:
    found = _recovered(KeyInversion(), BioHash(bits=128), 128)
    assert abs(float(found.mean())) < 4 / math.sqrt(128 * PEOPLE)


def test_away_from_the_boundaries_is_closer_than_the_closed_form() -> None:
    closed = _recovered(KeyInversion(key="leaked", newton=0, steps=0), IomGrp(), 128)
    solved = _recovered(KeyInversion(key="leaked"), IomGrp(), 128)
    assert float(solved.mean()) > float(closed.mean()) + 0.02 > 0.9


def test_polynomials_with_their_key_are_nearly_the_embedding() -> None:
    found = {o: float(_recovered(ExponentOne(key="leaked"), PolyProtect(overlap=o), 128).mean()) for o in (0, 4)}
    assert found[4] > 0.9
    assert 0.3 < found[0] < 0.6, "one entry of five is known: sqrt(1 / 5)"


def test_more_entries_are_smaller_and_their_first_power_dominates_more() -> None:
    """In closed form, without steps."""
    closed = ExponentOne(key="leaked", steps=0)
    narrow, wide = (_recovered(closed, PolyProtect(overlap=4), width).median() for width in (64, 512))
    assert float(wide) > 0.97 > float(narrow)


def test_each_attack_says_where_it_does_not_apply() -> None:
    with pytest.raises(NotApplicable, match="differentiable"):
        _recovered(ExponentOne(key="leaked"), BioHash(bits=64), 128)
    with pytest.raises(NotApplicable, match="no margins"):
        _recovered(KeyInversion(key="leaked"), PolyProtect(), 128)
    with pytest.raises(NotApplicable, match="cannot be shifted"):
        ShiftLinkage().score(BioHash(), torch.zeros(2, 6), torch.zeros(2, 6))


@pytest.mark.parametrize("attention", ["scaled", "beside"])
def test_slerpface_with_its_key_is_the_embedding(attention: str) -> None:
    """Exactly, without dropped entries, wherever the map is; without the key there is nothing."""
    whole, shipped = (SlerpFace(attention=attention, drop=drop) for drop in (0.0, 0.5))  # type: ignore[arg-type]
    assert float(_recovered(SlerpInversion(key="leaked"), whole, 128).min()) > 0.9999
    found = _recovered(SlerpInversion(key="leaked"), shipped, 128)
    assert float(found.mean()) > 0.78, "more than the .73 of a first-order formula"
    assert abs(float(_recovered(SlerpInversion(), shipped, 128).mean())) < 4 / math.sqrt(128 * PEOPLE)


def test_the_map_links_whatever_the_key() -> None:
    for attention, reads in (("scaled", "template"), ("beside", "auxiliary")):
        defense, attack = SlerpFace(attention=attention), AttentionMap(reads=reads)  # type: ignore[arg-type]
        assert _auc(defense, attack=attack) > 0.8
    with pytest.raises(NotApplicable, match="stores no map"):
        _auc(SlerpFace(), attack=AttentionMap(reads="auxiliary"))
    with pytest.raises(NotApplicable, match="the same length"):
        _auc(SlerpFace(attention="beside"), attack=AttentionMap())
    with pytest.raises(NotApplicable, match="no groups"):
        _auc(BioHash(), attack=AttentionMap())


def test_nothing_leaks_that_an_attack_did_not_declare() -> None:
    oracle = KeyOracle("none", SlerpFace(), 128, lambda _: {}, Rng(0))
    for ask, said in (
        (lambda: oracle.auxiliary(0), "steals_auxiliary"), (lambda: oracle.records(0), "records"),
        (lambda: oracle.enrol_own([0]), "enrolment"),
    ):  # fmt: skip
        with pytest.raises(KnowledgeError, match=said):
            ask()


def _auc(defense: KeyedDefense, own: bool = False, attack: CrossmatchAttack | None = None) -> float:
    """Of linking two images (cosine .75) of 60 people under keys of two applications."""
    draws = torch.randn(2, 60, 128, generator=Rng(5).torch())
    first = functional.normalize(draws[0])
    second = functional.normalize(0.75 * first + (1 - 0.75**2) ** 0.5 * functional.normalize(draws[1]))
    made, beside = [], []
    for n, some in enumerate((first, second)):
        keys = [defense.draw_key(Rng(6).child(n, m), 128) for m in range(len(some))]
        made.append(torch.cat([defense.transform(one[None], key) for one, key in zip(some, keys, strict=True)]))
        beside.append(defense.auxiliary(some, keys[0]))
    if own:
        scores = torch.stack([defense.score(one.expand_as(made[1]), made[1]) for one in made[0]])
    else:
        oracle = KeyOracle("none", defense, 128, lambda _: {}, Rng(0))
        stolen = [Stolen(*part) for part in zip(made, beside, strict=True)]
        scores = (attack or ShiftLinkage()).link(oracle, stolen[0], stolen[1])
    others = scores[~torch.eye(60, dtype=torch.bool)]
    return float((scores.diagonal()[:, None] > others).float().mean())


def test_the_best_shift_links_what_the_schemes_own_score_does_not() -> None:
    assert _auc(PolyProtect(overlap=4), own=False) > 0.9
    assert abs(_auc(PolyProtect(overlap=4), own=True) - 0.5) < 0.2
    assert abs(_auc(BioHash(), own=False) - 0.5) < 0.15


def test_equal_templates_have_the_highest_score_at_any_shift() -> None:
    row = torch.randn(1, 30, generator=Rng(7).torch())
    for shift in (-3, 0, 3):
        assert float(ShiftLinkage().score(PolyProtect(), row, -2 * row.roll(shift, 1))[0, 0]) > 0.95 - 0.3 * bool(shift)


def test_descent_opens_a_random_network_with_its_key_alone() -> None:
    defense = RandCNN(hidden=128, outputs=64)
    found = _recovered(DescentInversion(key="leaked", starts=4, steps=120), defense, 24)
    assert float(found.mean()) > 0.99
    blind = _recovered(DescentInversion(starts=1, steps=40), defense, 24)
    assert abs(float(blind.mean())) < 4 / math.sqrt(24 * PEOPLE)
    with pytest.raises(NotApplicable, match="no gradient"):
        _recovered(DescentInversion(key="leaked"), BioHash(bits=8), 24)
