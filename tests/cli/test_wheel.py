"""The built wheel, in an environment of its own and an empty folder, far from the checkout."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest
from support import ROOT


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `veilbench` command of a new environment that has the wheel and, by a path, this one's dependencies."""
    place = tmp_path_factory.mktemp("wheel")
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    source = place / "source"
    files = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if files.returncode:
        pytest.skip("needs a git checkout, to leave out what is not committed")
    for name in filter(None, files.stdout.split("\0")):
        if (ROOT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            (source / name).write_bytes((ROOT / name).read_bytes())
    build = [*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(place), str(source)]
    subprocess.run(build, check=True)
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(place / "env")], check=True)
    inside = subprocess.run(
        [str(place / "env/bin/python"), "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    # What this environment has, but not what its own .pth files add: no checkout comes along.
    Path(inside.stdout.strip(), "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    wheel = next(place.glob("*.whl"))
    into = [*pip, "--python", str(place / "env/bin/python"), "install", "--no-deps", "--no-index", "--ignore-installed"]
    subprocess.run([*into, str(wheel)], check=True)
    return place / "env/bin/veilbench"


def test_the_installed_package_does_its_job_in_an_empty_folder(installed: Path, tmp_path: Path) -> None:
    bare = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "VEILBENCH"))}
    bare["HOME"] = str(tmp_path / "no-home")  # nothing may want to write there

    def say(*arguments: str) -> str:
        done = subprocess.run([str(installed), *arguments], cwd=tmp_path, env=bare, capture_output=True, text=True)
        assert done.returncode == 0, f"{arguments}: {done.stdout}\n{done.stderr}"
        return done.stdout

    assert "unprotected" in say("list")
    say("run", "--profile", "tiny", "--quiet")
    assert (tmp_path / "results/tiny/leaderboard.md").is_file()
    say("report", "results/tiny")
    say("new", "defense", "mine")
    say("check", "mine.py")
    assert "table1" in say("paper", "table4", "--help")
    where = subprocess.run(
        [str(installed.with_name("python")), "-c", "import bench; print(bench.__file__)"],
        cwd=tmp_path, env=bare, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert str(installed.parent.parent) in where.stdout
