"""Floors and linear optima: the nearest public face, and the most likely one under a PCA prior."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.nearest_face import NearestFace
from attacks.pca_map import PcaMap
from bench.checks import assert_sound
from bench.checks.scene import Noisy, Open, Scene
from bench.contracts import Knowledge, Leak, Oracle, ReconstructionAttack, Rng
from bench.errors import KnowledgeError
from bench.metrics.image import image_scores
from bench.settings.controls import Canary


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=120)


def _made(attack: ReconstructionAttack, scene: Scene, defense: Any, stolen: Tensor | None = None) -> Tensor:
    state = defense.fit(scene.network, scene.public, Rng(5))
    system = scene.system(defense, state)
    learned = attack.fit(Oracle(attack.level, system, Rng(0)), scene.public, Rng(0))
    with torch.no_grad():
        templates = system.protect(system.encode(scene.images()), Rng(1).images(scene.names()))
    oracle = Oracle(attack.level, system, Rng(2))
    values = templates if stolen is None else stolen
    return attack.reconstruct(oracle, attack.prepare(oracle, learned), Leak(values), Rng(3).images(scene.names()))


def _ssim(scene: Scene, images: Tensor) -> float:
    return float(np.mean(image_scores(scene.images()[: len(images)], images.clamp(0, 1))["ssim"]))


@pytest.mark.parametrize("leaks", ["template", "embedding"])
def test_a_public_face_is_its_own_nearest_and_more_of_them_blur(scene: Scene, leaks: Any) -> None:
    system = scene.system(Open())
    own = scene.public.batch(slice(0, 5))
    with torch.no_grad():
        stolen = system.encode(own)
        stolen = system.embed(stolen) if leaks == "embedding" else stolen + 0.1 * torch.randn_like(stolen)
    one = _made(NearestFace(leaks=leaks, count=1), scene, Open(), stolen)
    assert (one - own).abs().max() < 0.003
    many = _made(NearestFace(leaks=leaks), scene, Open(), stolen)
    assert many.flatten(1).std(1).mean() < one.flatten(1).std(1).mean()


def test_references_keep_the_contract_and_their_levels(scene: Scene) -> None:
    small = Scene.small((32, 32), public=24)
    for attack in (NearestFace(), NearestFace(leaks="embedding"), PcaMap(components=4)):
        assert_sound(attack, small)
    blind = Oracle(Knowledge.BLIND, scene.system(Open()), Rng(0))
    for attack in (NearestFace(), PcaMap()):
        with pytest.raises(KnowledgeError, match="encode"):
            attack.fit(blind, scene.public, Rng(0))
    with pytest.raises(KnowledgeError, match="enrol"):
        PcaMap(knowledge="enrolment").fit(Oracle(Knowledge.ENCODER, scene.system(Open()), Rng(0)), scene.public, Rng(0))


def test_no_canary_voids_a_reference() -> None:
    assert not any(Canary(kind=kind).faces(PcaMap()) for kind in ("open", "fixed", "secret", "closed", "affine"))


def test_pca_map_beats_mean_and_nearest_face_and_less_when_weakened(scene: Scene) -> None:
    mean = scene.public.batch(slice(None)).mean(0).expand_as(scene.images())
    found = {
        "map": _made(PcaMap(), scene, Open()),
        "weak": _made(PcaMap(components=2), scene, Open()),
        "nearest": _made(NearestFace(), scene, Open()),
        "mean": mean,
    }
    ssim = {name: _ssim(scene, images) for name, images in found.items()}
    assert ssim["map"] > max(ssim["weak"], ssim["nearest"], ssim["mean"]) + 0.05, ssim


def test_pca_map_through_an_affine_client_comes_near_the_projection_on_its_components(scene: Scene) -> None:
    attack = PcaMap()
    system = scene.system(Canary(kind="affine"))
    state = attack.fit(Oracle(attack.level, system, Rng(0)), scene.public, Rng(0))
    assert state is not None
    images = scene.images()
    mean, basis = state.tensors["mean"], state.tensors["basis"]
    best = (mean + (images.flatten(1) - mean) @ basis.T @ basis).reshape(images.shape)
    made = _made(attack, scene, Canary(kind="affine"))
    reached, possible, floor = (
        float((x - images).square().mean()) for x in (made, best, mean.reshape(images[0].shape))
    )
    assert possible <= reached + 1e-6 < possible + 0.15 * (floor - possible)


def test_own_templates_tell_pca_map_of_the_noise(scene: Scene) -> None:
    noisy, clean = PcaMap(knowledge="enrolment"), PcaMap()
    errors = [float((_made(a, scene, Noisy()) - scene.images()).square().mean()) for a in (noisy, clean)]
    assert errors[0] <= errors[1] * 1.02
