"""A Dask worker's side of a run: it passes tasks to a separate process that can be killed, and does not load torch."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Pipe
from pathlib import Path

from distributed import Worker, WorkerPlugin, get_worker

from bench.runner.messages import MAX_WORKER_DEATHS, Failure, RunSpec
from bench.storage.files import ROOT

_POLLING_INTERVAL_S = 0.5  #: seconds between checks whether a silent process is alive


class TaskProcess:
    """A process that makes artefacts and judges cells. It dies with the worker, which closes the connection."""

    def __init__(self, spec: RunSpec) -> None:
        self._connection, theirs = Pipe()
        threads = {} if spec.threads is None else {"OMP_NUM_THREADS": str(spec.threads)}
        # Files in the working folder must not shadow a module (-P), and the package must be this one.
        paths = [str(ROOT), os.environ.get("PYTHONPATH", "")]
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "bench.runner.cluster.process", str(theirs.fileno())],
                cwd=spec.folder,
                env={**os.environ, **threads, "PYTHONPATH": os.pathsep.join(filter(None, paths))},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=2,  # keep a plugin's prints out of the command's output
                start_new_session=True,  # only the run handles an interrupt; the process's own children die with it
            )
        self._connection.send(spec)

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def stop(self) -> None:
        """Kills the process and its children immediately."""
        if self.alive:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()

    def work(self, label: str, item: bytes, limit: float | None) -> Failure | bytes | None:
        """Sends an item to the process and returns its result."""
        deadline: float | None = None
        try:
            self._connection.send_bytes(item)
            while True:
                if self._connection.poll(_POLLING_INTERVAL_S):
                    said: Failure | bytes | str | None = self._connection.recv()
                    if not isinstance(said, str):
                        return said
                    deadline = None if limit is None else time.monotonic() + limit
                elif deadline is not None and time.monotonic() > deadline:
                    self.stop()
                    return Failure(f"{label}: stopped after {limit:g} s (run.time_limit)")
                elif not self.alive:
                    break
        except (EOFError, OSError):
            pass
        with contextlib.suppress(subprocess.TimeoutExpired):
            self._process.wait(_POLLING_INTERVAL_S)
        status = self._process.poll()
        self.stop()
        return Failure(f"{label}: its process died {_cause(status)}")


def _cause(status: int | None) -> str:
    if status is None or status >= 0:
        return f"with exit status {status}" if status is not None else "without an exit status"
    number = -status
    hint = ": out of memory, or killed by a plugin" if number == signal.SIGKILL else ""
    return f"of signal {number} ({signal.Signals(number).name}){hint}"


class TaskProcesses(WorkerPlugin):
    """The task processes of one run on one worker: started on demand and reused."""

    def __init__(self, spec: RunSpec) -> None:
        self.spec = spec
        self.name = f"veilbench-{spec.run}"

    def setup(self, worker: Worker) -> None:
        """Called by Dask on the worker."""
        self._idle: list[TaskProcess] = []
        self._all: set[TaskProcess] = set()
        self._lock = threading.Lock()
        if self.spec.local and threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)  # the run that started the workers stops them

    def teardown(self, worker: Worker) -> None:
        """Called by Dask when the run or the worker ends."""
        with self._lock:
            processes, self._all = self._all, set()
        for process in processes:
            process.stop()

    def work(self, mark: str, label: str, item: bytes) -> Failure | bytes | None:
        """Makes or judges an item; a process that dies or takes too long is a failure."""
        noted = Path(self.spec.folder, self.spec.marks, mark)
        try:
            with noted.open("ab") as file:
                if (deaths := file.tell()) >= MAX_WORKER_DEATHS:
                    return given_up(label, deaths)
                file.write(b".")
            process = self._take()
        except OSError as error:
            place = f"{error.filename}: {error.strerror} on {get_worker().address}"
            return Failure(f"{place}; workers need access to the folder in which the run was started", fatal=True)
        try:
            result = process.work(label, item, self.spec.time_limit)
            noted.unlink(missing_ok=True)
            return result
        finally:
            with self._lock:
                (self._idle.append if process.alive else self._all.discard)(process)

    def _take(self) -> TaskProcess:
        with self._lock:
            while self._idle:
                if (process := self._idle.pop()).alive:
                    return process
                self._all.discard(process)
            process = TaskProcess(self.spec)
            self._all.add(process)
            return process


def given_up(label: str, deaths: int) -> Failure:
    """The failure of a task that kills its workers."""
    return Failure(f"{label}: given up: {deaths} workers died while processing it")


def work(processes: str, mark: str, label: str, item: bytes, *needs: Failure | None) -> Failure | bytes | None:
    """A Dask task: None for a finished artefact, bytes for a judged cell, or the reason why there is neither."""
    failure = next((need for need in needs if need is not None), None)
    if failure is not None:
        return failure
    plugin = get_worker().plugins[processes]
    assert isinstance(plugin, TaskProcesses)
    return plugin.work(mark, label, item)
