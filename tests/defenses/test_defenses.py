"""Defences do what their papers say, measured from outside."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from support import TOYS
from torch import Tensor

from bench.contracts import Defense, FaceSet, Rng, SplitNetwork, System
from bench.settings import registry


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> tuple[SplitNetwork, FaceSet]:
    recognizer = registry.make(registry.find("recognizer", str(TOYS / "tiny.py"), "test"), {}, "test")
    dataset = registry.make(registry.find("dataset", str(TOYS / "blobs.py"), "test"), {}, "test")
    public = dataset.load(recognizer.alignment, tmp_path_factory.mktemp("cache")).public
    return recognizer.load().requires_grad_(False), public


def _system(scene: tuple[SplitNetwork, FaceSet], name: str, **parameters: Any) -> System:
    network, public = scene
    plugin: Defense = registry.make(registry.find("defense", name, "test"), parameters, "test")
    system = System(network, plugin, plugin.prepare(network, plugin.fit(network, public, Rng(0))))
    trained = plugin.fit_server(system, public, Rng(0))
    return replace(system, server=plugin.prepare_server(network, trained))


def _protect(system: System, images: Tensor, seed: int = 0, batch: int = 99) -> tuple[Tensor, Tensor]:
    features = system.encode(images)
    names = [f"image{i}" for i in range(len(images))]
    parts = [
        system.protect(features[i : i + batch], Rng(seed).images(names[i : i + batch]))
        for i in range(0, len(images), batch)
    ]
    return features, torch.cat(parts)


SMALL = {"iterations": 3, "width": 8, "training": {"epochs": 2, "batch": 8}}
EVERY: list[tuple[str, dict[str, Any]]] = [
    ("unprotected", {}),
    ("random_noise", {}),
    ("random_noise", {"form": "total", "units": "std"}),
    ("laplace", {}),
    ("laplace", {"convention": "minmax"}),
    ("laplace", {"convention": "channel"}),
    ("laplace", {"convention": "clipped"}),
    ("advface", SMALL),
    ("advface", {**SMALL, "bn": "frozen", "units": "std", "bound": "step"}),
    ("advface", {**SMALL, "amplitudes": "drawn"}),
    ("advface", {**SMALL, "mode": "offline", "recipe": {"epochs": 1}}),
    ("duetface", {"recipe": {"epochs": 1}}),
    ("duetface", {"upsample": 1, "recipe": {"epochs": 1}}),
]


@pytest.mark.parametrize(("name", "parameters"), EVERY, ids=[f"{n} {list(p.values())}"[:50] for n, p in EVERY])
def test_the_contract(scene: tuple[SplitNetwork, FaceSet], name: str, parameters: dict[str, Any]) -> None:
    system = _system(scene, name, **parameters)
    images = scene[1].batch(slice(0, 6))
    weights = {key: value.clone() for key, value in scene[0].state_dict().items()}
    features, templates = _protect(system, images)
    kept = features.clone()
    assert templates.shape == features.shape
    assert templates.dtype == torch.float32
    assert bool(torch.isfinite(templates).all())
    assert torch.equal(features, kept), "the input is not changed"
    assert all(torch.equal(value, weights[key]) for key, value in scene[0].state_dict().items())
    assert torch.equal(templates, _protect(system, images)[1]), "same seed, same template"
    assert system.defense.randomized == (not torch.equal(templates, _protect(system, images, seed=1)[1]))
    one_by_one = _protect(system, images, batch=1)[1]
    coupled = not torch.allclose(templates, one_by_one, atol=1e-4)
    assert coupled == (system.defense.protect_batch is not None)
    embeddings = system.embed(templates)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(6), atol=1e-5)


def test_the_walk_grows_with_its_steps_and_the_total_bound_does_not(scene: tuple[SplitNetwork, FaceSet]) -> None:
    images = scene[1].batch(slice(0, 40))
    for steps in (1, 40):
        features, templates = _protect(_system(scene, "random_noise", steps=steps), images)
        assert float((templates - features).std()) == pytest.approx(0.2 * (steps / 3) ** 0.5, rel=0.03)
    features, templates = _protect(_system(scene, "random_noise", form="total"), images)
    assert float((templates - features).abs().max()) <= 0.2 + 1e-6


def test_laplace_scales_are_what_their_names_say(scene: tuple[SplitNetwork, FaceSet]) -> None:
    images = scene[1].batch(slice(0, 40))

    def scale(**parameters: Any) -> float:
        system = _system(scene, "laplace", **parameters)
        features, templates = _protect(system, images)
        return float((templates - system.defense.reference(system, features)).abs().mean())

    features = scene[0].extract(images)
    spans = features.amax((1, 2, 3)) - features.amin((1, 2, 3))
    assert scale() == pytest.approx(0.2, rel=0.03)
    assert scale(convention="minmax", budget=2.0) == pytest.approx(float(spans.mean()) / 2, rel=0.03)
    assert scale(convention="clipped", radius=50.0, budget=4.0) == pytest.approx(25.0, rel=0.03)


def test_only_clipped_features_earn_the_word_epsilon(scene: tuple[SplitNetwork, FaceSet]) -> None:
    clipped = _system(scene, "laplace", convention="clipped", radius=50.0)
    features = clipped.encode(scene[1].batch(slice(0, 8)))
    norms = clipped.defense.reference(clipped, features).abs().sum((1, 2, 3))
    assert float(norms.max()) <= 50.0 + 1e-3
    assert clipped.defense.claims((24, 20))["epsilon"] == 1.0
    for convention in ("fixed", "minmax", "channel"):
        assert _system(scene, "laplace", convention=convention).defense.claims((24, 20)) == {}


def test_advface_climbs_the_shadows_loss_within_its_bound(scene: tuple[SplitNetwork, FaceSet]) -> None:
    images = scene[1].batch(slice(0, 8))

    def loss(system: System, templates: Tensor, start: Tensor) -> float:
        decoder = system.state.decoder
        with torch.no_grad():
            return float((decoder(templates) - decoder(start)).abs().sum())

    losses = []
    for iterations in (1, 4, 16):
        system = _system(scene, "advface", **{**SMALL, "iterations": iterations, "alpha": 0.05})
        features, templates = _protect(system, images)
        start = system.defense.reference(system, features)
        noise = templates - start
        assert float(noise.abs().max()) <= 0.2 + 1e-5
        losses.append(loss(system, templates, start))
        random = start + 0.2 * torch.sign(torch.randn_like(start))
    assert losses[0] < losses[1] < losses[2]
    assert losses[2] > 1.2 * loss(system, random, start), "better than random signs of the largest size"


def test_eq2_bounds_the_total_and_eq6_each_step(scene: tuple[SplitNetwork, FaceSet]) -> None:
    images = scene[1].batch(slice(0, 4))
    largest = {}
    for bound in ("total", "step"):
        system = _system(scene, "advface", **{**SMALL, "iterations": 10, "bound": bound})
        features, templates = _protect(system, images)
        noise = templates - system.defense.reference(system, features)
        largest[bound] = float(noise.abs().max())
        if bound == "total":
            near = torch.stack([(noise - level).abs() for level in (-0.2, 0.0, 0.2)]).amin(0)
            assert float(near.max()) < 1e-5, "with alpha = epsilon every element is -epsilon, 0 or +epsilon"
    assert largest["total"] <= 0.2 + 1e-5
    assert 0.2 < largest["step"] <= 2.0 + 1e-5


def test_drawn_amplitudes_keep_signs_and_strength_and_have_no_alphabet(scene: tuple[SplitNetwork, FaceSet]) -> None:
    images = scene[1].batch(slice(0, 4))
    noise = {}
    for amplitudes in ("steps", "drawn"):
        system = _system(scene, "advface", **{**SMALL, "iterations": 10, "amplitudes": amplitudes})
        features, templates = _protect(system, images)
        noise[amplitudes] = templates - system.defense.reference(system, features)
    stepped, drawn = noise["steps"], noise["drawn"]
    moved = stepped.abs() > 0.1
    assert torch.equal(drawn[moved].sign(), stepped[moved].sign())
    rms = [some.flatten(1).square().mean(1).sqrt() for some in (stepped, drawn)]
    torch.testing.assert_close(rms[0], rms[1])
    assert float(drawn.abs().min()) > 0.03, "steps that cancelled are drawn too"
    assert len(drawn.unique()) > 0.9 * drawn.numel()
    assert not torch.equal(_protect(system, images)[1], _protect(system, images, 5)[1])


def test_advface_stores_shadow_features_when_it_adds_no_noise(scene: tuple[SplitNetwork, FaceSet]) -> None:
    system = _system(scene, "advface", **{**SMALL, "epsilon": 0.0})
    features, templates = _protect(system, scene[1].batch(slice(0, 4)))
    assert torch.equal(templates, system.defense.reference(system, features))
    assert not torch.allclose(templates, features, atol=1e-3)
