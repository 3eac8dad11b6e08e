"""Carries out a plan in this process: resumes, keeps finished work, and confines a failure to its cell."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from numpy.typing import NDArray

from bench import __version__
from bench.errors import DataError, NotApplicable, UserError
from bench.openmp import in_force, warn_if_late
from bench.plan import PROTOCOL, Job, Plan, Task, every_task
from bench.runner import attacking, defending, key_learning, keyed, pictures, traits
from bench.runner.context import RunContext
from bench.runner.judging import Judge
from bench.runner.keeping import Keeper
from bench.runner.messages import Failure
from bench.settings.model import Settings
from bench.storage.records import Record, Run
from bench.storage.store import Store
from bench.toolkit.precision import gpu, keep_freed_memory, precision_name
from bench.toolkit.progress import Advance

_PACKAGES = ("facenet-pytorch", "lpips", "numpy", "pandas", "scikit-image", "torchvision")


@dataclass(frozen=True)
class Outcome:
    """The outcome of a run: the number of cells by result."""

    done: int  #: judged in this call
    kept: int  #: already finished before
    failed: tuple[str, ...]  #: names of the cells with errors


@dataclass(frozen=True, eq=False)
class JudgedCell:
    """A cell's record, with its scores and samples."""

    record: Record
    scores: pd.DataFrame | None = None
    samples: Mapping[str, NDArray[Any]] | None = None


def pending(plan: Plan, run: Run) -> list[Job]:
    """The cells that have no finished record with the same key."""
    waiting = []
    for job in plan.jobs:
        try:
            record = run.find(job.cell)
        except DataError:
            record = None  # judge a cell with a damaged record again
        if record is None or record.key != job.key or record.status == "error":
            waiting.append(job)
    return waiting


def missing_tasks(jobs: list[Job], store: Path) -> list[Task]:
    """The missing artefacts of these cells, in order of dependency; skips what only existing artefacts need."""
    roots = (need for job in jobs for need in job.needs)
    return every_task(roots, leave_out=lambda task: (store / task.kind / task.key).exists())


class Executor:
    """Makes artefacts and judges cells, one at a time, in this process.

    Args:
        say: called with a description of each step before it starts.
    """

    def __init__(self, settings: Settings, store: Store, say: Callable[[str], None] = lambda _: None) -> None:
        keep_freed_memory()
        warn_if_late()
        if settings.run.threads is not None:
            torch.set_num_threads(settings.run.threads)
        self._context = RunContext(settings, store)
        self._judge = Judge(self._context)
        self._broken: dict[str, Failure] = {}
        self._say = say
        self.made = self.effort = 0  #: number of artefacts made or failed, and their estimated effort
        self.origin = provenance(self._context)

    def make(self, task: Task) -> Failure | None:
        """Makes an artefact and its missing dependencies.

        Raises:
            UserError, OSError: an error that will affect other artefacts too.
        """
        if task.key in self._broken:
            return self._broken[task.key]
        if self._context.store.get(task.kind, task.key) is not None:
            return None
        for need in task.needs:
            if (failure := self.make(need)) is not None:
                return failure
        self._say(task.label)
        try:
            make(self._context, task)
        except (UserError, OSError):
            raise
        except Exception as error:
            self._broken[task.key] = _failure(error, f"{task.label}: ")
            return self._broken[task.key]
        finally:
            self.made, self.effort = self.made + 1, self.effort + task.effort
        return None

    def judge(self, job: Job) -> JudgedCell:
        """Judges a cell, after making what it needs.

        Raises:
            UserError, OSError: as for `make`.
        """
        started = time.perf_counter()
        for need in job.needs:
            if (failure := self.make(need)) is not None:
                return JudgedCell(failed(job, failure, self.origin, time.perf_counter() - started))
        self._say(f"judging {job.cell.defense} {job.cell.attack}".rstrip())
        clock = time.process_time()
        try:
            verdict = self._judge.judge(job)
        except (UserError, OSError):
            raise
        except Exception as error:
            return JudgedCell(failed(job, _failure(error), self.origin, time.perf_counter() - started))
        record = Record(
            cell=job.cell,
            key=job.key,
            status="ok",
            metrics=verdict.metrics,
            parameters=verdict.parameters,
            noise=verdict.noise,
            flags=verdict.flags,
            info=verdict.info,
            settings=verdict.settings,
            provenance=self.origin,
            origin=job.origin,
            artefacts=tuple(task.key for task in every_task(job.needs)),
            time_s=round(time.perf_counter() - started, 2),
            judging_s=round(time.process_time() - clock, 3),
        )
        return JudgedCell(record, verdict.scores, verdict.samples)


