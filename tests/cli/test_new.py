"""`veilbench new`, and plugins that come in a package of their own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from support import CONFIG, ROOT, Cli

from bench.checks import Scene, assert_sound
from bench.cli.scaffold import scaffold
from bench.errors import UserError
from bench.labels import KINDS, PluginKind
from bench.settings import registry

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


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small()


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_written_keeps_its_contract(kind: PluginKind, tmp_path: Path, scene: Scene) -> None:
    path = scaffold(kind, "my_own", tmp_path)
    assert_sound(registry.make(registry.find(kind, str(path), "test"), {}, "test"), scene)
    with pytest.raises(UserError, match="this file already exists"):
        scaffold(kind, "my_own", tmp_path)


@pytest.mark.parametrize(
    ("kind", "name", "said"),
    [
        ("defense", "my-own", "cannot name a defence"),
        ("defense", "class", "cannot name a defence"),
        ("defense", "../up", "cannot name a defence"),
        ("defense", "_private", "cannot name a defence"),
        ("attack", "knowledge", "is a class of the contract"),
        ("attack", "state", "is a class of the contract"),
        ("dataset", "pairs", "is a class of the contract"),
        ("recognizer", "conv", "is a class of the contract"),
    ],
)
def test_names_that_cannot_be_are_refused(kind: PluginKind, name: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=said):
        scaffold(kind, name, tmp_path)
    assert not list(tmp_path.parent.glob("up.py")) and not list(tmp_path.iterdir())


def test_a_written_defence_and_attack_stand_on_the_leaderboard(tmp_path: Path, cli: Cli) -> None:
    done = cli("new", "defense", "mine", cwd=tmp_path)
    assert "veilbench check mine.py" in done.stdout and "[defenses.mine]" in done.stdout
    assert "this file already exists" in cli("new", "defense", "mine", cwd=tmp_path, status=2).stderr
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
    assert "elsewhere" in {plugin["name"] for plugin in listed}
    without = json.loads(cli("list", "--json").stdout)
    assert "elsewhere" not in {plugin["name"] for plugin in without}, "not where the package isn't"
    assert json.loads(cli("check", "elsewhere", "--small", "--faces", "16", "--json", PYTHONPATH=path).stdout)["passed"]
    config = CONFIG.replace('["unprotected", "laplace", "advface"]', '["elsewhere"]')
    config = config.replace('["mean_face", "resrec", "replay"]', '["mean_face"]')
    (tmp_path / "bench.toml").write_text(config)
    cli("run", "--quiet", "--set", "defenses.elsewhere.sigma=0.5", cwd=tmp_path, PYTHONPATH=path)
    (record,) = (tmp_path / "out/main/records").glob("utility*.json")
    assert json.loads(record.read_text())["parameters"]["defense"]["sigma"] == 0.5
