"""Attacks on the frequency family: channels named, faces solved, captures put together; and what they leave alone."""

from typing import Any

import pytest
import torch
from torch import Tensor

from bench.checks import Scene, assert_sound
from bench.contracts import Knowledge, Leak, NotApplicable, ReconstructionAttack, Rng, State, System
from bench.contracts.oracle import Oracle, client_alone
from bench.metrics.image import image_scores
from bench.settings import registry
from bench.settings.controls import Canary
from bench.toolkit.affine import FacePrior

SOLVE: dict[str, Any] = {"iterations": 25, "faces": 60, "learned": 40}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(public=60)


def _made(kind: Any, name: str, **parameters: Any) -> Any:
    return registry.make(registry.find(kind, name, "test"), parameters, "test")


def _learned(scene: Scene, attack: ReconstructionAttack, defense: Any, system: System) -> tuple[Oracle, State]:
    copy = defense.fit(client_alone(scene.network), scene.public, Rng(1)) if attack.asks_surrogate else None
    oracle = Oracle(attack.level, system, Rng(2), surrogate=copy)
    state = attack.fit(oracle, scene.public, Rng(3))
    assert state is not None
    return oracle, state


def _ssim(scene: Scene, defense: Any, attack: ReconstructionAttack) -> tuple[float, Oracle]:
    """Mean SSIM on 8 faces, templates in the precision in which they are stored."""
    system = scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))
    oracle, state = _learned(scene, attack, defense, system)
    images, names = scene.images(8), scene.names(8)
    with torch.no_grad():
        features = system.encode(images)
        draws = [system.protect(features, Rng(9).child(k).images(names)).half().float() for k in range(attack.copies)]
    prepared = attack.prepare(oracle, state)
    rebuilt = attack.reconstruct(oracle, prepared, Leak(draws[0], others=draws[1:]), Rng(4).images(names))
    return float(image_scores(images, rebuilt.clamp(0, 1))["ssim"].mean()), oracle


def _floor(scene: Scene) -> float:
    mean = scene.public.batch(slice(None)).mean(0).expand(8, -1, -1, -1)
    return float(image_scores(scene.images(8), mean)["ssim"].mean())


def test_partialfaces_view_is_named_and_more_captures_show_more(scene: Scene) -> None:
    defense = _made("defense", "partialface")
    one, oracle = _ssim(scene, defense, _made("attack", "identify_and_solve", **SOLVE))
    assert oracle.reported["margin"] > 1, "nats a channel"
    many, _ = _ssim(scene, defense, _made("attack", "identify_and_solve", captures=6, **SOLVE))
    assert _floor(scene) + 0.1 < one < many - 0.03


@pytest.mark.parametrize("name", ["partialface", "fracface"])
def test_channels_are_named_right(scene: Scene, name: str) -> None:
    defense = _made("defense", name)
    attack = _made("attack", "identify_and_solve", **SOLVE | {"learned": 0})
    system = scene.system(defense)
    _, state = _learned(scene, attack, defense, system)
    known = dict(state.tensors)
    features = system.encode(scene.images(8))
    stored = system.protect(features, Rng(5).images(scene.names(8)))
    module = __import__(type(attack).__module__)
    named, _ = module._identify(stored, known)
    same = (features[:, None] == stored[:, :, None]).all((3, 4))
    right = same.gather(2, named[:, :, None]).float().mean()
    assert right == 1 if name == "partialface" else right > 0.6


def test_a_wiener_filter_beats_least_squares_under_noise(scene: Scene) -> None:
    defense = _made("defense", "dctdp", epsilon=4.0, fit_steps=0)
    plain, _ = _ssim(scene, defense, _made("attack", "linear_inversion", calibration=24, iterations=25))
    filtered, _ = _ssim(scene, defense, _made("attack", "identify_and_solve", **SOLVE))
    averaged, _ = _ssim(scene, defense, _made("attack", "identify_and_solve", captures=8, **SOLVE))
    assert plain + 0.05 < filtered < averaged


def test_it_opens_the_affine_canary_and_leaves_alone_what_it_cannot_solve(scene: Scene) -> None:
    attack = _made("attack", "identify_and_solve", **SOLVE)
    assert _ssim(scene, Canary(kind="affine"), attack)[0] > 0.9
    minusface = _made("defense", "minusface", fit_steps=1, width=4)
    for defense, why in ((Canary(kind="open"), "not affine"), (minusface, "not affine")):
        system = scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))
        with pytest.raises(NotApplicable, match=why):
            _learned(scene, attack, defense, system)
    partial = _made("defense", "partialface")
    with pytest.raises(NotApplicable, match="no noisy copy"):
        _learned(scene, _made("attack", "linear_inversion"), partial, scene.system(partial))


def test_the_prior_is_a_change_of_basis(scene: Scene) -> None:
    prior = FacePrior.of(scene.public)
    images = torch.rand(2, 3, *scene.network.image_size, generator=Rng(0).torch())
    waves = prior.to_waves(images)
    torch.testing.assert_close(prior.to_images(waves), images, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(waves.norm(), images.norm(), atol=1e-3, rtol=1e-4)


def test_captures_learn_from_means_and_serve_others_as_ever(scene: Scene) -> None:
    assert_sound(_made("attack", "captures", width=16, training={"epochs": 8, "batch": 8}), scene)
    noisy = _made("defense", "dctdp", fit_steps=0)
    training = {"epochs": 6, "batch": 8, "images": 48, "flip": False}
    few, oracle = _ssim(scene, noisy, _made("attack", "captures", average=1, width=16, training=training))
    many, asked = _ssim(scene, noisy, _made("attack", "captures", average=8, width=16, training=training))
    assert asked.queries["encode_images"] > 7 * oracle.queries["encode_images"]
    assert many > few


def _shuffled(scene: Scene) -> tuple[Any, System]:
    defense = _made("defense", "minusface", fit_steps=20, width=4)
    return defense, scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))


def test_the_soft_permutation_fits_what_was_sent_and_nothing_but_a_shuffle(scene: Scene) -> None:
    defense, system = _shuffled(scene)
    images = scene.images(2)
    stolen: Tensor = system.protect(system.encode(images), Rng(5).images(scene.names(2)))
    reached = []
    for iterations in (2, 60):
        attack = _made("attack", "soft_permutation", iterations=iterations)
        oracle, state = _learned(scene, attack, defense, system)
        rebuilt = attack.reconstruct(oracle, state, Leak(stolen), Rng(6).images(scene.names(2)))
        assert rebuilt.shape == images.shape
        reached.append(oracle.reported["objective"])
    assert reached[1] < 0.7 * reached[0]
    assert attack.level == Knowledge.WHITEBOX
    partial = _made("defense", "partialface")
    with pytest.raises(NotApplicable, match="not a picture"):
        _learned(scene, attack, partial, scene.system(partial))
