"""Attackers without pairs: the thief of the database, and the operator of the server."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attacks.shadow_client import ShadowClient
from attacks.unpaired import Unpaired
from bench.checks.attacks import check_attack
from bench.checks.scene import Open, Scene
from bench.contracts import Leak, NotApplicable, Oracle, Rng, State
from bench.metrics.image import image_scores
from bench.settings.controls import Canary
from bench.toolkit.decoders.training import Training
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.shadow_training import ShadowTraining
from bench.toolkit.unpaired_alignment import aligned

SHADOW = ShadowClient(width=16, shadow=ShadowTraining(steps=30, batch=8), training=Training(epochs=5, batch=8))
BRIEF = Recipe(epochs=1, batch=32)


@pytest.fixture(scope="module")
def scene() -> Scene:
    """Half of the faces are public; the other half are victims."""
    whole = Scene.small((32, 32), public=160)
    public, test = (whole.public.subset(range(*half)) for half in ((0, 80), (80, 160)))
    return replace(whole, public=public, test=test)


def _images(scene: Scene) -> Tensor:
    return scene.test.batch(slice(None))


def _made(scene: Scene, attack: Any, defense: Any) -> tuple[State, Tensor]:
    system = scene.system(defense, defense.fit(scene.network, scene.public, Rng(5)))
    with torch.no_grad():
        stolen = system.protect(system.encode(_images(scene)), Rng(1).images(scene.test.names))
        stolen = system.embed(stolen) if attack.leaks == "embedding" else stolen
    oracle = Oracle(attack.level, system, Rng(0), stolen=stolen.numpy())
    state = attack.fit(oracle, scene.public, Rng(0))
    made = attack.reconstruct(oracle, attack.prepare(oracle, state), Leak(stolen), Rng(3).images(scene.test.names))
    assert {"encode", "enrol", "embed", "similarity"}.isdisjoint(oracle.queries)
    return state, made.detach().float().clamp(0, 1)


def _ssim(scene: Scene, made: Tensor, shift: int = 0) -> float:
    return float(np.mean(image_scores(_images(scene).roll(shift, 0), made)["ssim"]))


def _floor(scene: Scene) -> float:
    return _ssim(scene, scene.public.batch(slice(None)).mean(0).expand_as(_images(scene)))


def test_the_mean_template_and_the_mean_face_are_pair_enough(scene: Scene) -> None:
    floor = _floor(scene)
    for kind in ("open", "secret"):
        _, made = _made(scene, Unpaired(), Canary(kind=kind))  # type: ignore[arg-type]
        assert _ssim(scene, made) > floor + 0.03, kind
        assert _ssim(scene, made) > _ssim(scene, made, 7) + 0.1, kind
    _, made = _made(scene, Unpaired(), Canary(kind="closed"))
    assert abs(_ssim(scene, made) - _ssim(scene, made, 7)) < 0.01, "noise says nothing"


def test_the_servers_operator_rebuilds_faces_and_not_from_the_server_in_another_order(scene: Scene) -> None:
    state, made = _made(scene, SHADOW, Open())
    assert _ssim(scene, made) > _ssim(scene, made, 7) + 0.03
    assert state.info["shadow"]["people"] == len(set(scene.public.subjects or ()))
    control = replace(SHADOW, shuffled=True, shadow=replace(SHADOW.shadow, match=0.0))
    _, other = _made(scene, control, Open())
    assert _ssim(scene, other) < _floor(scene)


def test_vectors_have_no_places_and_the_server_takes_feature_maps_only(scene: Scene) -> None:
    state, made = _made(scene, Unpaired(leaks="embedding", recipe=BRIEF), Open())
    assert made.shape == _images(scene).shape and 0 < state.info["alignment_cost"] < 2.5
    oracle = Oracle(SHADOW.level, scene.system(Open()), Rng(0), stolen=np.zeros((5, 16), dtype=np.float32))
    with pytest.raises(NotApplicable, match="no feature maps"):
        SHADOW.fit(oracle, scene.public, Rng(0))
    strangers = replace(scene.public, subjects=None)
    oracle = Oracle(Unpaired().level, scene.system(Open()), Rng(0), stolen=np.zeros((5, 16), dtype=np.float32))
    with pytest.raises(NotApplicable, match="no own recogniser"):
        Unpaired().fit(oracle, strangers, Rng(0))


def test_they_keep_the_contract() -> None:
    small = Scene.small((32, 32), public=80)
    for attack in (Unpaired(), SHADOW):
        found = {verdict.check: verdict for verdict in check_attack(attack, small)}
        bad = {name: verdict for name, verdict in found.items() if verdict.status == "failed"}
        assert not set(bad) - {"works on unprotected templates"}, bad


def _clouds(people: int, common: bool) -> tuple[Tensor, Tensor, Tensor]:
    """Skewed vectors (N, 6) of distinct variances under an unknown rotation, the others unrotated; the truth."""
    spread = torch.tensor([4.0, 2.8, 2.0, 1.4, 1.0, 0.7])
    drawn = [torch.distributions.Exponential(1.0).sample((people, 6)) * spread for _ in range(2)]
    first, second = drawn[0], drawn[0] if common else drawn[1]
    return first @ Rng(3).orthonormal(6, 6), second[Rng(4).numpy().permutation(people)], first


@pytest.mark.parametrize(("common", "least"), [(True, 0.99), (False, 0.7)])
def test_an_alignment_that_exists_is_found_without_pairs(common: bool, least: float) -> None:
    """The power of the attack on embeddings: with the same photographs on both sides, and with other people."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        first, second, truth = _clouds(300, common)
    found = aligned(first, second, 6, Rng(0))
    centred = found(first) - found.means[1], truth - truth.mean(0)
    assert float(functional.cosine_similarity(*centred).mean()) > least
    round_, other = torch.randn(2, 100, 12, generator=Rng(8).torch())
    nothing = aligned(round_, other, 12, Rng(0))
    assert abs(float(functional.cosine_similarity(nothing(round_), other).mean())) < 0.2, "nothing is found in noise"
    with pytest.raises(ValueError, match="at least 3"):
        aligned(first[:2], second, 4, Rng(0))
