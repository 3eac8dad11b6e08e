"""Estimates what the paper's tables and figures take on this machine, by timing."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.forecast.costs import Estimate, estimate
from bench.forecast.schedule import trains
from bench.paper.gather import Campaign
from bench.plan import Task
from bench.runner.serial import missing_tasks, pending


@dataclass(frozen=True)
class PaperEstimate:
    """An estimate with the counts of trainings, images and steps."""

    trainings: int  #: networks to train
    images: int  #: templates to compute and reconstructions to judge
    pgd_steps: int  #: gradient steps per image of defences that optimise a template
    total: Estimate
    missing: dict[str, str]  #: by role: the reason why nothing can be run

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        counts = {"trainings": self.trainings, "images": self.images, "pgd_steps": self.pgd_steps}
        return {**counts, **self.total.as_dict(), "missing": self.missing}

    def text(self) -> str:
        """Formatted for the terminal."""
        lines = [
            f"{self.trainings} trainings; {self.images:,} images to protect or rebuild; {self.pgd_steps:,} PGD steps.",
            self.total.text(),
            *(f"impossible here: {role}: {why}" for role, why in self.missing.items()),
        ]
        return "\n".join(lines)


def estimate_paper(work: Campaign) -> PaperEstimate:
    """Estimates without computing anything. Columns with missing data are named and not counted."""
    if work.settings is None:
        return PaperEstimate(0, 0, 0, Estimate((), 0, 0), dict(work.missing))
    whole = work.plan()
    tasks = missing_tasks(pending(whole, work.run), Path(work.settings.run.store))
    trainings = sum(trains(work.settings, task) for task in tasks)
    images, steps = 0, 0
    for task in tasks:
        count = _images(work, task)
        images += count
        defense = work.settings.defenses.get(task.defense)
        if count and task.kind != "reconstruction" and hasattr(defense, "alpha"):
            steps += count * int(getattr(defense, "iterations", 0))
    return PaperEstimate(trainings, images, steps, estimate(work.settings, whole, work.run), dict(work.missing))


def _images(work: Campaign, task: Task) -> int:
    assert work.settings is not None
    presents = task.kind == "presentation" or (task.kind == "login" and not task.need("presentation"))
    if task.kind not in ("templates", "reconstruction") and not presents:
        return 0
    run = work.settings.run
    test = work.settings.datasets[task.scene.dataset].size()[0]
    test = min(test, 2 * run.pairs) if run.pairs else test
    if task.kind == "templates":
        return test
    attacked = min(test, run.images or test)
    return min(attacked, test // 2) if presents else attacked
