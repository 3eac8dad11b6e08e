"""Results are read, compared and drawn where what runs the matrix is not installed: CI gates, leaderboard hosts."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

from support import ENVIRONMENT, ROOT

from bench.cli.main import _RUN_NEEDS

#: What needs no torch, and the exit status that it ends with there.
COMMANDS = {
    "--version": 0,
    "--help": 0,
    "leaderboard {run}": 0,
    "compare {run} {run}": 0,
    "export {run} --output {run}.zip": 0,
    "verify {run}.zip": 0,
    "paired {run} advface laplace": 0,
    "paired {run} unprotected": 0,
    "costs {run}": 2,  # the reference keeps records only
    "heatmap {run}": 0,
    "curve {run}": 2,  # nothing was swept there
    "scatter {run}": 0,
    "grid {run}": 0,
    "report {run}": 0,
    "data status --into {run}": 0,
    "new defense mine --path {run}": 0,
}
SCRIPT = """
import json, sys

class Absent:  # as if they were not installed
    wanted = []
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in HEAVY:
            self.wanted.append(name)
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Absent())
from bench.cli import main
found = {}
for command in COMMANDS:
    try:
        main(command.split("\\0"))
        status = 0
    except SystemExit as ended:
        status = ended.code or 0
    found[command] = [status, Absent.wanted.copy(), [name for name in HEAVY if name in sys.modules]]
    Absent.wanted.clear()
import bench
bench.open(RUN).leaderboard()
print("\\n" + json.dumps(found))
"""


def _heavy() -> list[str]:
    """Modules of the packages that the extra `run` adds."""
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["optional-dependencies"]
    names = [re.split(r"[^\w-]", requirement, maxsplit=1)[0] for requirement in extras["run"]]
    return [{"scikit-image": "skimage"}.get(name, name.replace("-", "_")) for name in names]


def test_the_command_line_knows_what_the_extra_adds() -> None:
    assert _heavy() and set(_heavy()) == _RUN_NEEDS


def _called(commands: list[str], run: Path) -> subprocess.CompletedProcess[str]:
    head = f"HEAVY = {_heavy()!r}; COMMANDS = {commands!r}; RUN = {str(run)!r}"
    return subprocess.run(
        [sys.executable, "-c", head + SCRIPT], capture_output=True, text=True, env=ENVIRONMENT, cwd=run.parent
    )


def test_results_are_read_where_nothing_that_runs_is_installed(tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(ROOT / "results/reference", run)
    assert "torch" in _heavy()
    wanted = {"\0".join(c.format(run=run) for c in command.split()): status for command, status in COMMANDS.items()}
    done = _called(list(wanted), run)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    for command, status in wanted.items():
        assert found[command] == [status, [], []], f"{command}: {found[command]}\n{done.stderr}"


def test_a_run_without_torch_says_what_to_install(tmp_path: Path) -> None:
    shutil.copytree(ROOT / "results/reference", tmp_path / "run")
    done = _called(["run\0--profile\0tiny"], tmp_path / "run")
    status, wanted, loaded = json.loads(done.stdout.splitlines()[-1])["run\0--profile\0tiny"]
    assert status == 2 and wanted and not loaded
    assert "Traceback" not in done.stderr and "pip install 'veilbench[run]'" in " ".join(done.stderr.split())
