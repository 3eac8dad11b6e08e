"""Clients that the defender trains: each keeps the person and gives up what its loss names."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from bench.checks import Scene, assert_sound
from bench.contracts import Defense, Rng, System
from bench.contracts.oracle import client_alone
from bench.errors import DataError
from bench.toolkit.trained_client import TrainedClient
from defenses.adversarial import Adversarial
from defenses.nopeek import NoPeek, distance_correlation
from defenses.siamese import Siamese

EVERY = [
    NoPeek(fit_steps=1, batch=4),
    Adversarial(fit_steps=1, batch=4, width=8),
    Siamese(fit_steps=1, batch=4),
]


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(size=(32, 28), public=16)


def _system(scene: Scene, defense: Defense) -> System:
    return scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))


@pytest.mark.parametrize("defense", EVERY, ids=lambda d: type(d).__name__)
def test_it_keeps_its_contract_and_an_attacker_can_fit_a_copy(scene: Scene, defense: Defense) -> None:
    assert_sound(defense, scene)
    client = client_alone(scene.network)
    copy = defense.fit(client, scene.public, Rng(1))
    assert copy is not None and not any(name.startswith("server") for name in copy.tensors)
    features = System(client, defense, defense.prepare(client, copy)).encode(scene.images())
    assert features.shape == scene.network.extract(scene.images()).shape


@pytest.mark.parametrize("defense", EVERY, ids=lambda d: type(d).__name__)
def test_the_weight_lowers_what_its_loss_calls_private(scene: Scene, defense: TrainedClient) -> None:
    """The same training with hardly any weight on privacy ends with a higher loss of privacy."""
    longer = replace(defense, fit_steps=16, batch=8, learning_rate=3e-3)
    lost = {}
    for weight in (0.0, 0.9):
        state = replace(longer, weight=weight).fit(scene.network, scene.public, Rng(0))
        lost[weight] = state.info["privacy_loss"]["last"]
    assert lost[0.9] < 0.97 * lost[0.0]


def test_distance_correlation_is_what_it_is_by_definition() -> None:
    """Against the definition, with loops, on a curve (in one place) and on independent draws (near 0)."""

    def defined(one: np.ndarray, other: np.ndarray) -> float:
        def centred(x: np.ndarray) -> np.ndarray:
            d = np.array([[np.linalg.norm(a - b) for b in x] for a in x])
            found: np.ndarray = d - d.mean(0)[None] - d.mean(1)[:, None] + d.mean()
            return found

        a, b = centred(one), centred(other)
        return float(np.sqrt((a * b).mean() / np.sqrt((a * a).mean() * (b * b).mean())))

    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 3))
    for other in (x[:, :1] ** 2, rng.normal(size=(60, 2)), 3 * x):
        found = distance_correlation(torch.from_numpy(x), torch.from_numpy(other))
        assert float(found) == pytest.approx(defined(x, other), abs=1e-6)
    assert float(distance_correlation(torch.from_numpy(x), torch.from_numpy(3 * x))) == pytest.approx(1, abs=1e-6)


def test_siamese_batches_have_several_images_of_a_person_and_need_identities(scene: Scene) -> None:
    people = np.repeat(np.arange(6), 5)
    chosen = Siamese(batch=8).chosen(people, np.random.default_rng(0))
    assert sorted(np.unique(people[chosen], return_counts=True)[1]) == [4, 4]
    assert len(set(chosen.tolist())) == 8
    with pytest.raises(DataError, match="need identities"):
        EVERY[2].fit(scene.network, replace(scene.public, subjects=None), Rng(0))
