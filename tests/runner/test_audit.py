"""`veilbench audit`: what a dump of templates promises, and what is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.numpy import save_file
from toys.blobs import draw

from bench.cli import main

PEOPLE, PUBLIC = 6, 60


@pytest.fixture
def faces(config: Path) -> Path:
    """Two images each of six people, and sixty others."""
    for place, people in (("faces", range(PEOPLE)), ("public", range(100, 100 + PUBLIC))):
        for person in people:
            for image in range(2):
                path = config.parent / place / f"p{person}" / f"{image}.png"
                path.parent.mkdir(parents=True, exist_ok=True)
                Image.fromarray(draw(person, image, (24, 20))).save(path)
    return config.parent / "faces"


def call(*arguments: str, status: int = 0) -> Result:
    done = CliRunner().invoke(main, [*arguments])
    assert done.exit_code == status, f"{done.output}\n{done.exception!r}"
    return done


def audit(*arguments: str, status: int = 0, epochs: int = 40) -> Result:
    learned = ("--set", f"training.epochs={epochs}", "--set", "attacks.resrec.width=16")
    options = ("-r", "tiny", "--public", "public", "-q", "-o", "out", *learned)
    return call("audit", *arguments, *options, status=status)


def stored(name: str, *extra: str) -> np.ndarray:
    call("protect", "faces", "-d", name, "--public", "public", "-q", "-o", f"stored-{name}", *extra)
    return np.load(f"stored-{name}/templates.npy")


def test_what_is_promised_is_true(faces: Path) -> None:
    """The promise from public faces covers the true figure, from a bare file of templates."""
    templates = stored("unprotected")
    np.save("dump.npy", templates)
    account = json.loads(audit("dump.npy", "--originals", "faces", "--json").output)
    found = account["attacks"][account["best"]]
    promised, true = found["promised"]["ssim"], found["true"]["ssim"]
    assert promised["low"] > found["promised"]["blind_ssim"]["high"]
    assert abs(promised["value"] - true["value"]) < 0.1 and true["n"] == 12
    assert account["findings"] == [] and account["level"] == "encoder"
    table = pd.read_csv("out/reconstructions.csv")
    assert table["ssim"].mean() == pytest.approx(true["value"])
    assert len(list(Path("out/images").glob("*.png"))) == 12
    page = Path("out/index.html").read_text()
    assert f"{promised['value']:.3f}" in page and f"{true['value']:.3f}" in page and "rebuilt from the dump" in page
    save_file({"features": templates}, "dump.safetensors")
    blind = json.loads(audit("dump.safetensors", "--json").output)
    assert blind["attacks"]["resrec"]["promised"]["ssim"] == pytest.approx(promised)
    assert "true" not in blind["attacks"]["resrec"]


def test_a_defence_is_attacked_at_the_level_of_who_knows_it(faces: Path) -> None:
    stored("advface")
    small = ("--set", 'run.attacks=["mean_face", "resrec", "resrec@algorithm", "replay"]', "--set",
             "attacks.resrec.adaptation.epochs=2")  # fmt: skip
    known = json.loads(audit("stored-advface/templates.npy", "-d", "advface", *small, "--json", epochs=2).output)
    assert known["level"] == "algorithm" and list(known["attacks"]) == ["resrec@algorithm"]
    assert known["public_faces"]["held_out"] == 12
    said = audit("stored-advface", "-d", "advface", "--level", "encoder", *small, epochs=2).output
    assert "resrec: SSIM promised" in said and "best on held-out public faces: resrec" in said


def test_templates_of_something_else_are_told(faces: Path) -> None:
    templates = stored("unprotected")

    def said(array: np.ndarray, status: int = 2, *extra: str) -> str:
        np.save("odd.npy", array)
        done = audit("odd.npy", *extra, status=status, epochs=1)
        return " ".join((done.output if status == 0 else done.stderr).split())

    assert "cannot be this client's: they are 4 x 12 x 10, and 'tiny' under 'unprotected' stores 8 x 12 x 10" in said(
        templates[:, :4]
    )
    assert "with channels last: transpose them" in said(templates.transpose(0, 2, 3, 1))
    assert "no finite numbers" in said(np.where(templates > 0, np.nan, templates))
    assert "holds (12, 960), where templates (N, C, h, w) are wanted" in said(templates.reshape(12, -1))
    shifted = said(3 + 5 * templates, 0)
    assert "doubt: the channels' means differ" in shifted and "these are hardly templates of this client" in shifted
    assert "doubt" not in said(templates, 0)
    assert "none of the attacks runs at level algorithm on single templates" in said(
        templates, 2, "--level", "algorithm"
    )
    Path("odd.npy").write_bytes(b"\x80\x04pickle")
    assert "not a readable .npy" in " ".join(audit("odd.npy", status=2).stderr.split())
    assert "cannot be read" in " ".join(audit("gone.npy", status=2).stderr.split())
    np.save("few.npy", templates[:3])
    assert "12 faces for 3 templates" in audit("few.npy", "--originals", "faces", status=2).stderr
