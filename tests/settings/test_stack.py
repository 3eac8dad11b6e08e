"""Stacks: what each part sees, what is stored, which parts fit, and how bench.toml names them."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import CONFIG

from bench.checks import Scene, assert_sound
from bench.contracts import Defense, Rng, System
from bench.contracts.oracle import client_alone
from bench.errors import UserError
from bench.settings.resolve import load
from bench.settings.stack import stack
from bench.toolkit.decoders import Training
from defenses.advface import AdvFace
from defenses.biohash import BioHash
from defenses.bottleneck import Bottleneck
from defenses.dropout import Dropout
from defenses.laplace import Laplace
from defenses.nopeek import NoPeek
from defenses.partialface import PartialFace

LAPLACE = Laplace(scale=0.1)
ADVFACE = AdvFace(iterations=2, width=8, batch=4, training=Training(epochs=1, images=8))
BOTTLE, NOPEEK = Bottleneck(channels=4), NoPeek(fit_steps=1, batch=4)
STACKS = {
    "advface, laplace": (ADVFACE, LAPLACE),
    "nopeek, bottleneck": (NOPEEK, BOTTLE),
    "bottleneck, dropout, laplace": (BOTTLE, Dropout(), LAPLACE),
}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(size=(32, 28), public=16)


def _stack(*parts: Defense) -> Defense:
    return stack([type(part).__name__.lower() for part in parts], parts, "test")


@pytest.mark.parametrize("parts", STACKS.values(), ids=STACKS)
def test_it_keeps_the_contract_of_a_single_defence(scene: Scene, parts: tuple[Defense, ...]) -> None:
    made = _stack(*parts)
    assert_sound(made, scene)
    unfitted = System(scene.network, made)  # all that an attacker's copy is given, where the client is the recogniser's
    assert made.has_own_client or unfitted.send(scene.images(2), Rng(0).images([*"ab"])).shape[0] == 2
    client = client_alone(scene.network)
    copy = made.fit(client, scene.public, Rng(1))
    system = System(client, made, made.prepare(client, copy), templates_only=True)
    assert len(system.protect(system.encode(scene.images(4)), Rng(0).images([*"abcd"]))) == 4


def test_each_part_protects_what_the_one_before_gave(scene: Scene) -> None:
    """Noise of known strength after AdvFace, and after clients of their own."""
    names = scene.names(4)

    def templates(defense: Defense) -> torch.Tensor:
        system = scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))
        features = system.encode(scene.images(4))
        return system.protect(features, Rng(3).images(names))

    quiet = templates(_stack(ADVFACE, replace(LAPLACE, scale=1e-9)))
    noise = templates(_stack(ADVFACE, LAPLACE)) - quiet
    assert float(noise.abs().mean()) == pytest.approx(0.1, rel=0.05)
    narrow = templates(_stack(BOTTLE, LAPLACE))
    assert narrow.shape[1] == 4
    below = _stack(NOPEEK, LAPLACE)
    system = scene.system(below, below.fit(scene.network, scene.public, Rng(0)))
    alone = scene.system(NOPEEK, NOPEEK.fit(scene.network, scene.public, Rng(0).child("part", 0)))
    assert torch.equal(system.encode(scene.images(4)), alone.encode(scene.images(4)))
    wanted = alone.embed(alone.encode(scene.images(4)))
    torch.testing.assert_close(system.embed(system.encode(scene.images(4))), wanted)
    assert below.has_own_client and not below.client_side and not _stack(ADVFACE, LAPLACE).has_own_client


@pytest.mark.parametrize(
    ("parts", "why"),
    [
        ((LAPLACE, NOPEEK), "'nopeek' has a client of its own"),
        ((LAPLACE, BOTTLE), "the client's steps come first"),
        ((PartialFace(), LAPLACE), "'partialface' is random on the client"),
        ((LAPLACE, BioHash()), "'biohash' protects embeddings"),
        ((_stack(LAPLACE, LAPLACE), LAPLACE), "itself a stack"),
        ((ADVFACE, replace(ADVFACE, batch=8)), r"batches of \['4', '8'\]"),
    ],
)
def test_parts_that_do_not_fit_are_refused(parts: tuple[Defense, ...], why: str) -> None:
    with pytest.raises(UserError, match=why):
        _stack(*parts)


def test_a_stack_is_a_row_of_bench_toml(config: Path) -> None:
    text = CONFIG.replace('["unprotected", "laplace", "advface"]', '["noisy", "unprotected"]')
    section = "[defenses.noisy]\nstack = {}\n[defenses.laplace]\nsweep.scale = [0.1, 0.2]\n"
    config.write_text(text + section.format('["laplace", "advface"]'))
    settings = load(config)
    assert list(settings.defenses) == ["noisy[scale=0.1]", "noisy[scale=0.2]", "unprotected"]
    assert settings.defenses["noisy[scale=0.2]"].parts[0].scale == 0.2  # type: ignore[attr-defined]
    assert settings.defenses["noisy[scale=0.2]"].parts[1].iterations == 2  # type: ignore[attr-defined]
    for given, why in (
        ('["laplace"]', "two defences or more"),
        ('["laplace", "advfac"]', "Did you mean 'advface'"),
        ('["laplace", "advface"]\nscale = 1.0', "a stack has no parameter 'scale'"),
        ('["laplace", "noisy"]', "itself a stack"),
    ):
        config.write_text(text + section.format(given))
        with pytest.raises(UserError, match=why):
            load(config)
