"""Noise on eigenfaces: coefficients and their noise against slow ones, and the budgets that are claimed."""

import numpy as np
import pytest
import torch

from bench.checks import assert_sound
from bench.checks.scene import Scene
from bench.contracts import Rng, System
from bench.metrics.image import image_scores
from defenses.peep import Peep


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=60)


def _system(scene: Scene, **parameters: float) -> System:
    defense = Peep(components=20, **parameters)  # type: ignore[arg-type]
    return scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))


def test_coefficients_are_of_orthonormal_eigenfaces_and_within_the_range_of_the_public_faces(scene: Scene) -> None:
    system = _system(scene)
    axes = system.state["axes"]
    assert torch.allclose(axes @ axes.T, torch.eye(20), atol=1e-3)
    public = scene.public.batch(slice(None))
    wanted = np.linalg.svd((public - public.mean(0)).flatten(1).double().numpy(), full_matrices=False)[1][:20]
    raw = (public.flatten(1) - system.state["mean"]) @ axes.T
    assert np.allclose(raw.norm(dim=0).numpy(), wanted, rtol=1e-3)
    sent = system.encode(torch.cat([public, scene.images(), torch.rand(4, 3, 32, 32)]))
    assert sent.shape == (76, 20, 1, 1) and float(sent.min()) >= 0 and float(sent.max()) <= 1
    assert float(system.encode(public).amin(0).max()) < 1e-4, "the public faces span the whole range"


def test_the_noise_has_the_scale_of_its_budget_and_the_server_shrinks_what_it_cannot_trust(scene: Scene) -> None:
    images, names = scene.images(), scene.names()
    found = {}
    for epsilon in (0.5, 1e5):
        system = _system(scene, epsilon=epsilon)
        sent = system.encode(images)
        noise = torch.cat([system.protect(sent, Rng(n).images(names)) - sent for n in range(20)])
        assert float(noise.abs().mean()) == pytest.approx(1 / epsilon, rel=0.05)  # the mean of |Laplace(0, b)| is b
        face = system.defense.face(system, system.protect(sent, Rng(0).images(names)))  # type: ignore[attr-defined]
        found[epsilon] = float(np.mean(image_scores(images, face)["ssim"]))
    mean = scene.public.batch(slice(None)).mean(0).expand_as(images)
    floor = float(np.mean(image_scores(images, mean)["ssim"]))
    assert found[1e5] > floor + 0.1 and found[0.5] == pytest.approx(floor, abs=0.05)


def test_the_budget_of_an_image_is_that_of_all_its_coefficients() -> None:
    claimed = Peep(epsilon=2.0, components=128).claims((96, 96))
    assert claimed["epsilon of a coefficient"] == 2.0 and claimed["epsilon of an image, composed"] == 256.0


def test_it_keeps_the_contract(scene: Scene) -> None:
    assert_sound(Peep(components=16), scene)
