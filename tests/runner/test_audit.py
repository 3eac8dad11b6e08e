"""`veilbench audit`: what a dump of templates promises, and what is true."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from click.testing import Result
from safetensors.numpy import save_file
from support import invoke, write_people

PEOPLE, PUBLIC = 6, 60


@pytest.fixture
def faces(config: Path) -> Path:
    """Two images each of six people, and sixty others."""
    write_people(config.parent / "public", range(100, 100 + PUBLIC))
    return write_people(config.parent / "faces", range(PEOPLE))


def audit(*arguments: str, status: int = 0, epochs: int = 40) -> Result:
    learned = ("--set", f"training.epochs={epochs}", "--set", "attacks.resrec.width=16")
    options = ("-r", "tiny", "--public", "public", "-q", "-o", "out", *learned)
    return invoke("audit", *arguments, *options, status=status)


def stored(name: str, *extra: str) -> np.ndarray:
    invoke("protect", "faces", "-d", name, "--public", "public", "-q", "-o", f"stored-{name}", *extra)
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


SNAP = ("--set", "attacks.snap.width=8", "--set", "attacks.snap.rounds=2", "--set", "attacks.snap.enrolled=16",
        "--set", "attacks.snap.adaptation.epochs=1")  # fmt: skip


def test_every_level_is_audited_by_attacks_on_the_whole_dump(faces: Path) -> None:
    """Those that estimate the noise from all templates, and a search that takes few of them."""
    np.save("dump.npy", stored("advface"))
    search = ("images=3", "iterations=2", "tried=2", "measured=4")
    small = (*SNAP, *(part for value in search for part in ("--set", f"attacks.snap.{value}")))
    for level, label in (("encoder", "snap"), ("enrolment", "snap@enrolment"), ("whitebox", "snap@whitebox")):
        done = audit(
            "dump.npy",
            "-d",
            "advface",
            "--level",
            level,
            "-a",
            label,
            "--originals",
            "faces",
            "--json",
            *small,
            epochs=1,
        )
        account = json.loads(done.output)
        found = account["attacks"][label]
        attacked = 3 if level == "whitebox" else 12
        assert account["level"] == level and account["system"] == "simulated"
        assert found["dump"]["images"] == found["true"]["ssim"]["n"] == found["promised"]["images"] == attacked
        assert "snapped" in found["dump"]["attack"] and "snapped" in found["promised"]["attack"]
        assert len(pd.read_csv("out/reconstructions.csv")) == attacked
        page = " ".join(Path("out/index.html").read_text().split())
        assert "so a system like it was fitted on public faces" in page
        assert ("The promise is for an attacker who has the very system" in page) == (level != "encoder")
        assert ("3 of 12 templates" in page) == (level == "whitebox")


def test_what_the_defence_learned_is_used_where_it_is_stored(faces: Path) -> None:
    """A folder of `veilbench protect` has the very system; with other settings it is told, and not used."""
    stored("advface", "--seed", "5", "--set", "training.epochs=1")
    known = ("-d", "advface", "--level", "enrolment", "-a", "mine", "--set", 'attacks.mine.plugin="resrec"', "--set",
             'attacks.mine.knowledge="enrolment"', "--set", "attacks.mine.adaptation.epochs=1", "--set",
             "attacks.mine.width=8", "--json")  # fmt: skip
    own = json.loads(audit("stored-advface", *known, epochs=1).output)
    assert own["system"] == "as stored" and own["findings"] == []
    bare = json.loads(audit("stored-advface/templates.npy", *known, epochs=1).output)
    assert bare["system"] == "simulated"
    assert bare["attacks"]["mine"]["promised"]["ssim"] != own["attacks"]["mine"]["promised"]["ssim"]
    other = json.loads(audit("stored-advface", *known, "--set", "defenses.advface.epsilon=0.3", epochs=1).output)
    assert other["system"] == "simulated" and "epsilon was 0.2 and is now 0.3" in other["findings"][0]
    blind = audit("stored-advface", "-a", "resrec", "--set", "attacks.resrec.width=8", epochs=1).output
    assert "doubt: protect.json says that the defence is 'advface', and 'unprotected' is audited" in blind


def test_the_profile_audit_chooses_the_attacks_and_level_blind_is_refused(faces: Path) -> None:
    np.save("dump.npy", stored("unprotected"))
    text = Path("bench.toml").read_text()
    Path("bench.toml").write_text(f'{text}\n[profile.audit.run]\nattacks = ["snap"]\n')
    assert list(json.loads(audit("dump.npy", "--json", *SNAP, epochs=1).output)["attacks"]) == ["snap"]
    assert "'blind' is not one of" in audit("dump.npy", "--level", "blind", status=2).stderr
    assert "Level blind is refused" in invoke("audit", "--help").output


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
