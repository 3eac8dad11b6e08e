"""Faces from embeddings: what the decoder learns, asks and costs."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from attacks.embedding_decoder import EmbeddingDecoder, EmbeddingTraining, _people, _ssim
from bench.checks.scene import Open, Scene
from bench.contracts import Knowledge, Leak, Oracle, Rng
from bench.errors import KnowledgeError, NotApplicable
from bench.metrics.image import image_scores


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=80)


def _made(attack: EmbeddingDecoder, scene: Scene) -> tuple[Tensor, Oracle, dict[str, Any]]:
    """(reconstructions of the scene's faces, the oracle of the attack, the log of the training)."""
    system = scene.system(Open())
    learning = Oracle(attack.level, system, Rng(0))
    state = (attack.base or attack).fit(learning, scene.public, Rng(0))  # type: ignore[union-attr]
    assert state is not None
    with torch.no_grad():
        stolen = system.embed(system.encode(scene.images()))
    oracle = Oracle(attack.level, system, Rng(1))
    images = attack.reconstruct(oracle, attack.prepare(oracle, state), Leak(stolen), Rng(0).images(scene.names()))
    return images, oracle, {**state.info, **learning.queries}


def _cosine(scene: Scene, images: Tensor) -> float:
    system = scene.system(Open())
    with torch.no_grad():
        one, other = (system.embed(system.encode(some)) for some in (images, scene.images()))
    return float((one * other).sum(1).mean())


def test_it_beats_the_mean_face_and_itself_without_training(scene: Scene) -> None:
    images, oracle, info = _made(EmbeddingDecoder(recipe=EmbeddingTraining(epochs=4, batch=8)), scene)
    plain, *_ = _made(EmbeddingDecoder(recipe=EmbeddingTraining(epochs=0)), scene)
    real, mean = scene.images(), scene.public.batch(slice(None)).mean(0).expand_as(scene.images())
    ssim = {
        name: float(np.mean(image_scores(real, some)["ssim"]))
        for name, some in {"own": images, "plain": plain.clamp(0, 1), "mean": mean}.items()
    }
    assert ssim["own"] > ssim["mean"] and ssim["own"] > ssim["plain"], ssim
    assert _cosine(scene, images) > _cosine(scene, mean) + 0.1
    assert not any(name.startswith("embed") for name in oracle.queries), "no query during the attack"
    assert len(info["curve_held_out_loss"]) == 5
    assert info["curve_held_out_loss"][-1] < info["curve_held_out_loss"][0]


def test_rounds_of_queries_raise_the_cosine(scene: Scene) -> None:
    recipe = EmbeddingTraining(epochs=0)
    plain, *_ = _made(EmbeddingDecoder(recipe=recipe), scene)
    asked, oracle, _ = _made(EmbeddingDecoder(recipe=recipe, rounds=3), scene)
    assert _cosine(scene, asked) > _cosine(scene, plain) + 0.02
    assert oracle.queries["embed_images"] == 4 * len(asked)
    assert oracle.reported["queries_per_target"] == 4
    assert oracle.reported["cosine"] == pytest.approx(_cosine(scene, asked), abs=1e-3)


def test_each_public_face_is_embedded_twice_in_training(scene: Scene) -> None:
    *_, info = _made(EmbeddingDecoder(recipe=EmbeddingTraining(epochs=1)), scene)
    held = len(scene.public) - info["images"]
    assert info["embed_images"] == 2 * info["images"] + held * (1 + 5), "five penalties are compared"


def test_only_an_attacker_who_may_log_in_can_train_it(scene: Scene) -> None:
    oracle = Oracle(Knowledge.ALGORITHM, scene.system(Open()), Rng(0))
    with pytest.raises(KnowledgeError, match="embed"):
        EmbeddingDecoder().fit(oracle, scene.public, Rng(0))


def test_its_ssim_is_nearly_the_metric() -> None:
    source = torch.Generator().manual_seed(0)
    one = torch.rand(2, 3, 32, 32, generator=source)
    other = (one + 0.2 * torch.randn(one.shape, generator=source)).clamp(0, 1)
    assert float(_ssim(one, other)) == pytest.approx(float(image_scores(one, other)["ssim"].mean()), abs=0.01)


def test_the_person_is_the_mean_of_their_photographs(scene: Scene) -> None:
    drawn = _people(scene.public)
    assert drawn.names == scene.public.names
    own = [i for i, who in enumerate(scene.public.subjects or ()) if who == (scene.public.subjects or ())[0]]
    wanted = scene.public.batch(own).mean(0)
    assert len(own) > 1
    for place in own:
        assert torch.allclose(drawn.batch([place])[0], wanted, atol=1 / 255)
    recipe = EmbeddingTraining(epochs=0)
    person, *_ = _made(EmbeddingDecoder(recipe=recipe, target="person"), scene)
    photograph, *_ = _made(EmbeddingDecoder(recipe=recipe), scene)
    assert float(person.var(0).mean()) < float(photograph.var(0).mean()), "what changes between photographs is left out"
    with pytest.raises(NotApplicable, match="no two public faces"):
        _people(replace(scene.public, subjects=None))
