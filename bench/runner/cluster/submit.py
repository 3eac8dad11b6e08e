"""Carries a plan out on Dask: every artefact and every cell is a task with what it needs, on this machine or many."""

from __future__ import annotations

import logging
import os
import pickle
import shutil
import sys
import time
import uuid
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch

from bench.errors import UserError
from bench.plan import Job, Plan, Task, every_task
from bench.runner.context import RunContext
from bench.runner.messages import MAX_WORKER_DEATHS, Failure, RunSpec
from bench.runner.serial import JudgedCell, Outcome, execute, failed, missing_tasks, pending, provenance
from bench.settings.model import Settings
from bench.storage.files import ROOT
from bench.storage.records import Run
from bench.storage.store import Store
from bench.toolkit.precision import pick_device
from bench.toolkit.progress import Advance

if TYPE_CHECKING:
    from distributed import Client, Future

_MAX_ROUNDS = 5  #: times that cells are submitted again because others killed the workers that they waited on
_POLLING_INTERVAL_S = 0.05  #: seconds between looks at what has ended
_CONNECT_TIMEOUT_S = 10  #: seconds for a scheduler to answer
_MEMORY_PER_WORKER = 3 << 30  #: bytes of memory that a worker may want


@dataclass(frozen=True)
class Cluster:
    """Where to run: in this process, on so many workers of this machine, or on those of a scheduler that is there."""

    workers: int = 0
    scheduler: str = ""

    @classmethod
    def of(cls, workers: int | Literal["auto"], scheduler: str, settings: Settings | None) -> Cluster:
        """As the command line says it; `auto`: as many as `workers_that_fit`.

        Raises:
            UserError: both are asked for.
        """
        if workers and scheduler:
            raise UserError("--workers starts workers, --scheduler joins some: choose one")
        device = settings.run.device if settings else "auto"
        return cls(workers_that_fit(device) if workers == "auto" else workers, scheduler)


