"""Two runs at once beside the same two one after the other: what waiting threads cost whoever shares a machine.

`torch's own`: threads spin as long as the OpenMP of torch likes; `ours`: as `bench.openmp` sets it. Runs are
of VEILBENCH_COMPANY (a profile; tiny, if unset), in processes and folders of their own, on every core each.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support import ENVIRONMENT

from bench.openmp import SHORT_WAIT

PROFILE = os.environ.get("VEILBENCH_COMPANY", "tiny")
FREE = {n: v for n, v in ENVIRONMENT.items() if n not in (*SHORT_WAIT, "OMP_WAIT_POLICY", "OMP_NUM_THREADS")}
#: A variable of an OpenMP that is not in use, at its default: enough for the package to leave all of them alone.
OTHER = "KMP_BLOCKTIME" if sys.platform == "linux" else "GOMP_SPINCOUNT"
WAITING = {"torch's own": {OTHER: "200"}, "ours": {}}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Faces, rendered once for all runs."""
    folder = tmp_path_factory.mktemp("company")
    _finish([_start(folder / "first", folder / "cache", WAITING["ours"])])
    return folder / "cache"


def _start(folder: Path, cache: Path, variables: Mapping[str, str]) -> subprocess.Popen[bytes]:
    places = {"store": folder / "store", "cache": cache, "output": folder / "out"}
    options = [part for name, path in places.items() for part in ("--set", f'run.{name}="{path}"')]
    command = [sys.executable, "-m", "bench", "run", "-q", "-p", PROFILE, *options]
    return subprocess.Popen(command, env={**FREE, **variables}, stdout=subprocess.DEVNULL)


def _finish(runs: list[subprocess.Popen[bytes]]) -> None:
    assert [run.wait() for run in runs] == [0] * len(runs)


@pytest.mark.benchmark(group=f"two runs of {PROFILE}")
@pytest.mark.parametrize("order", ["one after the other", "at once"])
@pytest.mark.parametrize("waiting", WAITING)
def test_two_runs(benchmark: Any, cache: Path, tmp_path: Path, waiting: str, order: str) -> None:
    turns = iter(range(100))

    def runs() -> None:
        folders = [tmp_path / f"{next(turns)}" for _ in range(2)]
        if order == "at once":
            _finish([_start(folder, cache, WAITING[waiting]) for folder in folders])
        else:
            for folder in folders:
                _finish([_start(folder, cache, WAITING[waiting])])

    benchmark.pedantic(runs, rounds=int(os.environ.get("VEILBENCH_COMPANY_ROUNDS", "1")))
