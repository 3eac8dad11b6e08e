"""Runs the missing cells of the paper's tables and figures, and collects their figures."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench.analysis.board import Board, boards
from bench.errors import DataError
from bench.labels import family
from bench.paper.layouts import ROLES, Layout, Slot, layout
from bench.paper.published import Key, published
from bench.paper.settings import PaperSettings, load_paper
from bench.paper.status import Status, judge
from bench.plan import Plan, plan
from bench.runner.cluster.submit import Cluster, carry_out
from bench.settings.model import Settings
from bench.settings.resolve import load
from bench.storage.records import Measure, Run
from bench.storage.store import Store
from bench.toolkit.progress import Advance


@dataclass(frozen=True)
class Cell:
    """A slot with its measured figure."""

    slot: Slot
    status: Status
    measure: Measure | None = None
    published: float | None = None

    @property
    def deviation(self) -> float | None:
        """Measured minus published, in the metric's unit."""
        if self.measure is None or self.measure.value is None or self.published is None:
            return None
        return self.measure.value - self.published


@dataclass(frozen=True, eq=False)
class Filled:
    """A layout with every slot filled or labelled, and the data behind it."""

    layout: Layout
    cells: tuple[Cell, ...]
    recognizer: str
    datasets: Mapping[str, str]  #: label by role
    boards: Mapping[str, Board] = field(default_factory=dict, repr=False)  #: by role


@dataclass(frozen=True, eq=False)
class Campaign:
    """The requested layouts, with the settings for what they need."""

    layouts: tuple[Layout, ...]
    settings: Settings | None  #: None if there is no data at all
    missing: Mapping[str, str]  #: by role: the reason why nothing can be run
    paper: PaperSettings
    output: Path

    @property
    def run(self) -> Run:
        """The folder of the records, next to the tables."""
        return Run(self.output)

    def plan(self) -> Plan:
        """The cells that the layouts need, including each defence's utility cell for the number of pairs."""
        if self.settings is None:
            return Plan(())
        slots = [slot for one in self.layouts for slot in one.slots]
        wanted = {("utility", slot.defense, "") for slot in slots}
        wanted |= {(slot.kind, slot.defense, slot.attack) for slot in slots}
        return Plan(
            tuple(
                job for job in plan(self.settings).jobs if (job.cell.kind, job.cell.defense, job.cell.attack) in wanted
            )
        )


def campaign(
    names: Sequence[str],
    config: Path | None,
    profile: str | None,
    overrides: Sequence[str],
    output: Path | None,
    knowledge: str = "",
) -> Campaign:
    """Settings for the requested tables, with the columns whose data is available.

    Raises:
        UserError: the settings are wrong, or `[paper]` is incomplete.
    """
    paper = load_paper(config, profile, overrides)
    layouts = tuple(layout(name, paper, knowledge) for name in names)
    # A swept label stands for all of its points.
    labels = list(dict.fromkeys(family(label) for one in layouts for label in one.defenses()))
    chosen: dict[str, Any] = {
        "run.recognizers": [paper.recognizer],
        "run.defenses": labels,
        "run.attacks": list(dict.fromkeys(label for one in layouts for label in one.attacks())),
        "run.replay": True,
        "metrics.lpips": False,  # the paper does not use it
    }

    def settings(datasets: list[str]) -> Settings:
        every = {**chosen, "run.datasets": datasets}
        # JSON lists of plain names are valid TOML.
        return load(config, profile, [*overrides, *(f"{key}={json.dumps(value)}" for key, value in every.items())])

    missing: dict[str, str] = {}
    for role, title in ROLES.items():
        label = paper.datasets.get(role, "")
        if not label:
            missing[role] = f"no {title}: name a set for it in [paper] datasets.{role}"
            continue
        try:
            one = settings([label])
            for dataset in (*one.datasets.values(), *one.public.values()):
                dataset.size()
            for recognizer in one.recognizers.values():
                recognizer.weights_hash()
        except DataError as error:
            missing[role] = str(error)
    there = [paper.datasets[role] for role in ROLES if role not in missing]
    whole = settings(there) if there else None
    if output is None:
        base = Path(whole.run.output) if whole else Path("results/paper-run")
        output = base.with_name(f"{base.name}-paper") if whole else base
    if whole:
        whole = whole.moved(output)
    return Campaign(layouts, whole, missing, paper, output)


def compute(work: Campaign, cluster: Cluster, report: Callable[[Advance], None] = lambda _: None) -> list[str]:
    """Judges the cells without a record, in this process or on a cluster; returns the names of failed cells."""
    work.run.prepare()
    if work.settings is None:
        return []
    store = Store(Path(work.settings.run.store), work.settings.run.mirror)
    with store.in_use():
        return list(carry_out(cluster, work.settings, work.plan(), store, work.run, report).failed)


def fill(work: Campaign, printed: Mapping[Key, float] | None = None) -> list[Filled]:
    """Every layout with its figures from the records."""
    printed = published() if printed is None else printed
    every = boards(work.run) if work.settings and work.run.names() else []
    by_role = {
        role: board
        for role, label in work.paper.datasets.items()
        for board in every
        if role not in work.missing and (board.dataset, board.recognizer) == (label, work.paper.recognizer)
    }
    return [
        Filled(
            one,
            tuple(_cell(work, slot, by_role.get(slot.role), printed) for slot in one.slots),
            work.paper.recognizer,
            {role: label for role, label in work.paper.datasets.items() if role not in work.missing},
            by_role,
        )
        for one in work.layouts
    ]


def _cell(work: Campaign, slot: Slot, board: Board | None, printed: Mapping[Key, float]) -> Cell:
    known = printed.get(slot.published) if slot.published else None
    if slot.role in work.missing:
        return Cell(slot, Status("impossible here", work.missing[slot.role]), published=known)
    if not slot.defense or (slot.kind != "utility" and not slot.attack):
        return Cell(slot, Status("impossible here", f"[paper] names no label for {' x '.join(slot.row)}"), None, known)
    entry = board.find(slot.kind, slot.defense, slot.attack) if board else None
    if entry is None:
        return Cell(slot, Status("not run", "no record: run the same command again"), published=known)
    measure = entry.metric(slot.metric)
    if entry.failed or measure.value is None:
        return Cell(slot, Status("failed", entry.failed or measure.note or "no figure"), published=known)
    utility = board.find("utility", slot.defense) if board else None
    pairs = utility.records[0].info.get("pairs") if utility else None
    assert work.settings is not None
    return Cell(slot, judge(work.settings, work.paper, slot.role, slot.defense, slot.attack, pairs), measure, known)
