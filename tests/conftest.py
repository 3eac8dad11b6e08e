"""Fixtures: a folder with a toy `bench.toml`, the command line as a user has it, real data where there is some."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from support import CONFIG, ENVIRONMENT, Cli
from warm import Warm

_TIMEOUT_S = 300  #: for a command

# A busy or slow machine is no failure: hypothesis would give each example 200 ms.
hypothesis.settings.register_profile("patient", deadline=None, suppress_health_check=[hypothesis.HealthCheck.too_slow])
hypothesis.settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--all`: the slow tests too."""
    parser.addoption("--all", action="store_true", help="also what is marked as slow")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Says of each slow test that it was left out."""
    if config.getoption("--all"):
        return
    for item in items:
        if item.get_closest_marker("slow"):
            item.add_marker(pytest.mark.skip(reason="slow: make test ARGS=--all"))


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to stand in, with a `bench.toml` of toys; returns the file."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bench.toml"
    path.write_text(CONFIG)
    return path


@pytest.fixture(scope="session")
def cli() -> Iterator[Cli]:
    """Runs `veilbench ARGS` in a process of its own, as a user would; checks the exit status."""
    warm = Warm(ENVIRONMENT)

    def call(
        *arguments: str, status: int = 0, cwd: Path | None = None, **environment: str
    ) -> subprocess.CompletedProcess[str]:
        if all(name.startswith("VEILBENCH_") for name in environment):
            done = warm.run(arguments, cwd, environment, _TIMEOUT_S)
        else:  # variables that may count when libraries are imported
            done = subprocess.run(
                [sys.executable, "-m", "bench", *arguments], capture_output=True, text=True,
                env={**ENVIRONMENT, **environment}, timeout=_TIMEOUT_S, cwd=cwd,
            )  # fmt: skip
        assert done.returncode == status, f"exit {done.returncode}\n{done.stdout}\n{done.stderr}"
        return done

    yield call
    warm.stop()


@pytest.fixture
def data() -> Path:
    """The folder of real data, where VEILBENCH_DATA names one."""
    place = os.environ.get("VEILBENCH_DATA")
    if not place:
        pytest.skip("needs real data: set VEILBENCH_DATA to a folder with lfw/ and weights/")
    return Path(place).resolve()
