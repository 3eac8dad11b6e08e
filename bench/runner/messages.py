"""Messages between a run, its Dask workers and their processes; does not load torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

STARTED = "began"  #: sent by a process when work begins, after any wait for other runs: the time limit starts here
MAX_WORKER_DEATHS = 3  #: number of workers that may die of a task before it is given up


@dataclass(frozen=True)
class Failure:
    """The reason why an item could not be made or judged, reported in the record of every cell that needs it."""

    reason: str
    traceback: str = ""
    status: Literal["skipped", "error"] = "error"
    fatal: bool = False  #: affects all cells (data, weights, disk): the run ends with `reason`


@dataclass(frozen=True, kw_only=True)
class RunSpec:
    """The first message to a run's processes."""

    run: str  #: a unique name
    folder: str  #: the folder in which the run was started; relative paths in the settings refer to it
    settings: bytes  #: pickled after they were resolved, so that later edits of `bench.toml` have no effect
    plugins: Mapping[str, str]  #: modules to load before unpickling: name to file, relative to the package if built in
    fingerprint: Mapping[str, str]  #: what must be the same on the worker's machine
    marks: str  #: a folder where workers mark the tasks that they process, to identify those that kill them
    threads: int | None
    time_limit: float | None
    local: bool  #: whether the workers were started for this run, on this machine
