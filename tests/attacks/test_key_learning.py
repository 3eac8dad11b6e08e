"""Attacks on keyed templates that learn from own people: what they must find, and where there is nothing to find."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attacks.key_decoder import KeyDecoder
from attacks.trained_linker import TrainedLinker
from bench.contracts import Key, KeyedAttack, KeyedDefense, KeyOracle, OwnPeople, Rng, State, Stolen
from bench.errors import NotApplicable
from bench.runner.protector import KeyRing, application_name
from bench.toolkit.template_learning import SetRecipe, held_out, numbers
from defenses.biohash import BioHash
from defenses.polyprotect import PolyProtect
from defenses.slerpface import SlerpFace

QUICK = SetRecipe(hidden=32, steps=60)


def _people(count: int, width: int, seed: int, rank: int | None = None) -> OwnPeople:
    """Two images of each person, at a cosine of about .75; all in a subspace of `rank` dimensions, if given."""
    draws = torch.randn(3, count, rank or width, generator=Rng(seed).torch())
    images = (draws[0] + 0.58 * draws[1:]).transpose(0, 1).flatten(0, 1)
    if rank:
        images = images @ Rng(99).orthonormal(width, rank).T
    return OwnPeople(functional.normalize(images), tuple(f"{seed}/{row // 2}" for row in range(2 * count)))


class _System:
    """One system that holds records of some people."""

    def __init__(self, defense: KeyedDefense, people: OwnPeople) -> None:
        self.defense, self.people = defense, people
        self.ring = KeyRing(defense, people.embeddings.shape[1], Rng(8))

    def key(self, row: int, application: int = 0, copy: int = 0) -> Key:
        return self.ring.key(application_name(application), self.people.people[row], f"{row}/{copy}")

    def __call__(self, rows: Sequence[int], application: int, copy: int) -> Stolen:
        made = [self.defense.transform(self.people.embeddings[r : r + 1], self.key(r, application, copy)) for r in rows]
        return Stolen(torch.cat(made))


def _learned(attack: KeyedAttack, defense: KeyedDefense, own: OwnPeople) -> State | None:
    oracle = KeyOracle(
        attack.knows, defense, own.embeddings.shape[1], lambda _: {}, Rng(0), level=attack.level,
        enrol=_System(defense, own),
    )  # fmt: skip
    return attack.fit(oracle, own, Rng(1))


def _recovered(attack: KeyDecoder, defense: KeyedDefense, rank: int | None = None, width: int = 32) -> Tensor:
    """Cosines with the true embeddings, minus those with another person's."""
    own, judged = _people(60, width, 2, rank), _people(30, width, 3, rank)
    system, rows = _System(defense, judged), list(range(0, 60, 2))

    def records(number: int) -> Tensor:
        return torch.cat(
            [system([rows[number] + 1 - n % 2], 2 + n, n).templates for n in range(attack.records - 1)]
        )  # the other image first

    oracle = KeyOracle(
        attack.knows, defense, width, lambda number: system.key(rows[number]), Rng(0), auxiliary=lambda _: None,
        records=records, learned=_learned(attack, defense, own),
    )  # fmt: skip
    found = attack.invert(oracle, system(rows, 0, 0).templates, Rng(4))
    truth = judged.embeddings[rows]
    return (found * truth).sum(1) - (found * truth.roll(1, 0)).sum(1)


def test_a_key_that_recurs_is_learned_and_a_fresh_one_is_not() -> None:
    attack = KeyDecoder(recipe=QUICK)
    assert float(_recovered(attack, BioHash(bits=32, keys="pool", pool=1)).mean()) > 0.5
    fresh = _recovered(attack, BioHash(bits=32, keys="record"))
    assert abs(float(fresh.mean())) < 4 * float(fresh.std()) / len(fresh) ** 0.5


def test_several_records_of_a_pool_say_more_than_one() -> None:
    pool = BioHash(bits=32, keys="pool", pool=2)
    one, eight = (float(_recovered(KeyDecoder(captures=n, recipe=QUICK), pool).mean()) for n in (1, 8))
    assert eight > one + 0.05
    fresh = _recovered(KeyDecoder(captures=8, recipe=QUICK), BioHash(bits=32, keys="record"))
    assert abs(float(fresh.mean())) < 4 * float(fresh.std()) / len(fresh) ** 0.5


def test_slerpfaces_directions_average_out_over_records_without_any_key() -> None:
    assert float(_recovered(KeyDecoder(captures=8, recipe=QUICK), SlerpFace()).mean()) > 0.3


def test_with_the_key_own_people_teach_what_the_closed_form_misses() -> None:
    """All faces lie in few of the dimensions; the closed form does not know."""
    attack, defense = KeyDecoder(key="leaked", recipe=QUICK), BioHash(bits=16)
    closed = math.sqrt(2 * 16 / (math.pi * 32))
    assert float(_recovered(attack, defense, rank=8).mean()) > closed + 0.08
    assert float(_recovered(attack, defense).mean()) > 0.5, "where there is nothing to learn, the closed form remains"


def _auc(attack: TrainedLinker, defense: KeyedDefense, width: int) -> float:
    own, judged = _people(30, width, 2), _people(40, width, 3)
    system = _System(defense, judged)
    oracle = KeyOracle("none", defense, width, lambda _: {}, Rng(0), learned=_learned(attack, defense, own))
    with torch.no_grad():
        scores = attack.link(oracle, system(range(0, 80, 2), 0, 0), system(range(1, 80, 2), 1, 0))
    others = scores[~torch.eye(40, dtype=torch.bool)]
    return float((scores.diagonal()[:, None] > others).float().mean())


def test_a_linker_learns_what_links_and_finds_nothing_where_nothing_is() -> None:
    attack = TrainedLinker(rounds=2, recipe=QUICK)
    assert _auc(attack, PolyProtect(overlap=4), 128) > 0.9
    assert _auc(attack, BioHash(bits=32, keys="pool", pool=2), 32) > 0.7
    assert abs(_auc(attack, BioHash(bits=32, keys="record"), 32) - 0.5) < 0.15


def test_people_are_held_out_as_a_whole() -> None:
    people = [f"{row // 3}" for row in range(30)]
    chosen = held_out(people, Rng(0))
    assert {sum(map(bool, chosen[start : start + 3])) for start in range(0, 30, 3)} == {0, 3}
    assert int(chosen.sum()) == 6
    with pytest.raises(NotApplicable, match="two people"):
        held_out(["ann", "ann"], Rng(0))


def test_templates_of_any_kind_become_numbers() -> None:
    assert numbers(torch.tensor([[True, False]])).tolist() == [[1.0, -1.0]]
    indices = numbers(torch.tensor([[3, 4, 3]], dtype=torch.uint8)).unflatten(1, (3, -1))[0]
    assert torch.equal(indices[0], indices[2])
    assert not torch.allclose(indices[0], indices[1])
    assert numbers(torch.ones(2, 3, 4)).shape == (2, 12)


def test_odd_settings_are_refused() -> None:
    for made, said in (
        (lambda: KeyDecoder(captures=2, key="leaked"), "captures"), (lambda: KeyDecoder(faces=1), "faces"),
        (lambda: TrainedLinker(people=3), "people"), (lambda: SetRecipe(patience=0), "patience"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=said):
            made()
