"""`veilbench new`, and plugins that come in a package of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import CONFIG, ROOT, Cli

PACKAGE = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"
[project]
name = "veilbench-elsewhere"
version = "1.0"
[project.entry-points."veilbench.defenses"]
elsewhere = "veilbench_elsewhere:Elsewhere"
[tool.setuptools]
py-modules = ["veilbench_elsewhere"]
"""


@pytest.mark.parametrize("kind", ["defense", "attack", "dataset", "recognizer"])
def test_what_is_written_runs_at_once(kind: str, tmp_path: Path, cli: Cli) -> None:
    done = cli("new", kind, "my_own", cwd=tmp_path)
    assert "veilbench check my_own.py" in done.stdout and f"[{kind}s.my_own]" in done.stdout
    small = ["--small", "--faces", "160"] if kind in ("defense", "attack") else []
    assert json.loads(cli("check", "my_own.py", "--json", *small, cwd=tmp_path).stdout)["passed"]
    assert "there is a file already" in cli("new", kind, "my_own", cwd=tmp_path, status=2).stderr


def test_names_that_cannot_be_are_refused(tmp_path: Path, cli: Cli) -> None:
    for name in ("my-own", "class", "../up", "_private"):
        assert "cannot name a defence" in cli("new", "defense", name, cwd=tmp_path, status=2).stderr
    for kind, name in (("attack", "knowledge"), ("attack", "state"), ("dataset", "pairs"), ("recognizer", "conv")):
        assert "is a name of the contract" in cli("new", kind, name, cwd=tmp_path, status=2).stderr
    assert not list(tmp_path.rglob("*.py"))


def test_a_written_defence_and_attack_stand_on_the_leaderboard(tmp_path: Path, cli: Cli) -> None:
    cli("new", "defense", "mine", cwd=tmp_path)
    cli("new", "attack", "theirs", "--path", "plugins", cwd=tmp_path)
    config = CONFIG + '[defenses.mine]\nplugin = "mine.py"\n[attacks.theirs]\nplugin = "plugins/theirs.py"\n'
    (tmp_path / "bench.toml").write_text(
        config.replace('["unprotected", "laplace", "advface"]', '["unprotected", "mine"]').replace(
            '["mean_face", "resrec", "replay"]', '["mean_face", "theirs"]'
        )
    )
    cli("run", "--quiet", cwd=tmp_path)
    board = (tmp_path / "out/main/leaderboard.md").read_text()
    assert "| mine |" in board and "theirs" in board


def test_an_installed_package_brings_a_defence_by_its_entry_point(tmp_path: Path, cli: Cli) -> None:
    source, site = tmp_path / "package", tmp_path / "site"
    cli("new", "defense", "elsewhere", "--path", str(source))
    (source / "elsewhere.py").rename(source / "veilbench_elsewhere.py")
    (source / "pyproject.toml").write_text(PACKAGE)
    subprocess.run(
        [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index",
         "--disable-pip-version-check", "--target", str(site), str(source)],
        check=True, timeout=120,
    )  # fmt: skip
    path = os.pathsep.join([str(ROOT), str(site)])
    listed = json.loads(cli("list", "--json", PYTHONPATH=path).stdout)
    assert "elsewhere" in json.dumps(listed)
    assert "elsewhere" not in cli("list", "--json").stdout, "not where the package isn't"
    assert json.loads(cli("check", "elsewhere", "--small", "--faces", "16", "--json", PYTHONPATH=path).stdout)["passed"]
    config = CONFIG.replace('["unprotected", "laplace", "advface"]', '["elsewhere"]')
    config = config.replace('["mean_face", "resrec", "replay"]', '["mean_face"]')
    (tmp_path / "bench.toml").write_text(config)
    cli("run", "--quiet", "--set", "defenses.elsewhere.sigma=0.5", cwd=tmp_path, PYTHONPATH=path)
    (record,) = (tmp_path / "out/main/records").glob("utility*.json")
    assert json.loads(record.read_text())["parameters"]["defense"]["sigma"] == 0.5
