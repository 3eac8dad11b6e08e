"""The run that a newcomer gets: nothing downloaded, nothing configured."""

import json
from pathlib import Path

import pytest
from support import ROOT, Cli


def test_the_tiny_profile_of_the_default_run_leaves_everything(
    tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("VEILBENCH_DATA", raising=False)
    told = cli("run", "--config", str(ROOT / "bench.toml"), "--profile", "tiny", "--json")
    outcome = json.loads(told.stdout)
    assert outcome["failed"] == [] and outcome["done"] == 12
    folder = tmp_path / "results/tiny"
    for name in ("leaderboard.md", "leaderboard.csv", "leaderboard.tex", "heatmap_ssim.png", "scatter.png"):
        assert (folder / name).stat().st_size > 500, name
    assert {path.stem for path in folder.glob("grid_*.png")} == {"grid_unprotected", "grid_laplace", "grid_advface"}
    again = json.loads(cli("run", "--config", str(ROOT / "bench.toml"), "--profile", "tiny", "--json").stdout)
    assert (again["done"], again["kept"]) == (0, 12)


@pytest.mark.parametrize(
    "profile",
    [
        "",
        "quick",
        "tiny",
        "full",
        "sweep",
        "lfw",
        "lfw-full",
        "lfw-settings",
        "lfw-seeds",
        "lfw-queries",
        "lfw-transfer",
        "lfw-sweep",
        "lfw-foreign",
        "cfp",
        "paper",
    ],
)
def test_every_profile_can_be_planned(cli: Cli, profile: str, tmp_path: Path) -> None:
    chosen = ("--profile", profile) if profile else ()
    shown = cli("config", "--config", str(ROOT / "bench.toml"), "--json", *chosen, VEILBENCH_DATA=str(tmp_path))
    settings = json.loads(shown.stdout)
    assert settings["run"]["output"].startswith("results/")
    assert settings["run"]["defenses"][0] == "unprotected"
