"""The threads' way of waiting is set before torch is there, inherited, recorded, and never against the user's will."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from support import ENVIRONMENT

from bench.openmp import SHORT_WAIT, wait_briefly


def _python(code: str, **variables: str) -> tuple[str, str]:
    """What a process of its own says; of the variables of waiting it has those given."""
    clean = {name: value for name, value in ENVIRONMENT.items() if name not in (*SHORT_WAIT, "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env={**clean, **variables}, check=True
    )
    return done.stdout, done.stderr


SAY = "import bench, json, os; print(json.dumps(dict(os.environ)))"


def test_importing_the_package_sets_what_nobody_set() -> None:
    assert SHORT_WAIT.items() <= json.loads(_python(SAY)[0]).items()
    for name, value in {"GOMP_SPINCOUNT": "7", "KMP_BLOCKTIME": "5", "OMP_WAIT_POLICY": "ACTIVE"}.items():
        found = json.loads(_python(SAY, **{name: value})[0])
        assert {n: v for n, v in found.items() if n in (*SHORT_WAIT, "OMP_WAIT_POLICY")} == {name: value}


@pytest.mark.parametrize("module", ["bench.api", "bench.runner.serial", "bench.contracts", "bench.cli.main"])
def test_no_way_into_the_package_leads_past_it(module: str) -> None:
    said, _ = _python(f"import {module}, bench.openmp; bench.openmp.warn_if_late(); print(bench.openmp.in_force())")
    assert said.strip() == " ".join(f"{name}={value}" for name, value in SHORT_WAIT.items())


def test_torch_that_came_first_is_said_once_and_recorded() -> None:
    late = "import torch, bench.openmp as o; o.warn_if_late(); o.warn_if_late(); print(o.in_force())"
    said, warned = _python(late)
    assert said == "torch's own: it was imported before bench\n"
    assert warned.count("torch was imported before bench") == 1
    said, warned = _python(late, GOMP_SPINCOUNT="1000")
    assert (said, warned) == ("GOMP_SPINCOUNT=1000\n", "")


def test_an_environment_that_decided_stays_as_it_is() -> None:
    environment = {"OMP_WAIT_POLICY": "active"}
    wait_briefly(environment)
    assert environment == {"OMP_WAIT_POLICY": "active"}
