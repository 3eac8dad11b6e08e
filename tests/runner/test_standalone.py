"""`veilbench protect` and `veilbench attack`: faces without a protocol."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from PIL import Image
from safetensors.numpy import load_file
from support import invoke, write_people

PEOPLE, PUBLIC = 4, 24


@pytest.fixture
def faces(config: Path) -> Path:
    """Two images each of four people, in folders, and `public` people beside them."""
    write_people(config.parent / "public", range(100, 100 + PUBLIC))
    return write_people(config.parent / "faces", range(PEOPLE))


def protect(*arguments: str, status: int = 0) -> Result:
    return invoke("protect", "faces", "--public", "public", "--quiet", *arguments, status=status)


def attack(*arguments: str, status: int = 0) -> Result:
    learned = ("--set", "training.epochs=60", "--set", "attacks.resrec.width=16")
    return invoke("attack", *arguments, "--public", "public", "--quiet", *learned, status=status)


def test_a_defence_stores_templates_and_an_attack_opens_them(faces: Path) -> None:
    """A decoder proves itself where nothing is protected, and fails where noise drowns everything."""
    scores = {}
    for name, extra in {"unprotected": (), "laplace": ("--set", "defenses.laplace.scale=20.0")}.items():
        said = json.loads(protect("-d", name, "-o", name, "--json", *extra).output)
        assert said["templates"]["shape"] == [8, 8, 12, 10] and said["defense"]["label"] == name
        assert (said["noise"]["rms"] > 5) == (name == "laplace")
        stored = np.load(f"{name}/templates.npy", allow_pickle=False)
        assert stored.shape == (8, 8, 12, 10) and np.isfinite(stored).all()
        names = pd.read_csv(f"{name}/templates.csv")["name"]
        assert list(names) == [f"p{p}/{i}.png" for p in range(PEOPLE) for i in range(2)]
        out = f"{name}-rebuilt"
        found = attack(name, "-a", "resrec", "-o", out, "--originals", "faces", "--json", *extra).output
        scores[name] = json.loads(found)["scores"]
        rebuilt = np.load(f"{out}/reconstructions.npy", allow_pickle=False)
        assert rebuilt.shape == (8, 3, 24, 20) and rebuilt.min() >= 0 and rebuilt.max() <= 1
        table = pd.read_csv(f"{out}/reconstructions.csv")
        assert table["ssim"].mean() == pytest.approx(scores[name]["ssim"]["value"])
        with Image.open(Path(out) / table["file"][3]) as picture:
            assert np.abs(np.asarray(picture) / 255 - rebuilt[3].transpose(1, 2, 0)).max() < 0.51 / 255 + 1e-6
        assert scores[name]["ssim"]["low"] <= scores[name]["ssim"]["value"] <= scores[name]["ssim"]["high"]
    assert scores["unprotected"]["ssim"]["low"] > scores["unprotected"]["blind_ssim"]["high"]
    assert scores["laplace"]["ssim"]["high"] < scores["unprotected"]["ssim"]["low"]


def test_the_same_command_gives_the_same_templates_in_either_format(faces: Path) -> None:
    protect("-d", "laplace", "-o", "one")
    protect("-d", "laplace", "-o", "two", "--format", "safetensors")
    protect("-d", "laplace", "-o", "other", "--seed", "1")
    one, other = np.load("one/templates.npy"), np.load("other/templates.npy")
    assert np.array_equal(one, load_file("two/templates.safetensors")["templates"])
    assert not np.array_equal(one, other)
    protect("-d", "laplace", "-o", "two")  # a folder never holds two sets of templates
    assert sorted(path.name for path in Path("two").glob("templates.*")) == ["templates.csv", "templates.npy"]


def test_what_a_defence_learned_serves_the_levels_that_may_use_it(faces: Path) -> None:
    """A learned defence is fitted once: an attacker who enrols meets the very system that made the templates."""
    small = ("--set", "defenses.advface.width=8", "--set", "attacks.resrec.enrolled=16")
    protect("-d", "advface", "-o", "stored", *small)
    assert (Path("stored/state") / "state.safetensors").is_file()
    for level in ("encoder", "algorithm", "enrolment"):
        done = invoke(
            "attack", "stored", "-a", f"resrec@{level}", "-o", level, "--public", "public", "-q", "--json", *small,
            "--set", "attacks.resrec.training.epochs=1", "--set", "attacks.resrec.adaptation.epochs=1",
        )  # fmt: skip
        account = json.loads(done.output)
        assert ("enrol" in account["learned_queries"]) == (level == "enrolment"), level
        assert np.load(f"{level}/reconstructions.npy").shape == (8, 3, 24, 20)


def test_mistakes_are_named(faces: Path) -> None:
    protect("-d", "laplace", "-o", "stored")

    def said(*arguments: str) -> str:
        return " ".join(attack(*arguments, "-o", "out", status=2).stderr.split())

    assert "unknown attack 'resrce'. Did you mean 'resrec'?" in said("stored", "-a", "resrce")
    assert "made with another defense" in said("stored", "-a", "resrec", "-d", "advface")
    assert "parameters.scale was 0.2 and is now 0.3" in said(
        "stored", "-a", "resrec", "--set", "defenses.laplace.scale=0.3"
    )
    assert "does not reconstruct images from templates alone" in said("stored", "-a", "gaussian_inversion")
    assert "no readable templates from veilbench protect" in said("faces", "-a", "resrec")
    assert "8 of 8 images are missing" in said("stored", "-a", "resrec", "--originals", "public")
    overlap = invoke("attack", "stored", "-a", "resrec", "--public", "faces", "-o", "out", "-q", status=2).stderr
    assert "share" in overlap and not Path("out").exists()
    assert "no such folder" in invoke("protect", "nowhere", "-d", "laplace", "-o", "out", status=2).stderr
    assert "one defence at a time" in " ".join(
        protect(
            "-d", "laplace", "-o", "out", "--set", "defenses.laplace.sweep.scale=[0.1, 0.2]", status=2
        ).stderr.split()
    )


def test_a_folder_of_templates_is_not_trusted(faces: Path) -> None:
    """It may neither choose which code is run, nor where pictures go."""
    protect("-d", "unprotected", "-o", "stored")
    account = Path("stored/protect.json")
    honest = account.read_text()
    account.write_text(honest.replace('"label": "unprotected"', '"label": "evil.py"'))
    Path("evil.py").write_text("open('ran', 'w')")
    assert "if you trust it, add --defense FILE.py" in attack("stored", "-a", "mean_face", "-o", "out", status=2).stderr
    assert not Path("ran").exists()
    account.write_text(honest)
    names = Path("stored/templates.csv")
    names.write_text(names.read_text().replace("p0/0.png", "../../escaped.png"))
    attack("stored", "-a", "mean_face", "-o", "inner/out")
    assert len(list(Path("inner/out/images").glob("*.png"))) == 8 and not list(Path().rglob("escaped.png"))
    np.save("stored/templates.npy", np.zeros((3, 8, 12, 10), dtype=np.float32))
    assert "but expected" in attack("stored", "-a", "mean_face", "-o", "out", status=2).stderr
