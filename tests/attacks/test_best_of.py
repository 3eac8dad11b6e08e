"""The choice among several attacks: right for each image, allowed at its level, nothing trained twice."""

import json
from pathlib import Path

import pytest
import torch
from support import CONFIG, Cli

from attacks.best_of import BestOf
from bench.checks import assert_sound
from bench.checks.scene import Open, Scene
from bench.contracts import Leak, Oracle, Rng
from bench.errors import KnowledgeError
from bench.labels import Knowledge

TOML = CONFIG.replace(
    'attacks = ["mean_face", "resrec", "replay"]', 'attacks = ["mean_face", "resrec", "urec", "best"]\nreplay = true'
).replace('"laplace", "advface"]', '"laplace"]')
BEST = '[attacks.urec]\nwidth = 8\n\n[attacks.best]\nplugin = "best_of"\nattacks = ["urec", "resrec"]\n'


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=16)


def test_each_image_gets_the_guess_whose_features_are_nearest(scene: Scene) -> None:
    system, images, names = scene.system(Open()), scene.images(), scene.names()
    source = torch.Generator().manual_seed(0)
    slight, rough = ((images + size * torch.randn(images.shape, generator=source)).clamp(0, 1) for size in (0.05, 0.2))
    even = (torch.arange(len(images)) % 2 == 0)[:, None, None, None]
    guesses = torch.where(even, slight, rough), torch.where(even, rough, slight)
    oracle = Oracle(Knowledge.ENCODER, system, Rng(0))
    with torch.no_grad():
        stolen = system.encode(images)
    made = BestOf(attacks=("one", "other")).reconstruct(
        oracle, None, Leak(stolen, guesses=guesses), Rng(0).images(names)
    )
    assert torch.equal(made, slight)
    assert oracle.reported["chose_one"] == oracle.reported["chose_other"] == 0.5
    assert oracle.queries["encode_images"] == 2 * len(images)


def test_it_keeps_the_contract_and_its_level(scene: Scene) -> None:
    assert_sound(BestOf(), scene)
    blind = Oracle(Knowledge.BLIND, scene.system(Open()), Rng(0))
    guesses = (scene.images(), scene.images())
    with pytest.raises(KnowledgeError, match="encode"):
        BestOf().reconstruct(blind, None, Leak(torch.zeros(1), guesses=guesses), Rng(0).images(scene.names()))


def test_its_parts_are_trained_once_and_their_results_are_shared(config: Path, cli: Cli, tmp_path: Path) -> None:
    config.write_text(TOML + BEST)
    cli("run", "--quiet")
    trained = [p for p in (tmp_path / "store" / "attack_state").iterdir() if list(p.glob("*.safetensors"))]
    assert len(trained) == 3, "the mean face and two decoders"
    found = {}
    for path in (tmp_path / "out/main/records").glob("reconstruction--*.json"):
        record = json.loads(path.read_text())
        found[record["cell"]["defense"], record["cell"]["attack"]] = record
    for defense in ("unprotected", "laplace"):
        best = found[defense, "best"]
        made = best["info"]["reconstruction"] if "reconstruction" in best["info"] else best["info"]
        assert made["chose_urec"] + made["chose_resrec"] == pytest.approx(1)
        scores = [found[defense, name]["metrics"]["ssim"]["value"] for name in ("resrec", "urec")]
        assert best["metrics"]["ssim"]["value"] >= min(scores)
    assert list((tmp_path / "out/main/records").glob("replay--*best*.json"))


def test_a_weakened_one_is_void(config: Path, cli: Cli) -> None:
    """Where its parts have learned nothing, the better of them is no better than a blind guess."""
    text = TOML.replace("\nreplay = true", "\ncanaries = true").replace('["unprotected", "laplace"]', '["unprotected"]')
    text = text.replace("[training]\nepochs = 2", "[training]\nepochs = 1\nbatch = 64")
    config.write_text(text.replace('[attacks.replay]\nattack = "resrec"\n', "") + BEST)
    done = cli("run", "--strict", status=1)
    assert "best on canary~open" in " ".join(done.stderr.split())


@pytest.mark.parametrize(
    ("attacks", "said"),
    [
        ('["urec", "resrce"]', "Did you mean 'resrec'"),
        ('["urec", "resrec@enrolment"]', "best@enrolment"),
        ('["urec", "best"]', "by itself"),
        ('["urec"]', "at least two"),
    ],
)
def test_parts_that_cannot_be_are_refused(config: Path, cli: Cli, attacks: str, said: str) -> None:
    text = TOML.replace('"urec", "best"]', '"urec", "resrec@enrolment", "best"]')
    config.write_text(text + BEST.replace('["urec", "resrec"]', attacks))
    assert said in " ".join(cli("config", status=2).stderr.split())
