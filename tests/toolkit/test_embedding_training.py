"""Training a recogniser: the loss falls, a kill costs an epoch, the phases hold, the shipped one is what it says."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support import Cli
from torch import Tensor, nn

from bench.contracts import FaceSet, Rng
from bench.errors import DataError
from bench.recognizers.compact import SHIPPED, Compact
from bench.storage.files import file_hash
from bench.toolkit.embedding_training import Recipe, train_embedding

CPU = torch.device("cpu")
QUICK = Recipe(epochs=3, head_epochs=0, batch=16, learning_rate=5e-3, warm_up=0, loss="softmax")
TINY = """
[run]
datasets = ["few"]
recognizers = ["compact"]
defenses = ["unprotected"]
attacks = []
cache = "cache"
[metrics]
lpips = false
[datasets.few]
plugin = "synthetic"
folds = 2
pairs_per_fold = 4
public = 80
[datasets.nobody]
plugin = "folder"
path = "pictures"
identities = false
aligned = true
"""


def _faces(people: int = 8, each: int = 6) -> FaceSet:
    """People are colours, images of one person noise."""
    rng = np.random.default_rng(0)
    colour = rng.integers(40, 215, (people, 1, 1, 1, 3))
    pixels = (colour + rng.normal(0, 12, (people, each, 8, 8, 3))).clip(0, 255).astype(np.uint8).reshape(-1, 8, 8, 3)
    names = tuple(f"{p}/{i}" for p in range(people) for i in range(each))
    subjects = tuple(f"person{p}" for p in range(people) for _ in range(each))
    return FaceSet(pixels, np.arange(len(names)), names, subjects, np.ones(len(names), bool))


def _module() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(72, 16))


def _same(images: Tensor) -> Tensor:
    return images


@pytest.mark.parametrize("loss", ["softmax", "softmax+triplet", "arcface", "triplet"])
def test_every_loss_falls_and_tells_unseen_people_apart(loss: str) -> None:
    recipe = replace(QUICK, epochs=8, loss=loss)  # type: ignore[arg-type]
    state = train_embedding(_module(), _same, _faces(24), recipe, Rng(1), CPU, "test")
    curve = state.info["curve"]
    assert curve[-1]["loss"] < 0.8 * curve[0]["loss"]
    assert curve[-1]["held_out_eer"] < 0.35
    assert state.info["people"] == 22, "two people are held out"


def test_with_changed_colours_a_face_keeps_its_name_in_another_tint() -> None:
    faces = _faces(24)
    images = faces.batch(slice(None))
    tinted = (images + torch.tensor([0.1, -0.1, 0.05]).reshape(1, 3, 1, 1)).clamp(0, 1)
    alike = {}
    for colour in (0.0, 0.2):
        module = _module()
        train_embedding(module, _same, faces, replace(QUICK, epochs=8, colour=colour), Rng(1), CPU, "test")
        with torch.no_grad():
            alike[colour] = float(nn.functional.cosine_similarity(module(images), module(tinted)).mean())
    assert alike[0.2] > alike[0.0] + 0.02, alike


def test_a_teacher_needs_no_identities() -> None:
    faces = replace(_faces(), subjects=None)
    teacher = _module().eval()

    def taught(images: Tensor) -> Tensor:
        with torch.no_grad():
            return nn.functional.normalize(teacher(images))

    recipe = replace(QUICK, epochs=12, loss="distill")
    torch.manual_seed(5)
    student = nn.Sequential(nn.Flatten(), nn.Linear(192, 16))
    curve = train_embedding(student, _same, faces, recipe, Rng(1), CPU, "test", teacher=taught).info["curve"]
    assert curve[-1]["held_out_cosine"] > max(0.6, curve[0]["held_out_cosine"])
    with pytest.raises(DataError, match="nobody knows who"):
        train_embedding(student, _same, faces, QUICK, Rng(1), CPU, "test")


def test_the_backbone_rests_while_the_classifier_learns() -> None:
    module = _module()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    recipe = replace(QUICK, epochs=1, head_epochs=1)
    train_embedding(module, _same, _faces(), recipe, Rng(1), CPU, "test", backbone=module)
    after = module.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "weights and batch statistics"
    train_embedding(module, _same, _faces(24), replace(recipe, epochs=8), Rng(1), CPU, "test", backbone=module)
    assert not torch.equal(before["0.weight"], module.state_dict()["0.weight"])


def test_a_killed_training_goes_on_and_ends_the_same(tmp_path: Path) -> None:
    whole = train_embedding(_module(), _same, _faces(), QUICK, Rng(1), CPU, "test")
    calls = 0

    def interrupted(images: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 12:
            raise KeyboardInterrupt
        return images

    with pytest.raises(KeyboardInterrupt):
        train_embedding(_module(), interrupted, _faces(), QUICK, Rng(1), CPU, "test", folder=tmp_path)
    resumed = train_embedding(_module(), _same, _faces(), QUICK, Rng(1), CPU, "test", folder=tmp_path)
    assert resumed.info["curve"] == whole.info["curve"]
    assert all(torch.equal(resumed.tensors[name], value) for name, value in whole.tensors.items())
    with pytest.raises(DataError, match="other settings"):
        train_embedding(_module(), _same, _faces(), replace(QUICK, margin=0.1), Rng(1), CPU, "test", folder=tmp_path)
    (tmp_path / "checkpoint.pt").write_bytes(b"damaged")
    with pytest.raises(DataError, match="damaged"):
        train_embedding(_module(), _same, _faces(), QUICK, Rng(1), CPU, "test", folder=tmp_path)


def test_the_command_trains_judges_and_says_what_it_did(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bench.toml").write_text(TINY)
    recipe = ("--recipe", "epochs=3", "--recipe", "batch=16", "--recipe", "warm_up=0")
    out = ("-o", "trained", "--json", "-q")
    done = cli("train-recognizer", "-r", "compact", "--dataset", "few", "-e", "few", *recipe, *out)
    card = json.loads(done.stdout)
    losses = [point["loss"] for point in card["training"]["curve"]]
    assert losses[-1] < losses[0]
    assert card["sha256"] == file_hash(tmp_path / "trained/weights.safetensors")
    assert card["verification"]["few"]["pairs"] == 16
    assert card["data"]["people"] == 20 and card["parameters"] > 900_000
    assert "| few | 16 |" in (tmp_path / "trained/model_card.md").read_text()
    trained = Compact(weights=str(tmp_path / "trained/weights.safetensors"))
    fresh = Compact(weights=str(SHIPPED))
    assert trained.weights_hash() != fresh.weights_hash()
    assert trained.load().embed(trained.load().extract(torch.rand(2, 3, 96, 96))).shape == (2, 128)
    # The paper's two phases, from trained weights; and a teacher's lesson.
    start = ("--init", "trained/weights.safetensors")
    tuned = cli("train-recognizer", "-r", "compact", "--dataset", "few", *start, *recipe, "-o", "tuned", "--json", "-q")
    assert json.loads(tuned.stdout)["training"]["recipe"]["head_epochs"] == 1
    lesson = ("--teacher", "compact", "--recipe", "epochs=1", "-o", "taught", "--json", "-q")
    taught = json.loads(cli("train-recognizer", "-r", "compact", "--dataset", "few", *lesson).stdout)
    assert "held_out_cosine" in taught["training"]["curve"][0]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--dataset", "few", "--folder", "pictures"), "give exactly one of"),
        ((), "give exactly one of --dataset LABEL and --folder PATH"),
        (("--folder", "nowhere"), "nowhere"),
        (("--dataset", "nobody"), "nobody knows who is on these faces"),
        (("--dataset", "few", "--init", "none.safetensors"), "none.safetensors: no such file"),
        (("--dataset", "few", "--recipe", "epoch=3"), "Did you mean 'epochs'?"),
        (("--dataset", "few", "--recipe", "epochs"), "write it as name=value"),
        (("--dataset", "few", "--teacher", "compcat"), "Did you mean 'compact'?"),
        (("--dataset", "few", "--defense", "unprotected"), "does not train its own recogniser"),
    ],
)
def test_mistakes_are_one_line(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], expected: str
) -> None:
    from PIL import Image

    monkeypatch.chdir(tmp_path)

    (tmp_path / "bench.toml").write_text(TINY.replace("public = 80", "public = 8"))
    (tmp_path / "pictures").mkdir()
    for index in range(6):
        Image.new("RGB", (40, 40), (index * 20, 90, 90)).save(tmp_path / f"pictures/{index}.png")
    done = cli("train-recognizer", "-r", "compact", *arguments, "-o", "out", "-q", status=2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr


def test_the_shipped_weights_are_those_of_their_card(tmp_path: Path) -> None:
    from bench.datasets.synthetic import Synthetic
    from bench.train_recognizer import verification

    card = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert card["sha256"] == file_hash(SHIPPED) and SHIPPED.stat().st_size < 5e6
    assert card["verification"]["synthetic-frontal"]["acc"] >= 0.97
    assert card["verification"]["synthetic-profile"]["acc"] >= 0.85
    assert card["verification"]["synthetic-age"]["acc"] >= 0.90
    compact = Compact()
    evaluation = Synthetic(folds=4, pairs_per_fold=10, public=0).load(compact.alignment, tmp_path)
    assert verification(compact.load(), evaluation, "synthetic-frontal")["acc"] >= 0.95


def test_the_shipped_weights_serve_the_papers_size_too(tmp_path: Path) -> None:
    from bench.datasets.synthetic import Synthetic
    from bench.train_recognizer import verification

    large = Compact(size=160)
    network = large.load()
    assert network.extract(torch.rand(1, 3, 160, 160)).shape == (1, 64, 77, 77)
    evaluation = Synthetic(folds=2, pairs_per_fold=10, public=0).load(large.alignment, tmp_path)
    assert verification(network, evaluation, "synthetic-frontal")["acc"] >= 0.9
    with pytest.raises(ValueError, match="at least 96"):
        Compact(size=64)


def test_weights_that_come_with_the_package_are_named_not_placed() -> None:
    from bench.storage.weights import find_weights

    assert find_weights("package:compact.safetensors", "here") == SHIPPED
    with pytest.raises(DataError, match="not a path"):
        find_weights("package:../compact.py", "here")
    with pytest.raises(DataError, match="no such file"):
        find_weights("package:none.safetensors", "here")