def _failure(error: Exception, label: str = "") -> Failure:
    """A failure from an exception that is being handled."""
    if isinstance(error, NotApplicable):
        return Failure(str(error), status="skipped")
    if isinstance(error, torch.OutOfMemoryError):
        hint = "the same command tries it again, when others use less of the card; a smaller batch or width needs less"
        return Failure(f"{label}out of memory on the GPU: {hint} ({error})", traceback.format_exc())
    return Failure(f"{label}{type(error).__name__}: {error}", traceback.format_exc())


def failed(job: Job, failure: Failure, origin: Mapping[str, Any], seconds: float = 0.0) -> Record:
    """The record of a failed cell, without metrics."""
    return Record(
        cell=job.cell,
        key=job.key,
        status=failure.status,
        reason=failure.reason,
        traceback=failure.traceback,
        provenance=origin,
        time_s=round(seconds, 2),
    )


def execute(
    settings: Settings, plan: Plan, store: Store, run: Run, report: Callable[[Advance], None] = lambda _: None
) -> Outcome:
    """Judges every cell without a finished record.

    Args:
        report: called with a description of each step before it starts, and the run's progress.

    Raises:
        UserError: something that all cells need is wrong (data, weights, disk). Finished work is kept.
    """
    if settings.run.time_limit is not None:
        raise UserError("run.time_limit needs a worker process, which can be stopped; add --workers 1, or more")
    jobs = pending(plan, run)
    tasks = missing_tasks(jobs, store.root)
    artefacts, cells = len(tasks), 0
    whole = sum(task.effort for task in tasks) + len(jobs)

    def say(what: str) -> None:
        ended, share = min(executor.made, artefacts) + cells, min(1.0, (executor.effort + cells) / whole)
        report(Advance(what, ended, artefacts + len(jobs), cells, len(jobs), share))

    executor = Executor(settings, store, say)
    keeper = Keeper(settings.run.keep, plan, jobs, store, run)
    broken = []
    for job in jobs:
        say(job.label)
        judged = executor.judge(job)
        run.write(judged.record, judged.scores, judged.samples)
        cells += 1
        if judged.record.status == "error":
            broken.append(job.cell.name)
        keeper.judged(job, failed=judged.record.status == "error")
    if jobs:
        report(Advance("", artefacts + len(jobs), artefacts + len(jobs), len(jobs), len(jobs)))
    return Outcome(len(jobs) - len(broken), len(plan.jobs) - len(jobs), tuple(broken))


def provenance(context: RunContext) -> dict[str, Any]:
    """Versions and hardware that may affect a figure."""
    versions = {"veilbench": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "protocol": PROTOCOL,
        "device": str(context.device),
        "precision": precision_name(context.device),
        **gpu(context.device),
        "machine": f"{platform.machine()} {platform.system()}",
        "threads": torch.get_num_threads(),
        "waiting threads": in_force(),
        "config": Path(context.settings.path).name,
    }


_MAKERS = {
    "identity": defending.make_identity,
    "judge_identity": defending.make_judge_identity,
    "attacker_identity": defending.make_attacker_identity,
    "defender_identity": defending.make_defender_identity,
    "defense_state": defending.make_defense_state,
    "surrogate_state": defending.make_surrogate_state,
    "templates": defending.make_templates,
    "server_state": defending.make_server_state,
    "embeddings": defending.make_embeddings,
    "attack_state": attacking.make_attack_state,
    "reconstruction": attacking.make_reconstruction,
    "linkage": attacking.make_linkage,
    "traits": traits.make_traits,
    "clean_traits": traits.make_clean_traits,
    "presentation": attacking.make_presentation,
    "login": attacking.make_login,
    "key_attack_state": key_learning.make_key_attack_state,
    "protected": keyed.make_protected,
    "crossmatch": keyed.make_crossmatch,
    "inversion": keyed.make_inversion,
    "picture_decoder": pictures.make_picture_decoder,
    "pictures": pictures.make_pictures,
}


def make(context: RunContext, task: Task) -> Path:
    """The folder of the finished artefact in the store."""
    return context.store.make(task.kind, task.key, lambda folder: _MAKERS[task.kind](context, task, folder))
