"""Learned and structured noise on features: what each stores, and what its source says of it."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from bench.checks import Scene, assert_sound
from bench.contracts import Defense, Rng, System
from bench.contracts.oracle import client_alone
from bench.toolkit.embedding_training import Recipe
from defenses.bottleneck import Bottleneck
from defenses.cloak import Cloak
from defenses.fisher_noise import FisherNoise
from defenses.pruning import Pruning
from defenses.shredder import Shredder

BRIEF = Recipe(epochs=1, rounds=1, head_epochs=0)
FISHER, BOTTLE = FisherNoise(faces=8, probes=2), Bottleneck(channels=4, bits=3)
SHREDDER, CLOAK = Shredder(fit_steps=1, collection=2), Cloak(fit_steps=2)
PRUNING = Pruning(fit_steps=2, width=8, recipe=BRIEF)


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(size=(32, 28), public=16)


def _fitted(scene: Scene, defense: Defense) -> System:
    return scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))


def _stored(system: System, images: Tensor, seed: int = 0) -> tuple[Tensor, Tensor]:
    features = system.encode(images)
    return features, system.protect(features, Rng(seed).images([f"image{i}" for i in range(len(images))]))


@pytest.mark.parametrize("defense", [FISHER, BOTTLE, SHREDDER, CLOAK, PRUNING], ids=lambda d: type(d).__name__)
def test_it_keeps_its_contract_and_an_attacker_can_fit_a_copy(scene: Scene, defense: Defense) -> None:
    assert_sound(defense, scene)
    assert defense.has_own_client == isinstance(defense, Bottleneck | Pruning), "decoders of plain features do not fit"
    copy = defense.fit(client_alone(scene.network), scene.public, Rng(1))
    assert copy is not None and all(bool(torch.isfinite(value).all()) for value in copy.tensors.values())


def test_fisher_noise_gives_the_error_that_it_claims_where_the_bound_is_attained(scene: Scene) -> None:
    """Pixels are seen through an orthogonal map: the unbiased least-squares attacker attains the bound."""

    class Rotated(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.somewhere = torch.nn.Parameter(torch.zeros(1))  # tells the device

        def forward(self, x: Tensor) -> Tensor:
            return 2 * torch.nn.functional.pixel_unshuffle(x, 4)

    network = replace_client(scene, Rotated())
    system = scene.system(FISHER, replace(FISHER, mse=0.02).fit(network, scene.public, Rng(0)))
    system = replace(system, recognizer=network)
    images = scene.images()
    guess = torch.nn.functional.pixel_shuffle(_stored(system, images)[1] / 2, 4)
    inputs = (images - network.mean) / network.scale
    error = float((guess - inputs).square().mean()) * network.scale**2
    assert error == pytest.approx(0.02, rel=0.03)
    assert FISHER.claims((32, 28))["mean squared error, at least"] == 0.001


def replace_client(scene: Scene, client: torch.nn.Module) -> Any:
    network = client_alone(scene.network)
    network.client = client
    return network


def test_shredder_has_the_wanted_strength_and_draws_one_of_its_members(scene: Scene) -> None:
    system = _fitted(scene, replace(SHREDDER, noise_to_signal=0.5))
    features, stored = _stored(system, scene.images())
    noise = (stored - features).flatten(1)
    assert float(noise.square().mean() / features.square().mean()) == pytest.approx(0.5, rel=0.15)
    among = torch.corrcoef(noise)[~torch.eye(len(noise), dtype=torch.bool)]
    same = among > 0.5
    assert 0 < int(same.sum()) < len(among), "two images share a member or do not"
    assert float(among[same].min()) > 0.99, "the order almost determines a member's noise"
    again = _stored(system, scene.images(), 1)[1] - features
    assert not torch.equal(noise, again.flatten(1))


def test_cloak_puts_less_noise_where_recognition_looks(scene: Scene) -> None:
    """The server reads one place more than the others, and the learned scale is smallest there."""

    class Reader(torch.nn.Module):
        def forward(self, features: Tensor) -> Tensor:
            return features[:, :, 3:5, 3:5].flatten(1)

    network = client_alone(scene.network)
    network.server = Reader()
    learned = Cloak(fit_steps=30, learning_rate=0.2).fit(network, scene.public, Rng(0))
    scale = learned.tensors["scale"].mean(0)
    outside = torch.ones_like(scale, dtype=torch.bool)
    outside[3:5, 3:5] = False
    assert float(scale[3:5, 3:5].mean()) < 0.8 * float(scale[outside].mean())
    system = _fitted(scene, CLOAK)
    features, stored = _stored(system, scene.images())
    noise = (stored - system.defense.reference(system, features)) / system.state["scale"]
    assert float(noise.std()) == pytest.approx(1.0, rel=0.03)


def test_a_bottleneck_stores_few_channels_of_few_levels(scene: Scene) -> None:
    system = _fitted(scene, BOTTLE)
    features, stored = _stored(system, scene.images())
    assert stored.shape == (len(features), 4, *features.shape[2:])
    assert all(len(set(stored[:, channel].flatten().tolist())) <= 2**3 for channel in range(4))
    wide = _fitted(scene, Bottleneck(channels=features.shape[1], bits=16))
    whole = wide.embed(_stored(wide, scene.images())[1])
    assert float((whole * scene.network.embed(features)).sum(1).min()) > 0.99, "nothing is lost with all channels"
    with pytest.raises(ValueError, match="channels = 999"):
        _fitted(scene, Bottleneck(channels=999))


def test_pruning_removes_the_wanted_share_of_channels_of_each_image(scene: Scene) -> None:
    features, stored = _stored(_fitted(scene, replace(PRUNING, ratio=0.75)), scene.images())
    left = (stored != 0).any(3).any(2)
    assert int(left.sum(1).max()) <= features.shape[1] // 4
    kept = stored != 0
    assert torch.equal(stored[kept], features[kept])
