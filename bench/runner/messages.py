"""What a run, its Dask workers and their processes tell each other. No heavy imports: a worker loads no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

STARTED = "began"  #: said by a process when its waiting for others is over: from here on the time limit counts
MAX_WORKER_DEATHS = 3  #: workers that may die of a task before it is given up


@dataclass(frozen=True)
class Failure:
    """Why something could not be made or judged; every cell's record says so that wanted it."""

    reason: str
    traceback: str = ""
    status: Literal["skipped", "error"] = "error"
    fatal: bool = False  #: not this cell's alone (data, weights, disk): the run ends, and `reason` says why


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """What a run's processes are told first."""

    run: str  #: a name that no other run has
    folder: str  #: where the run was started; relative paths in the settings start here
    settings: bytes  #: pickled as resolved, so that a `bench.toml` edited meanwhile changes nothing
    plugins: Mapping[str, str]  #: modules to load before that: name to file, built-in ones from the package's root
    fingerprint: Mapping[str, str]  #: what must be the same there as here
    marks: str  #: a folder where a worker notes what it is at, so that whose task killed it is known
    threads: int | None
    time_limit: float | None
    local: bool  #: whether the workers were started for this run, on this machine