def workers_that_fit(device: str) -> int:
    """One a core, as far as memory lasts: cores do more on tasks of their own than together on one. One on a GPU.

    Args:
        device: `run.device`.
    """
    if pick_device(device).type == "cuda":
        return 1
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(1, min(torch.get_num_threads(), memory // _MEMORY_PER_WORKER))


def carry_out(
    cluster: Cluster,
    settings: Settings,
    plan: Plan,
    store: Store,
    run: Run,
    report: Callable[[Advance], None] = lambda _: None,
) -> Outcome:
    """Judges every cell that has no finished record; records are those of `execute` with as many threads a task.

    In this process where the cluster is neither workers nor a scheduler. The run keeps what time it took.

    Args:
        report: called with what happened last (in this process: with what is next), and how far the run has come.

    Raises:
        UserError: no Dask, no scheduler, or something that all cells need is wrong. What was finished is kept.
    """
    jobs = pending(plan, run)
    if not jobs:
        return Outcome(0, len(plan.jobs), ())
    with run.timed(cluster.workers):
        if not (cluster.workers or cluster.scheduler):
            return execute(settings, plan, store, run, report)
        return _on_dask(cluster, settings, plan, jobs, store, run, report)


def _on_dask(
    cluster: Cluster,
    settings: Settings,
    plan: Plan,
    jobs: list[Job],
    store: Store,
    run: Run,
    report: Callable[[Advance], None],
) -> Outcome:
    tasks = missing_tasks(jobs, store.root)
    total = len(tasks) + len(jobs)
    whole = sum(task.effort for task in tasks) + len(jobs)
    report(Advance("waiting for workers", 0, total, 0, len(jobs)))
    cells = effort = 0
    spec = _run_spec(cluster, settings)
    origin = {
        **provenance(RunContext(settings, store)),
        "threads": spec.threads,
    }  # of what no worker lived to record
    broken: list[str] = []
    with _client(cluster) as client:
        gpu = pick_device(settings.run.device).type == "cuda"
        results = _Submission(client, cluster, spec, store, gpu).results(jobs)
        with closing(results):  # also where a record cannot be written
            for ended, (item, result) in enumerate(results, 1):
                if isinstance(item, Job):
                    judged = JudgedCell(failed(item, result, origin)) if isinstance(result, Failure) else result
                    assert judged is not None
                    run.write(judged.record, judged.scores, judged.samples)
                    cells += 1
                    if judged.record.status == "error":
                        broken.append(item.cell.name)
                effort += item.effort if isinstance(item, Task) else 1
                # What killed a worker ends again.
                share = min(1.0, effort / whole)
                report(Advance(item.label, min(ended, total), total, cells, len(jobs), share))
    return Outcome(len(jobs) - len(broken), len(plan.jobs) - len(jobs), tuple(broken))


def _run_spec(cluster: Cluster, settings: Settings) -> RunSpec:
    from bench.runner.cluster.process import fingerprint

    plugins = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("veilbench_plugin_") and module.__file__:
            path = Path(module.__file__)
            plugins[name] = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    threads = settings.run.threads
    if threads is None and cluster.workers:
        threads = max(1, torch.get_num_threads() // cluster.workers)
    name = uuid.uuid4().hex[:12]
    return RunSpec(
        run=name,
        folder=os.getcwd(),
        marks=str(Path(settings.run.store) / "locks" / f"marks-{name}"),
        settings=pickle.dumps(settings),
        plugins=plugins,
        fingerprint=fingerprint(settings),
        threads=threads,
        time_limit=settings.run.time_limit,
        local=bool(cluster.workers),
    )


@contextmanager
def _client(cluster: Cluster) -> Iterator[Client]:
    """A connection to the cluster; one of our own is started and ended."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("--workers and --scheduler need Dask: pip install 'veilbench[cluster]'") from error
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # what goes wrong is said once, by this command
    if cluster.scheduler:
        try:
            client = Client(cluster.scheduler, timeout=_CONNECT_TIMEOUT_S, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(f"{cluster.scheduler}: no scheduler answers; start one: dask scheduler") from error
        with client:
            yield client
        return
    with (
        LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # a worker's own memory is small; its processes' is the machine's affair
            dashboard_address="127.0.0.1:0",  # any free port: several runs may go on at once
            scheduler_kwargs={"dashboard": False},
            resources={"GPU": 1},
            silence_logs=logging.CRITICAL,
        ) as started,
        Client(started, set_as_default=False) as client,
    ):
        yield client


class _Submission:
    """A run's tasks at a scheduler, as often as it takes to know which of them kill workers."""

    def __init__(self, client: Client, cluster: Cluster, spec: RunSpec, store: Store, gpu: bool) -> None:
        from bench.runner.cluster.worker import TaskProcesses

        self._client, self._cluster, self._store = client, cluster, store
        self._processes = TaskProcesses(spec)
        self._marks = Path(spec.folder, spec.marks)
        self._gpu = gpu
        self._labels: dict[str, str] = {}  #: of artefacts and cells, by the name of their mark
        self._round = 0
        self._killers: dict[str, Failure] = {}

    def results(self, jobs: list[Job]) -> Generator[tuple[Task | Job, JudgedCell | Failure | None]]:
        """Each artefact and each cell as it ends; an artefact without a result, a cell with one.

        Dask gives up whatever was waiting on workers that died, so all that had not begun there is submitted again.
        """
        self._marks.mkdir(parents=True)
        try:
            with _reaching(self._cluster):
                _check(self._client, self._gpu)
                self._client.register_plugin(self._processes)
            while jobs:
                again = []
                for item, result in self._submitted(jobs):
                    if isinstance(item, Job) and result is None:
                        again.append(item)
                    else:
                        yield item, result
                jobs = again
                self._round += 1
        finally:
            shutil.rmtree(self._marks, ignore_errors=True)
            if self._client.status == "running":
                with suppress(OSError, TimeoutError):
                    self._client.unregister_worker_plugin(self._processes.name)  # stops what is under way

    def _submitted(self, jobs: list[Job]) -> Iterator[tuple[Task | Job, JudgedCell | Failure | None]]:
        from distributed import as_completed

        items: dict[Future[Any], Task | Job] = {}
        try:
            with _reaching(self._cluster):
                made: dict[str, Future[Any]] = {}
                missing = {task.key for task in missing_tasks(jobs, self._store.root)}
                # What is submitted first is carried out first: each cell right behind what it alone waits for, so that
                # there are finished records early on.
                for job in jobs:
                    for task in every_task(job.needs, leave_out=lambda t: t.key in made or t.key not in missing):
                        needs = [made[need.key] for need in task.needs if need.key in made]
                        made[task.key] = self._submit(f"{task.kind}-{task.key}", task, needs)
                        items[made[task.key]] = task
                    needs = [made[need.key] for need in job.needs if need.key in made]
                    items[self._submit(f"cell-{job.key}", job, needs)] = job
                made.clear()
                finished = as_completed(list(items), loop=self._client.loop)
            while items:
                for future in finished.next_batch(block=False):
                    item = items.pop(future)
                    yield item, self._result(future) if isinstance(item, Job) else None
                if self._client.status != "running":
                    raise _lost(self._cluster)
                time.sleep(_POLLING_INTERVAL_S)
        finally:
            if items and self._client.status == "running":
                with suppress(OSError, TimeoutError):
                    self._client.cancel(list(items), force=True)

    def _submit(self, mark: str, item: Task | Job, needs: list[Future[Any]]) -> Future[Any]:
        from bench.runner.cluster.worker import work

        key = f"{mark}-{self._processes.spec.run}-{self._round}"
        self._labels[key] = item.label
        given_up = [self._killers[mark]] if mark in self._killers else []
        return self._client.submit(
            work,
            self._processes.name,
            mark,
            item.label,
            pickle.dumps(item),
            *given_up,
            *needs,
            key=key,
            pure=False,
            resources={"GPU": 1} if self._gpu else None,
        )

    def _result(self, future: Future[Any]) -> JudgedCell | Failure | None:
        """None: not to blame for the workers that died, and to be tried again."""
        from distributed import KilledWorker

        try:
            said = future.result()
        except KilledWorker as error:
            return self._blamed(str(error.task))
        except (CancelledError, OSError, TimeoutError) as error:
            raise _lost(self._cluster) from error
        except Exception as error:
            raise UserError(f"a worker cannot carry this out: {type(error).__name__}: {error}") from error
        if isinstance(said, Failure):
            if said.fatal:
                raise UserError(said.reason)
            return said
        judged: JudgedCell = pickle.loads(said)
        return judged

    def _blamed(self, key: str) -> Failure | None:
        from bench.runner.cluster.worker import given_up

        mark = key.removesuffix(f"-{self._processes.spec.run}-{self._round}")
        noted = self._marks / mark
        begun = noted.stat().st_size if noted.exists() else 0
        if begun < MAX_WORKER_DEATHS and self._round < _MAX_ROUNDS:
            return None
        self._killers[mark] = given_up(self._labels[key], begun)
        return self._killers[mark]


def _check(client: Client, needs_gpu: bool) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if needs_gpu and workers and not any(worker.get("resources", {}).get("GPU") for worker in workers):
        raise UserError("no worker offers a GPU: start them as dask worker --resources GPU=1, or set run.device = cpu")


def _lost(cluster: Cluster) -> UserError:
    place = cluster.scheduler or "the local cluster"
    return UserError(f"{place}: the scheduler is gone. Finished cells are kept; veilbench run goes on from here")


@contextmanager
def _reaching(cluster: Cluster) -> Iterator[None]:
    """Turns what Dask says of a lost connection into one line."""
    try:
        yield
    except UserError:
        raise
    except (OSError, TimeoutError, CancelledError) as error:
        raise _lost(cluster) from error
    except Exception as error:
        raise UserError(
            f"the workers cannot take a run: {type(error).__name__}: {error}; install the same veilbench there"
        ) from error
