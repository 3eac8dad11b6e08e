"""Estimates the time and disk space of a run by timing its parts on random images; makes no artefacts."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.durations import duration
from bench.forecast.probe import Item, Probe
from bench.plan import Job, Plan, Task
from bench.runner.serial import missing_tasks, pending
from bench.settings.model import Settings
from bench.storage.records import Run
from bench.toolkit.precision import keep_freed_memory


@dataclass(frozen=True)
class Estimate:
    """The estimated work of a run."""

    items: tuple[Item, ...]
    cells: int  #: cells to judge
    finished: int  #: cells that are already finished

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        totals = {"seconds": sum(i.seconds for i in self.items), "bytes": sum(i.bytes for i in self.items)}
        return {**asdict(self), **totals}

    def text(self) -> str:
        """Formatted for the terminal."""
        if not self.cells:
            return f"Nothing to do: all {self.finished} cells are finished."
        groups: dict[str, list[Item]] = {}
        for item in self.items:
            groups.setdefault(item.what, []).append(item)
        rows = {f"{len(some)} x {what}" if len(some) > 1 else what: some for what, some in groups.items()}
        width = max(map(len, rows))
        lines = [
            f"{what:<{width}}  {duration(sum(i.seconds for i in some)):>9}  {_size(sum(i.bytes for i in some)):>9}"
            for what, some in (*rows.items(), ("total, about", list(self.items)))
        ]
        lines.append(
            f"{self.cells} cells to judge, {self.finished} already finished. Alignment of new faces is not included."
        )
        return "\n".join(lines)


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def estimate(settings: Settings, plan: Plan, run: Run) -> Estimate:
    """The missing artefacts and cells, with estimated seconds and bytes on this machine."""
    jobs = pending(plan, run)
    items = costs(settings, missing_tasks(jobs, Path(settings.run.store)), jobs)
    return Estimate(tuple(items), len(jobs), len(plan.jobs) - len(jobs))


def costs(settings: Settings, tasks: list[Task], jobs: list[Job]) -> list[Item]:
    """The estimated cost of each artefact and then of each cell on this machine."""
    keep_freed_memory()  # as the run does
    probes = {scene: Probe(settings, scene) for scene in {*(t.scene for t in tasks), *(j.scene for j in jobs)}}
    return [probes[task.scene].task(task) for task in tasks] + [probes[job.scene].job(job) for job in jobs]
