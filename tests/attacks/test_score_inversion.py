"""Faces from scores alone: what queries are worth, what is asked, and who may ask."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attacks.affine_scores import AffineScores
from attacks.embedding_decoder import EmbeddingTraining
from attacks.score_inversion import ScoreInversion
from bench.checks import assert_sound
from bench.checks.scene import Open, Scene
from bench.contracts import Knowledge, Leak, Oracle, Rng, State
from bench.errors import KnowledgeError
from bench.toolkit.linear_estimates import spread

RECIPE = EmbeddingTraining(epochs=0)


class Scores:
    """Answers with the scores of random unit embeddings, of which nothing else is known."""

    def __init__(self, own: Tensor, targets: Tensor) -> None:
        self.own, self.targets, self.asked = own, targets, 0

    def similarities(self, images: Tensor, rows: tuple[int, ...]) -> Tensor:
        some = self.own[self.asked : self.asked + len(images)]
        self.asked += len(images)
        return some @ self.targets[list(rows)].T

    def report(self, **figures: Tensor) -> None:
        assert set(figures) == {"queries_per_target"}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=80)


def _unit(count: int, seed: int) -> Tensor:
    return functional.normalize(torch.randn(count, 128, generator=torch.Generator().manual_seed(seed)))


def test_the_recovered_cosine_follows_the_number_of_queries() -> None:
    own, targets = _unit(400, 0), _unit(30, 1)
    own = own[spread(own)]
    probes = {
        "pictures": torch.zeros(400, 3, 1, 1, dtype=torch.uint8), "embeddings": own,
        "mean": torch.zeros(128), "covariance": torch.eye(128) / 128,
    }  # fmt: skip
    for queries in (10, 32, 99, 128, 300):
        oracle: Any = Scores(own, targets)
        attack = ScoreInversion(queries=queries, ridge=1e-6)
        found = attack.recovered(oracle, probes, tuple(range(30)))
        cosine = float((found * targets).sum(1).mean())
        assert oracle.asked == queries
        assert cosine == pytest.approx(math.sqrt(min(1.0, queries / 128)), abs=0.04)


def test_faces_are_ordered_from_orthogonal_to_redundant() -> None:
    base = torch.eye(4)
    order = spread(torch.cat([base[:1], base[:1] + 0.01, base[1:2], base[2:3] * 0.9, base[3:]]))
    assert sorted(order) == [0, 1, 2, 3, 4]
    assert len({0, 1} & set(order[:4])) == 1, "two copies of one face are not both among the first four"


def _attacked(scene: Scene, attack: ScoreInversion, values: Tensor | None = None) -> tuple[Tensor, Oracle, float]:
    """(images, oracle, mean cosine of the recovered embeddings)."""
    system = scene.system(Open())
    start = attack.base.fit(Oracle(attack.level, system, Rng(0)), scene.public, Rng(0))
    state = attack.adapt(Oracle(attack.level, system, Rng(0)), scene.public, Rng(0), start)
    with torch.no_grad():
        stored = system.embed(system.encode(scene.images()))
    oracle = Oracle(attack.level, system, Rng(1), stored)
    prepared = attack.prepare(oracle, state)
    rows = tuple(range(len(stored)))
    leak = Leak(stored if values is None else values, rows=rows)
    images = attack.reconstruct(oracle, prepared, leak, Rng(2).images(scene.names()))
    again = Oracle(attack.level, system, Rng(1), stored)
    return images, oracle, float((attack.recovered(again, prepared[1], rows) * stored).sum(1).mean())


def test_it_uses_scores_alone_and_counts_them(scene: Scene) -> None:
    attack = ScoreInversion(queries=20, recipe=RECIPE)
    images, oracle, many = _attacked(scene, attack)
    blind, *_ = _attacked(scene, attack, torch.zeros(len(images), 32))
    assert torch.equal(images, blind), "the stored embeddings are not read"
    assert oracle.queries["similarity_images"] == 20 * len(images)
    assert oracle.reported == {"queries_per_target": 20}
    *_, few = _attacked(scene, ScoreInversion(queries=2, recipe=RECIPE))
    assert many > few + 0.1 and many > 0.7


def test_rounded_scores_say_less(scene: Scene) -> None:
    """The oracle rounds: the attack cannot see more."""
    system = scene.system(Open())
    with torch.no_grad():
        stored = system.embed(system.encode(scene.images()))
    coarse = ScoreInversion(score_bits=2, recipe=RECIPE)
    oracle = Oracle(coarse.level, system, Rng(1), stored, show=coarse.shown)
    assert set(oracle.similarities(scene.images(), [0, 1]).unique().tolist()) <= {-0.75, -0.25, 0.25, 0.75}
    own, targets = _unit(400, 0), _unit(30, 1)
    probes = {
        "pictures": torch.zeros(128, 3, 1, 1, dtype=torch.uint8), "embeddings": own[:128],
        "mean": torch.zeros(128), "covariance": torch.eye(128) / 128,
    }  # fmt: skip

    def cosine(bits: int) -> float:
        attack: Any = ScoreInversion(score_bits=bits, queries=128)
        seen: Any = Scores(own, targets)
        exact = seen.similarities
        seen.similarities = lambda images, rows: attack.shown(exact(images, rows))
        return float((attack.recovered(seen, probes, tuple(range(30))) * targets).sum(1).mean())

    found = [cosine(bits) for bits in (8, 4, 1)]
    assert found == sorted(found, reverse=True)
    assert found[0] > 0.95 > found[1] > 0.75 > found[2] > 0.6


def test_least_squares_is_the_baseline(scene: Scene) -> None:
    attack = AffineScores(queries=20)
    assert_sound(attack, scene)
    system = scene.system(Open())
    state = attack.fit(Oracle(attack.level, system, Rng(0)), scene.public, Rng(0))
    with torch.no_grad():
        stored = system.embed(system.encode(scene.images()))
    oracle = Oracle(attack.level, system, Rng(1), stored)
    rows = tuple(range(len(stored)))
    found = attack.recovered(oracle, attack.prepare(oracle, state), rows)
    assert float((found * stored).sum(1).mean()) > 0.7
    assert oracle.queries["similarity_images"] == 20 * len(rows)


def test_it_keeps_the_contract_and_its_level(scene: Scene) -> None:
    assert_sound(ScoreInversion(recipe=RECIPE, queries=20), scene)
    with pytest.raises(KnowledgeError, match="embed"):
        ScoreInversion().adapt(Oracle(Knowledge.ALGORITHM, scene.system(Open()), Rng(0)), scene.public, Rng(0), State())
