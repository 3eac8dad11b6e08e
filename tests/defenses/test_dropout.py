"""Dropout: which entries of the features are stored, and as what."""

import pytest
import torch
from torch import Tensor

from bench.checks import Scene, assert_sound
from bench.contracts import Rng
from defenses.dropout import Dropout


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(public=16)


def _stored(scene: Scene, defense: Dropout, features: Tensor, seed: int = 0) -> Tensor:
    names = [f"image{i}" for i in range(len(features))]
    return scene.system(defense).protect(features, Rng(seed).images(names))


@pytest.mark.parametrize("defense", [Dropout(), Dropout(p=0.9, rescale=False)])
def test_it_keeps_its_contract(scene: Scene, defense: Dropout) -> None:
    assert_sound(defense, scene)


@pytest.mark.parametrize(("rescale", "factor"), [(True, 1 / 0.7), (False, 1.0)])
def test_an_entry_is_zero_or_what_it_was(scene: Scene, rescale: bool, factor: float) -> None:
    features = 0.5 + torch.rand(4, 16, 20, 20)
    stored = _stored(scene, Dropout(p=0.3, rescale=rescale), features)
    left = stored != 0
    torch.testing.assert_close(stored[left], factor * features[left])
    assert float((~left).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert float(stored.mean()) == pytest.approx(0.7 * factor * float(features.mean()), rel=0.03)


def test_masks_are_drawn_for_each_entry_and_each_template(scene: Scene) -> None:
    """Independent of each other: two are both zero at a share p * p, be they neighbours, images or draws."""
    features = torch.ones(2, 16, 40, 40)
    zero, again = (_stored(scene, Dropout(p=0.6), features, seed) == 0 for seed in (0, 1))
    neighbours = {"rows": zero[:, :, 1:] & zero[:, :, :-1], "channels": zero[:, 1:] & zero[:, :-1]}
    for what, both in {**neighbours, "images": zero[0] & zero[1], "draws": zero & again}.items():
        assert float(both.float().mean()) == pytest.approx(0.36, abs=0.015), what


def test_a_probability_of_zero_stores_the_features(scene: Scene) -> None:
    features = torch.randn(2, 8, 5, 5)
    assert torch.equal(_stored(scene, Dropout(p=0.0), features), features)


@pytest.mark.parametrize("p", [-0.1, 1.0, float("nan")])
def test_other_than_probabilities_below_one_are_refused(p: float) -> None:
    with pytest.raises(ValueError, match="p must be"):
        Dropout(p=p)
