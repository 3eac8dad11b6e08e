"""Bad data and weights, met through the command line: one clear line, exit status 2, and what had finished is kept."""

import json
import os
import pickle
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import save_file
from support import Cli, figures
from torch import zeros

TINY = ("--set", 'run.defenses=["unprotected"]', "--set", 'run.attacks=["mean_face"]')


class _Hostile:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, ("touch owned",)


def _lfw(root: Path) -> tuple[str, ...]:
    for person, images in {"Ann": 2, "Bob": 1, "Cleo": 2, "Dan": 2}.items():
        for image in range(1, images + 1):
            path = root / person / f"{person}_{image:04d}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.effect_noise((80, 80), 60).convert("RGB").save(path)
    Path("pairs.txt").write_text("1 1\nAnn 1 2\nAnn 1 Bob 1\n")
    return (
        *("--set", 'run.datasets=["blobs","lfw"]'),
        *("--set", 'datasets.lfw.images="tree"', "--set", 'datasets.lfw.pairs="pairs.txt"'),
    )


def test_a_truncated_jpeg(config: Path, cli: Cli) -> None:
    arguments = (*_lfw(Path("tree")), *TINY)
    damaged = Path("tree/Bob/Bob_0001.jpg")
    damaged.write_bytes(damaged.read_bytes()[:300])
    said = cli("run", "-q", *arguments, status=2)
    assert "tree/Bob/Bob_0001.jpg: truncated or damaged image" in said.stderr
    assert "Traceback" not in said.stderr
    kept = figures(Path("out/main"))
    assert len(kept) == 2
    assert all("--blobs--" in name and record["status"] == "ok" for name, record in kept.items())
    Image.effect_noise((80, 80), 60).convert("RGB").save(damaged)
    # Noise shows no faces: no pair can be decided, which is the cells' own failure and not the run's.
    said = cli("run", "-q", "--json", *arguments, status=1)
    assert json.loads(said.stdout)["kept"] == 2


def test_a_missing_data_folder(config: Path, cli: Cli) -> None:
    arguments = _lfw(Path("elsewhere"))
    said = cli("run", "-q", *arguments, *TINY, status=2)
    assert "tree: no such folder of LFW images; set images and pairs of this data set" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_hostile_bin(config: Path, cli: Cli) -> None:
    Path("evil.bin").write_bytes(pickle.dumps(([_Hostile()], [True])))
    said = cli(
        *("run", "-q", "--set", 'run.datasets=["insightface"]', "--set", 'datasets.insightface.path="evil.bin"'),
        *TINY,
        status=2,
    )
    assert "evil.bin: refused: the pickle asks for 'posix.system'" in said.stderr
    assert not Path("owned").exists()


def test_weights_of_another_architecture(config: Path, cli: Cli) -> None:
    save_file({"layer.weight": zeros(2)}, "other.safetensors")
    said = cli(
        *("run", "-q", "--set", 'run.recognizers=["mobilefacenet"]'),
        *("--set", 'recognizers.mobilefacenet.weights="other.safetensors"'),
        *TINY,
        status=2,
    )
    assert "other.safetensors: these weights are for another architecture" in said.stderr
    assert "Traceback" not in said.stderr


def test_a_test_set_without_public_faces(config: Path, cli: Cli) -> None:
    images = []
    for index in range(8):
        Image.new("RGB", (64, 64), (30 * index, 255 - 30 * index, 90)).save("face.jpg", quality=95)
        images.append(Path("face.jpg").read_bytes())
    Path("set.bin").write_bytes(pickle.dumps((images, [True, False] * 2)))
    arguments = (
        *("run", "-q", "--set", 'run.datasets=["insightface"]', *TINY),
        *("--set", 'datasets.insightface={path="set.bin",folds=2,aligned=true}'),
    )
    said = cli(*arguments, status=2)
    assert "leaves no public faces" in said.stderr
    assert "run.public_defender" in said.stderr
    cli(*arguments, "--set", 'run.public_defender="blobs"', "--set", 'run.public_attacker="blobs"')
    assert {r["status"] for r in figures(Path("out/main")).values()} == {"ok"}


def test_public_faces_that_are_judged_are_refused(config: Path, cli: Cli) -> None:
    arguments = _lfw(Path("tree"))
    said = cli(
        *("run", "-q", *arguments, *TINY, "--set", 'run.datasets=["lfw"]'),
        *("--set", 'run.public_defender="folder"', "--set", 'run.public_attacker="folder"'),
        *("--set", 'datasets.folder.path="tree"', "--set", "datasets.folder.aligned=true"),
        *("--set", "datasets.folder.identities=false"),  # with names, judged people would be left out
        status=2,
    )
    assert "share" in said.stderr
    assert "the result would be invalid" in said.stderr


@pytest.mark.parametrize("command", ["run", "config", "list", "clean", "leaderboard", "heatmap", "grid"])
def test_every_command_explains_itself(config: Path, cli: Cli, command: str) -> None:
    said = cli(command, "--help").stdout
    assert len(said.splitlines()) > 3
