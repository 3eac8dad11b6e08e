"""Faces from embeddings: what the decoder learns, asks and costs."""

import numpy as np
import pytest
import torch

from attacks.embedding_decoder import EmbeddingDecoder, EmbeddingTraining, _decoder, _ssim
from bench.checks.scene import Open, Scene
from bench.contracts import Knowledge, Leak, Oracle, Rng
from bench.errors import KnowledgeError
from bench.metrics.image import image_scores


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=80)


def _made(attack: EmbeddingDecoder, scene: Scene) -> tuple[torch.Tensor, torch.Tensor, Oracle, dict[str, object]]:
    """(images of six faces, the faces, the oracle of the attack, the account of the training)."""
    system = scene.system(Open())
    state = attack.fit(Oracle(attack.level, system, Rng(0)), scene.public, Rng(0))
    originals = scene.images()
    with torch.no_grad():
        stolen = system.embed(system.encode(originals))
    oracle = Oracle(attack.level, system, Rng(1))
    images = attack.reconstruct(oracle, attack.prepare(oracle, state), Leak(stolen), Rng(0).images(scene.names()))
    return images, originals, oracle, dict(state.info)


def test_it_rebuilds_whose_embedding_it_is_and_less_when_weakened(scene: Scene) -> None:
    images, originals, oracle, info = _made(
        EmbeddingDecoder(width=32, recipe=EmbeddingTraining(epochs=16, batch=8)), scene
    )
    weak, *_ = _made(EmbeddingDecoder(width=32, recipe=EmbeddingTraining(epochs=1, learning_rate=1e-9)), scene)
    strangers = originals.roll(2, 0)  # two images of a person stand side by side
    own, others, least = (
        np.mean(image_scores(real, made.clamp(0, 1))["mae"])
        for real, made in ((originals, images), (strangers, images), (originals, weak))
    )
    assert own < 0.95 * others, "more like its own face than like another"
    assert own < least
    assert not any(name.startswith("embed") for name in oracle.queries), "no query at the moment of attack"
    assert info["train_s"] > 0  # type: ignore[operator]
    assert len(info["curve_held_out_l1"]) == 16  # type: ignore[arg-type]


def test_who_may_not_log_in_cannot_train_it(scene: Scene) -> None:
    oracle = Oracle(Knowledge.ALGORITHM, scene.system(Open()), Rng(0))
    with pytest.raises(KnowledgeError, match="embed"):
        EmbeddingDecoder().fit(oracle, scene.public, Rng(0))


@pytest.mark.parametrize("size", [(96, 96), (112, 96), (160, 160)])
def test_it_has_one_to_two_million_parameters_where_images_are_small(size: tuple[int, int]) -> None:
    decoder = _decoder(128, 256, size)
    count = sum(p.numel() for p in decoder.parameters())
    assert 1e6 < count < (2e6 if size[0] < 160 else 5e6)
    with torch.no_grad():
        assert decoder.eval()(torch.randn(2, 128)).shape == (2, 3, *size)


def test_its_ssim_is_nearly_the_judged_one() -> None:
    source = torch.Generator().manual_seed(0)
    one = torch.rand(2, 3, 32, 32, generator=source)
    other = (one + 0.2 * torch.randn(one.shape, generator=source)).clamp(0, 1)
    assert float(_ssim(one, other)) == pytest.approx(float(image_scores(one, other)["ssim"].mean()), abs=0.01)
