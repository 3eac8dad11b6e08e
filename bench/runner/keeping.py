"""Frees artefacts that no cell waits for any more, as `run.keep` says, and notes first what they took to make."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Collection, Iterable
from typing import Any

from bench.plan import Job, Plan, Task, every_task
from bench.settings.model import Keep
from bench.storage.records import Run
from bench.storage.store import Store

log = logging.getLogger("veilbench")

#: What the attacked system consists of: kept with the templates, so that a new attack computes no defence again.
_SYSTEM = frozenset(
    {"identity", "judge_identity", "defense_state", "templates", "server_state", "embeddings", "protected"}
)


class Keeper:
    """Watches a run's cells and frees what the last of them needed.

    Artefacts behind the records of a run beside this one are kept in any case, and everything is while another run
    uses the store. A cell that failed is judged again by the next call, so its artefacts stay.
    """

    def __init__(self, keep: Keep, plan: Plan, waiting: Iterable[Job], store: Store, run: Run) -> None:
        self._keep, self._store, self._run = keep, store, run
        self._waiting: Counter[str] = Counter()
        self._judged: set[str] = set()
        self._others: set[str] | None = None
        if keep != "all":
            self._waiting.update(task.key for job in waiting for task in every_task(job.needs))
            self._free(plan.tasks())  # what an interrupted call has left

    def judged(self, job: Job, failed: bool) -> None:
        """A cell has a record now."""
        if self._keep == "all" or failed or job.key in self._judged:  # a cell that killed a worker ends twice
            return
        self._judged.add(job.key)
        needed = every_task(job.needs)
        self._waiting.subtract(task.key for task in needed)
        self._free(needed)

    def _free(self, tasks: Iterable[Task]) -> None:
        ready = [
            task
            for task in tasks
            if self._waiting[task.key] <= 0
            and (self._keep == "records" or task.kind not in _SYSTEM)
            and self._store.folder(task.kind, task.key).exists()
            and task.key not in self._behind_others()
        ]
        if not ready:
            return
        if not self._store.used_alone():
            log.warning(
                "run.keep: another run uses %s, so nothing is freed until this run is called again", self._store.root
            )
            self._keep = "all"
            return
        self._run.note_costs([row for task in ready if (row := cost(task, self._store)) is not None])
        for task in ready:
            self._store.free(task.kind, task.key)

    def _behind_others(self) -> set[str]:
        """Keys of the artefacts behind the records of the runs beside this one."""
        if self._others is None:
            runs = [
                Run(place) for place in self._run.folder.absolute().parent.glob("*") if (place / "records").is_dir()
            ]
            own = self._run.folder.resolve()
            self._others = {
                key
                for run in runs
                if run.folder.resolve() != own
                for name in run.names()
                for key in run.artefacts(name)
            }
        return self._others


def cost(task: Task, store: Store) -> dict[str, Any] | None:
    """What an artefact took to make, whenever that was: its names, `wall_s` and `processor_s`; None if unknown."""
    took = store.took(task.kind, task.key)
    if took is None:
        return None
    scene = {"dataset": task.scene.dataset, "recognizer": task.scene.recognizer, "seed": task.seed}
    return {"kind": task.kind, "defense": task.defense, "attack": task.attack, "key": task.key, **scene, **took}


def costs(planned: Plan, store: Store, noted: Collection[str] = ()) -> list[dict[str, Any]]:
    """The costs of a plan's artefacts, a row each.

    Args:
        noted: keys of artefacts to leave out, whose manifests need not be read again.
    """
    rows = (cost(task, store) for task in planned.tasks() if task.key not in noted)
    return [row for row in rows if row is not None]
