"""The run's test of itself: sound attacks pass, a weakened one and a cheating one are void."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CONFIG, Cli

from bench.contracts import Knowledge, Rng, System
from bench.settings import registry
from bench.settings.controls import Canary, canaries

SELFTEST = (
    CONFIG.replace('attacks = ["mean_face", "resrec", "replay"]', 'attacks = ["mean_face", "resrec", "weak"]')
    .replace('defenses = ["unprotected", "laplace", "advface"]', 'defenses = ["unprotected", "laplace"]')
    .replace("[run]\n", "[run]\ncanaries = true\ncontrols = true\n")
    .replace("[attacks.resrec]\nwidth = 8\n", "[attacks.resrec]\nwidth = 24\ntraining = { epochs = 60, batch = 8 }\n")
    + '\n[attacks.weak]\nplugin = "resrec"\nwidth = 24\ntraining = { epochs = 1, batch = 64 }\n'
)


@pytest.fixture(scope="module")
def tested(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    folder = tmp_path_factory.mktemp("selftest")
    (folder / "bench.toml").write_text(SELFTEST)
    cli("run", cwd=folder)
    return folder


def test_one_step_of_training_is_void_and_fails_a_strict_run(tested: Path, cli: Cli) -> None:
    done = cli("run", "--strict", cwd=tested, status=1)
    assert "weak on canary~open" in " ".join(done.stderr.split())
    assert "resrec on" not in done.stderr
    text = (tested / "out" / "main" / "leaderboard.md").read_text()
    assert "FAILED: void" in text


def test_a_void_attack_counts_for_nobody(tested: Path, cli: Cli) -> None:
    rows = json.loads(cli("leaderboard", "out/main", "--format", "json", cwd=tested).stdout)
    assert {row["defense"] for row in rows} == {"unprotected", "laplace"}, "probes are not ranked"
    for row in rows:
        assert row["worst_attack"] == "resrec"
        assert "attack void: weak" in row["flags"]
        assert row["bound_ssim"] is not None


def test_controls_stand_in_a_table_of_their_own(tested: Path) -> None:
    text = (tested / "out" / "main" / "leaderboard.md").read_text()
    controls = text[text.index("### Controls") :]
    assert "another image" in controls
    assert not list((tested / "out" / "main").glob("grid_*~*")), "probes are not for show"


def test_the_broken_are_open_to_who_knows_and_the_safe_one_is_safe() -> None:
    attack = registry.make(registry.find("attack", "resrec", "t"), {}, "t")
    faced = {
        level: {k for k, c in canaries().items() if c.faces(type(attack)(knowledge=level))}  # type: ignore[attr-defined]
        for level in ("encoder", "algorithm", "enrolment")
    }
    assert faced == {
        "encoder": {"canary~open", "canary~closed"},
        "algorithm": {"canary~fixed", "canary~closed"},
        "enrolment": {"canary~secret", "canary~closed"},
    }
    guess = registry.make(registry.find("attack", "blind", "t"), {"guess": "grey"}, "t")
    assert guess.level == Knowledge.BLIND
    assert not any(c.faces(guess) for c in canaries().values())  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["fixed", "secret"])
def test_mixing_is_undone_by_who_has_the_matrix(kind: Any) -> None:
    compact = registry.make(registry.find("recognizer", "compact", "t"), {}, "t").load()
    states = [Canary(kind=kind).fit(compact, None, Rng(seed)) for seed in (1, 2)]  # type: ignore[arg-type]
    same = torch.equal(states[0].tensors["mixing"], states[1].tensors["mixing"])  # type: ignore[union-attr]
    assert same == (kind == "fixed"), "a secret is one system's own"
    canary = Canary(kind=kind)
    system = System(compact, canary, canary.prepare(compact, states[0]))
    images = torch.rand(2, 3, 96, 96, generator=Rng(0).torch())
    features = system.encode(images)
    templates = system.protect(features, Rng(0).images("ab"))
    assert (templates - features).abs().mean() > 0.1 * features.abs().mean()
    torch.testing.assert_close(system.embed(templates), compact.embed(features), atol=1e-4, rtol=1e-3)


def test_labels_of_the_harness_are_its_own(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "bench.toml").write_text(CONFIG.replace('"advface"]', '"canary~open"]', 1))
    assert "run.canaries" in " ".join(cli("config", cwd=tmp_path, status=2).stderr.split())
