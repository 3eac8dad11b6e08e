"""Kernel regression: its closed forms against slow ones, and what pairs are worth."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.kernel_regression import KernelRegression, _chosen, _codes, _hashed, _kernel, _squared_distances
from bench.checks import assert_sound
from bench.checks.scene import Open, Scene
from bench.contracts import Knowledge, Leak, Oracle, Rng
from bench.errors import KnowledgeError
from bench.metrics.image import image_scores
from bench.settings.controls import Canary


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=120)


def _made(attack: KernelRegression, scene: Scene, defense: Any, shuffled: bool = False) -> float:
    """The mean SSIM on the test images."""
    system = scene.system(defense, defense.fit(scene.network, scene.public, Rng(5)))
    state = attack.fit(Oracle(attack.level, system, Rng(0)), scene.public, Rng(0))
    if shuffled:
        order = torch.randperm(len(state.tensors["faces"]), generator=Rng(9).torch())
        state = replace(state, tensors={**state.tensors, "faces": state.tensors["faces"][order]})
    oracle = Oracle(attack.level, system, Rng(2))
    with torch.no_grad():
        stolen = system.protect(system.encode(scene.images()), Rng(1).images(scene.names()))
        stolen = system.embed(stolen) if attack.leaks == "embedding" else stolen
    made = attack.reconstruct(oracle, attack.prepare(oracle, state), Leak(stolen), Rng(3).images(scene.names()))
    return float(np.mean(image_scores(scene.images(), made.clamp(0, 1))["ssim"]))


def test_pairs_teach_it_and_shuffled_pairs_do_not(scene: Scene) -> None:
    mean = scene.public.batch(slice(None)).mean(0).expand_as(scene.images())
    floor = float(np.mean(image_scores(scene.images(), mean)["ssim"]))
    for attack in (KernelRegression(), KernelRegression(kernel="linear"), KernelRegression(leaks="embedding")):
        found, blind = _made(attack, scene, Open()), _made(attack, scene, Open(), shuffled=True)
        assert found > floor + 0.1, attack
        assert blind < floor + 0.02, attack
    assert _made(KernelRegression(), scene, Open()) > _made(KernelRegression(faces=12), scene, Open())


def test_enrolment_opens_a_secret_that_the_client_does_not_tell(scene: Scene) -> None:
    open_ = _made(KernelRegression(), scene, Canary(kind="open"))
    enrolled = _made(KernelRegression(knowledge="enrolment"), scene, Canary(kind="secret"))
    assert enrolled == pytest.approx(open_, abs=0.02)
    assert _made(KernelRegression(), scene, Canary(kind="secret")) < open_ - 0.1


def test_it_keeps_the_contract_and_its_levels(scene: Scene) -> None:
    small = Scene.small((32, 32), public=24)
    for attack in (KernelRegression(), KernelRegression(knowledge="enrolment"), KernelRegression(leaks="embedding")):
        assert_sound(attack, small)
    below = Oracle(Knowledge.ENCODER, scene.system(Open()), Rng(0))
    with pytest.raises(KnowledgeError, match="needs level"):
        KernelRegression(knowledge="enrolment").fit(below, scene.public, Rng(0))
    assert KernelRegression(leaks="embedding").level == Knowledge.ENROLMENT
    with pytest.raises(ValueError, match="at least 4"):
        KernelRegression(faces=3)


def _pairs(people: int, seed: int) -> tuple[Tensor, Tensor, list[str]]:
    """Templates (N, 12), faces (N, 3, 4, 4), and who is on them: two or three images each."""
    generator = Rng(seed).torch()
    owners = [f"p{person}" for person in range(people) for _ in range(2 + person % 2)]
    templates = torch.randn(len(owners), 12, generator=generator)
    mix = torch.randn(12, 48, generator=generator)
    faces = (templates @ mix / 20 + 0.5).clamp(0, 1).reshape(-1, 3, 4, 4)
    return templates - templates.mean(0), (faces * 255).round().to(torch.uint8), owners


@pytest.mark.parametrize("kind", ["rbf", "linear"])
def test_the_error_on_people_left_out_is_that_of_solving_again_without_them(kind: str) -> None:
    templates, faces, owners = _pairs(9, 0)
    codes = _codes(faces)
    chosen = _chosen(kind, templates, _squared_distances(templates, templates), codes, owners)
    kernel = _kernel(kind, templates, templates, chosen["gamma"]).double().numpy()
    slow = 0.0
    for person in set(owners):
        out = np.array([owner == person for owner in owners])
        among = kernel[np.ix_(~out, ~out)] + chosen["lambda"] * np.eye((~out).sum())
        guess = kernel[np.ix_(out, ~out)] @ np.linalg.solve(among, codes[~out])
        slow += float(np.square(codes[out] - guess).sum())
    assert chosen["left_out_mse"] == pytest.approx(slow / len(codes), rel=1e-3)


def test_the_linear_kernel_is_ridge_regression(scene: Scene) -> None:
    attack, system = KernelRegression(kernel="linear", leaks="embedding"), scene.system(Open())
    oracle = Oracle(attack.level, system, Rng(0))
    state = attack.fit(oracle, scene.public, Rng(0))
    ready = attack.prepare(oracle, state)
    known, pixels = ready["templates"].double(), ready["pixels"].double()
    penalty = state.info["lambda"] * torch.eye(known.shape[1], dtype=torch.float64)
    slopes = torch.linalg.solve(known.T @ known + penalty, known.T @ pixels)
    with torch.no_grad():
        stolen = system.embed(system.encode(scene.images()))
    wanted = ready["mean"] + (stolen - ready["centre"]).double() @ slopes
    made = attack.reconstruct(oracle, ready, Leak(stolen), Rng(3).images(scene.names()))
    assert torch.allclose(made.flatten(1).double(), wanted, atol=5e-3)


def test_hashing_keeps_inner_products() -> None:
    values = torch.randn(6, 40_000, generator=Rng(0).torch())
    values[1] = values[0] + 0.5 * values[1]
    exact, hashed = values @ values.T, _hashed(values) @ _hashed(values).T
    scale = exact.diagonal().sqrt()
    assert ((exact - hashed) / (scale[:, None] * scale)).abs().max() < 0.04
    assert torch.equal(_hashed(values[:, :500]), values[:, :500])
