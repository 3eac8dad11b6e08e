"""Carries out a plan on Dask: every artefact and every cell is a task with dependencies, on one machine or many."""

from __future__ import annotations

import logging
import os
import pickle
import sys
import uuid
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import torch

from bench.errors import UserError
from bench.plan import Job, Plan, Task
from bench.runner.cluster.submission import Submission
from bench.runner.context import RunContext
from bench.runner.keeping import Keeper
from bench.runner.messages import Failure, RunSpec
from bench.runner.serial import JudgedCell, Outcome, execute, failed, missing_tasks, pending, provenance
from bench.settings.model import Settings
from bench.storage.files import ROOT
from bench.storage.records import Run
from bench.storage.store import Store
from bench.toolkit.precision import pick_device
from bench.toolkit.progress import Advance

if TYPE_CHECKING:
    from distributed import Client

_CONNECT_TIMEOUT_S = 10  #: seconds until a scheduler must answer
_MEMORY_PER_WORKER = 3 << 30  #: estimated memory of a worker, in bytes


@dataclass(frozen=True)
class Cluster:
    """Where to run: in this process, on local workers, or on the workers of an existing scheduler."""

    workers: int = 0
    scheduler: str = ""

    @classmethod
    def of(cls, workers: int | Literal["auto"], scheduler: str, settings: Settings | None) -> Cluster:
        """From the command line's options; `auto` means `workers_that_fit`.

        Raises:
            UserError: both are requested.
        """
        if workers and scheduler:
            raise UserError("--workers starts workers and --scheduler uses existing ones: choose one")
        device = settings.run.device if settings else "auto"
        return cls(workers_that_fit(device) if workers == "auto" else workers, scheduler)


def workers_that_fit(device: str) -> int:
    """One worker per core if memory allows, because separate tasks use cores better than threads do; one on a GPU.

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
    """Judges every cell without a finished record; gives the same records as `execute` with as many threads per task.

    Runs in this process if the cluster has neither workers nor a scheduler. The run stores the elapsed time.

    Args:
        report: called with the last finished item (in this process: the next item) and the run's progress.

    Raises:
        UserError: Dask or the scheduler is missing, or something that all cells need is wrong. Finished work is kept.
    """
    jobs = pending(plan, run)
    if not jobs:
        Keeper(settings.run.keep, plan, jobs, store, run)
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
    }  # for tasks that killed all their workers
    broken: list[str] = []
    keeper = Keeper(settings.run.keep, plan, jobs, store, run)
    with _client(cluster) as client:
        gpu = pick_device(settings.run.device).type == "cuda"
        results = Submission(client, cluster.scheduler or "the local cluster", spec, store, gpu).results(jobs)
        with closing(results):  # also if a record cannot be written
            for ended, (item, result) in enumerate(results, 1):
                if isinstance(item, Job):
                    judged = JudgedCell(failed(item, result, origin)) if isinstance(result, Failure) else result
                    assert judged is not None
                    run.write(judged.record, judged.scores, judged.samples)
                    cells += 1
                    if judged.record.status == "error":
                        broken.append(item.cell.name)
                    keeper.judged(item, failed=judged.record.status == "error")
                effort += item.effort if isinstance(item, Task) else 1
                # A task that killed a worker ends more than once.
                share = min(1.0, effort / whole)
                report(Advance(item.label, min(ended, total), total, cells, len(jobs), share))
    return Outcome(len(jobs) - len(broken), len(plan.jobs) - len(jobs), tuple(broken))


def _run_spec(cluster: Cluster, settings: Settings) -> RunSpec:
    from bench.runner.cluster.process import fingerprint

    pickled = pickle.dumps(settings)
    plugins = {}
    for name, module in sorted(sys.modules.items()):
        # Only what the settings refer to: a notebook may have loaded files that are gone by now.
        if name.startswith("veilbench_plugin_") and module.__file__ and name.encode() in pickled:
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
        settings=pickled,
        plugins=plugins,
        fingerprint=fingerprint(settings),
        threads=threads,
        time_limit=settings.run.time_limit,
        local=bool(cluster.workers),
    )


@contextmanager
def _client(cluster: Cluster) -> Iterator[Client]:
    """A connection to the cluster; a local cluster is started and stopped."""
    try:
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("--workers and --scheduler need Dask: pip install 'veilbench[cluster]'") from error
    for name in ("distributed", "distributed.client"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # errors are reported once, by this command
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
            memory_limit=0,  # a worker itself uses little memory; its task processes are not limited
            dashboard_address="127.0.0.1:0",  # any free port, because several runs may be active
            scheduler_kwargs={"dashboard": False},
            resources={"GPU": 1},
            silence_logs=logging.CRITICAL,
        ) as started,
        Client(started, set_as_default=False) as client,
    ):
        yield client
