"""Carries a plan out on Dask: every artefact and every cell is a task with what it needs, on this machine or many."""

from __future__ import annotations

import os
import pickle
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from bench.config import Settings
from bench.contracts import UserError
from bench.execute import Entry, Outcome, failed, missing_tasks, pending, provenance
from bench.failure import Failure
from bench.plan import Job, Plan
from bench.precision import pick_device
from bench.records import Run
from bench.store import Store
from bench.workbench import Workbench

if TYPE_CHECKING:
    from distributed import Client, Future

    from bench.crew import Order

_DEATHS = 2  #: workers that may die of a task before it is given up, in a cluster of this run's own
_LOOK = 0.05  #: seconds between looks at what has ended
_PATIENCE = 10  #: seconds for a scheduler to answer


@dataclass(frozen=True)
class Cluster:
    """Where to run: so many workers on this machine, or those of a scheduler that is there."""

    workers: int = 0
    scheduler: str = ""


def execute_on(
    cluster: Cluster,
    settings: Settings,
    plan: Plan,
    store: Store,
    run: Run,
    report: Callable[[str, int, int], None] = lambda *_: None,
) -> Outcome:
    """Judges every cell that has no finished record; records are those of `execute` with as many threads a task.

    Args:
        report: called with (what happened last, cells ended, cells in all).

    Raises:
        UserError: no Dask, no scheduler, or something that all cells need is wrong. What was finished is kept.
    """
    jobs = pending(plan, run)
    if not jobs:
        return Outcome(0, len(plan.jobs), ())
    report("waiting for workers", 0, len(jobs))
    origin = provenance(Workbench(settings, store))
    broken: list[str] = []
    with _client(cluster, settings) as client:
        for ended, (job, result) in enumerate(_results(client, cluster, settings, store, jobs), 1):
            if isinstance(result, Failure):
                result = Entry(failed(job, result, origin))
            run.write(result.record, result.scores, result.samples)
            if result.record.status == "error":
                broken.append(job.cell.name)
            report(f"{job.cell.kind}: {job.cell.defense} {job.cell.attack}".rstrip(), ended, len(jobs))
    return Outcome(len(jobs) - len(broken), len(plan.jobs) - len(jobs), tuple(broken))


def _order(cluster: Cluster, settings: Settings) -> Order:
    from bench.crew import Order
    from bench.hand import ROOT, fingerprint

    plugins = {}
    for name, module in sorted(sys.modules.items()):
        if name.startswith("veilbench_plugin_") and module.__file__:
            path = Path(module.__file__)
            plugins[name] = str(path.relative_to(ROOT) if path.is_relative_to(ROOT) else path)
    threads = settings.run.threads
    if threads is None and cluster.workers:
        threads = max(1, torch.get_num_threads() // cluster.workers)
    return Order(
        run=uuid.uuid4().hex[:12],
        folder=os.getcwd(),
        settings=pickle.dumps(settings),
        plugins=plugins,
        fingerprint=fingerprint(settings),
        threads=threads,
        time_limit=settings.run.time_limit,
        local=bool(cluster.workers),
    )


@contextmanager
def _client(cluster: Cluster, settings: Settings) -> Iterator[Client]:
    """A connection to the cluster; one of our own is started and ended."""
    try:
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("--workers and --scheduler need Dask: pip install 'veilbench[cluster]'") from error
    if cluster.scheduler:
        try:
            client = Client(cluster.scheduler, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            raise UserError(f"{cluster.scheduler}: no scheduler answers; start one: dask scheduler") from error
        with client:
            yield client
        return
    own = {"distributed.scheduler.allowed-failures": _DEATHS, "distributed.worker.memory.terminate": False}
    with (
        dask.config.set(own),
        LocalCluster(
            n_workers=cluster.workers,
            threads_per_worker=1,
            processes=True,
            memory_limit=0,  # a worker's own memory is small; its processes' is the machine's affair
            dashboard_address=None,
            resources={"GPU": 1},
            silence_logs="CRITICAL",
        ) as started,
        Client(started, set_as_default=False) as client,
    ):
        yield client


def _results(
    client: Client, cluster: Cluster, settings: Settings, store: Store, jobs: list[Job]
) -> Iterator[tuple[Job, Entry | Failure]]:
    """Each cell as it ends."""
    from distributed import KilledWorker, as_completed

    from bench.crew import Crew, work

    crew = Crew(_order(cluster, settings))
    needs_gpu = pick_device(settings.run.device).type == "cuda"
    resources = {"GPU": 1} if needs_gpu else None
    labels: dict[Any, str] = {}

    def submit(name: str, label: str, item: Any, needs: list[Future]) -> Future:
        key = f"{name}-{crew.order.run}"
        labels[key] = label
        return client.submit(
            work, crew.name, label, pickle.dumps(item), *needs, key=key, pure=False, resources=resources
        )

    def result(future: Future) -> Entry | Failure:
        try:
            said = future.result()
        except KilledWorker as error:
            where = labels.get(error.task, str(error.task))
            return Failure(f"{where}: given up: {error.allowed_failures + 1} workers died while they were at it")
        except (CancelledError, OSError, TimeoutError) as error:
            raise _lost(cluster) from error
        except Exception as error:
            raise UserError(f"a worker cannot carry this out: {type(error).__name__}: {error}") from error
        if isinstance(said, Failure):
            if said.fatal:
                raise UserError(said.reason)
            return said
        entry: Entry = pickle.loads(said)
        return entry

    try:
        with _reaching(cluster):
            _check(client, needs_gpu)
            client.register_plugin(crew)
            made: dict[str, Future] = {}
            for task in missing_tasks(jobs, store.root):
                needs = [made[need.key] for need in task.needs if need.key in made]
                made[task.key] = submit(f"{task.kind}-{task.key[:16]}", task.label, task, needs)
            cells: dict[Future, Job] = {}
            for job in jobs:
                needs = [made[need.key] for need in job.needs if need.key in made]
                label = f"{job.cell.kind}: {job.cell.defense} {job.cell.attack}".rstrip()
                cells[submit(job.cell.name, label, job, needs)] = job
            made.clear()
            finished = as_completed(list(cells))
        while cells:
            for future in finished.next_batch(block=False):
                yield cells.pop(future), result(future)
            if client.status != "running":
                raise _lost(cluster)
            time.sleep(_LOOK)
    finally:
        # What is left undone is not begun, and what has begun is stopped.
        if client.status == "running":
            with suppress(OSError, TimeoutError):
                client.cancel(list(cells), force=True)
                client.unregister_worker_plugin(crew.name)


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
