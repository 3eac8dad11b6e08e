"""Carries a plan out in this process: resumes, keeps what is finished, and lets one cell's failure stay one cell's."""

from __future__ import annotations

import platform
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from bench import __version__
from bench.config import Settings
from bench.contracts import DataError, NotApplicable, UserError
from bench.judge import Judge
from bench.make import make
from bench.plan import PROTOCOL, Job, Plan, Task, every_task
from bench.precision import precision_name
from bench.records import Record, Run
from bench.store import Store
from bench.workbench import Workbench

_PACKAGES = ("facenet-pytorch", "lpips", "numpy", "pandas", "scikit-image", "torchvision")


@dataclass(frozen=True)
class Outcome:
    """How a run ended: cells by what became of them in this call."""

    done: int  #: judged now
    kept: int  #: stood from before
    failed: tuple[str, ...]  #: names of the cells that ended in an error


class _TaskFailed(Exception):
    """An artefact could not be made; its traceback belongs to every cell that wanted it."""

    def __init__(self, label: str, cause: Exception, trace: str) -> None:
        super().__init__(f"{label}: {type(cause).__name__}: {cause}")
        self.trace = trace


def pending(plan: Plan, run: Run) -> list[Job]:
    """The cells that have no finished record made from the same parts."""
    waiting = []
    for job in plan.jobs:
        try:
            record = run.read(job.cell.name)
        except DataError:
            record = None  # a damaged record is a cell to judge again
        if record is None or record.key != job.key or record.status == "error":
            waiting.append(job)
    return waiting


def missing_tasks(jobs: list[Job], store: Path) -> list[Task]:
    """The artefacts that these cells still want made, needs first; nothing under one that is there already."""
    roots = (need for job in jobs for need in job.needs)
    return every_task(roots, leave_out=lambda task: (store / task.kind / task.key).exists())


def execute(
    settings: Settings, plan: Plan, store: Store, run: Run, report: Callable[[str, int, int], None] = lambda *_: None
) -> Outcome:
    """Judges every cell that has no finished record.

    Args:
        report: called with (what is being done, cells ended, cells in all).

    Raises:
        UserError: something that all cells need is wrong (data, weights, disk). What was finished is kept.
    """
    jobs = pending(plan, run)
    bench = Workbench(settings, store)
    judge = Judge(bench)
    broken: dict[str, _TaskFailed] = {}
    origin = provenance(bench)
    failed = []

    def ensure(task: Task) -> None:
        if task.key in broken:
            raise broken[task.key]
        if store.get(task.kind, task.key) is not None:
            return
        for need in task.needs:
            ensure(need)
        report(task.label, ended, len(jobs))
        try:
            make(bench, task)
        except (UserError, OSError):
            raise
        except Exception as error:
            broken[task.key] = _TaskFailed(task.label, error, traceback.format_exc())
            raise broken[task.key] from error

    for ended, job in enumerate(jobs):
        report(f"{job.cell.kind}: {job.cell.defense} {job.cell.attack}".rstrip(), ended, len(jobs))
        started = time.perf_counter()
        try:
            for need in job.needs:
                ensure(need)
            report(f"judging {job.cell.defense} {job.cell.attack}".rstrip(), ended, len(jobs))
            verdict = judge.judge(job)
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
                provenance=origin,
                origin=job.origin,
                artefacts=tuple(task.key for task in every_task(job.needs)),
                time_s=round(time.perf_counter() - started, 2),
            )
            run.write(record, verdict.scores, verdict.samples)
        except (UserError, OSError):
            raise
        except Exception as error:
            cause = error.__cause__ if isinstance(error, _TaskFailed) else error
            if isinstance(cause, NotApplicable):
                run.write(Record(cell=job.cell, key=job.key, status="skipped", reason=str(cause), provenance=origin))
                continue
            trace = error.trace if isinstance(error, _TaskFailed) else traceback.format_exc()
            reason = str(error) if isinstance(error, _TaskFailed) else f"{type(error).__name__}: {error}"
            failed.append(job.cell.name)
            run.write(
                Record(
                    cell=job.cell,
                    key=job.key,
                    status="error",
                    reason=reason,
                    traceback=trace,
                    provenance=origin,
                    time_s=round(time.perf_counter() - started, 2),
                )
            )
    return Outcome(len(jobs) - len(failed), len(plan.jobs) - len(jobs), tuple(failed))


def provenance(bench: Workbench) -> dict[str, Any]:
    """Versions and hardware that a figure may depend on."""
    versions = {"veilbench": __version__, "python": platform.python_version(), "torch": torch.__version__}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "versions": versions,
        "protocol": PROTOCOL,
        "device": str(bench.device),
        "precision": precision_name(bench.device),
        "machine": f"{platform.machine()} {platform.system()}",
        "threads": torch.get_num_threads(),
        "config": Path(bench.settings.path).name,
    }
