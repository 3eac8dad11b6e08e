"""Snap: corrects noise of few values, falls back where there is none, keeps to its level."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from support import CONFIG, TOYS, Cli
from torch import Tensor

from bench.contracts import Defense, Evaluation, ImageRng, Leak, Oracle, Rng, State, System
from bench.contracts.oracle import client_alone
from bench.errors import KnowledgeError
from bench.labels import Knowledge
from bench.settings import registry

QUICK = {"width": 24, "rounds": 6, "training": {"epochs": 40, "batch": 8}, "enrolled": 24}
ADAPTED = {**QUICK, "adaptation": {"epochs": 1, "batch": 8, "flip": False}}


@dataclass(frozen=True, kw_only=True)
class Signs(Defense):
    """Moves every entry by -size, 0 or size, by chance; or by anything as strong."""

    randomized = True
    size: float = 0.3
    few: bool = True

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        if not self.few:
            return features + 0.9 * self.size * rng.normal(features)
        return features + self.size * (rng.uniform(features, -1.25, 1.25).round())


Scene = tuple[Any, Evaluation, State]


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Scene:
    """A network, faces, and what the attack learns at level `encoder`."""
    tiny = registry.make(registry.find("recognizer", str(TOYS / "tiny.py"), "test"), {}, "test")
    blobs = registry.make(registry.find("dataset", str(TOYS / "blobs.py"), "test"), {}, "test")
    network, faces = tiny.load().requires_grad_(False), blobs.load(tiny.alignment, tmp_path_factory.mktemp("cache"))
    assert faces.public is not None
    client = System(client_alone(network), Signs())
    return network, faces, _snap().fit(Oracle(Knowledge.ENCODER, client, Rng(0)), faces.public, Rng(1))


def _snap(**parameters: Any) -> Any:
    return registry.make(registry.find("attack", "snap", "test"), {**QUICK, **parameters}, "test")


def _rebuilt(scene: Scene, attack: Any, defense: Defense) -> tuple[Tensor, Tensor, Oracle]:
    """(originals, reconstructions, the oracle)."""
    network, faces, learned = scene
    assert faces.public is not None
    system = System(network, defense)
    copy = defense.fit(client_alone(network), faces.public, Rng(2)) if attack.asks_surrogate else None
    oracle = Oracle(attack.level, system, Rng(0), surrogate=copy)
    state = learned if attack.level == Knowledge.ENCODER else attack.adapt(oracle, faces.public, Rng(1), learned)
    images = faces.test.batch(slice(0, 16))
    names = [str(i) for i in range(16)]
    stolen = system.protect(system.encode(images), Rng(9).images(names))
    made = attack.reconstruct(oracle, attack.prepare(oracle, state), Leak(stolen), Rng(3).images(names))
    return images, made, oracle


def _error(one: Tensor, two: Tensor) -> float:
    return float((one - two).square().mean())


def test_noise_of_three_values_is_found_and_taken_off(scene: Scene) -> None:
    images, made, oracle = _rebuilt(scene, _snap(), Signs())
    once_images, once, _ = _rebuilt(scene, _snap(), Signs(few=False))
    reported = oracle.reported
    assert (reported["snapped"], reported["values"]) == (1, 3)
    assert reported["spacing"] == pytest.approx(0.3, rel=0.1)
    assert reported["best_round"] >= 1
    assert _error(made, images) < 0.7 * _error(once, once_images), "as strong, but it cannot be corrected"


def test_without_few_values_the_first_guess_stands_and_says_so(scene: Scene) -> None:
    for defense in (Signs(few=False), Signs(size=0.0)):
        _, _, oracle = _rebuilt(scene, _snap(), defense)
        assert (oracle.reported["snapped"], oracle.reported["best_round"]) == (0, 0), defense


def test_at_level_encoder_only_the_client_is_asked(scene: Scene) -> None:
    _, _, oracle = _rebuilt(scene, _snap(), Signs())
    assert {name for name in oracle.queries if not name.endswith("_images")} == {"encode"}, (
        "and it learned from E alone"
    )


@pytest.mark.parametrize(
    ("knowledge", "asks", "never"), [("algorithm", "surrogate", "enrol"), ("enrolment", "enrol", "surrogate")]
)
def test_above_it_what_the_level_allows(scene: Scene, knowledge: str, asks: str, never: str) -> None:
    attack = _snap(**ADAPTED, knowledge=knowledge)
    _, _, oracle = _rebuilt(scene, attack, Signs())
    assert oracle.queries[asks] > 0 and never not in oracle.queries
    assert oracle.reported["snapped"] == 1
    low = Oracle(Knowledge.ENCODER, System(scene[0], Signs()), Rng(0))
    with pytest.raises(KnowledgeError):
        attack.adapt(low, scene[1].public, Rng(1), scene[2])


def test_all_levels_share_the_decoder_of_the_lowest() -> None:
    bases = {name: _snap(knowledge=name, rounds=3, enrolled=8).base for name in ("algorithm", "enrolment")}
    assert bases["algorithm"] == bases["enrolment"] == _snap(rounds=3, enrolled=8).base
    assert bases["algorithm"].base is None


def test_a_weakened_one_is_void(tmp_path: Path, cli: Cli) -> None:
    text = CONFIG.replace(
        'attacks = ["mean_face", "resrec", "replay"]', 'attacks = ["mean_face", "snap"]\ncanaries = true'
    )
    text = text.replace('defenses = ["unprotected", "laplace", "advface"]', 'defenses = ["unprotected"]')
    text = text.replace('[attacks.replay]\nattack = "resrec"\n', "")
    (tmp_path / "bench.toml").write_text(text + "\n[attacks.snap]\nwidth = 24\ntraining = { epochs = 1, batch = 64 }\n")
    done = cli("run", "--strict", cwd=tmp_path, status=1)
    assert "snap on canary~open" in " ".join(done.stderr.split())
