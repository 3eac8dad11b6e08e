"""Simulates a matrix of any size on many machines by list-scheduling its graph with measured costs."""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import Any

from bench.contracts import Attack, Knowledge, ReplayAttack
from bench.durations import duration
from bench.forecast.costs import costs
from bench.labels import harness_part, is_harness
from bench.plan import Job, Plan, Task, every_task
from bench.settings.model import Settings

WORKERS = (1, 8, 64)

_STATES = ("defense_state", "surrogate_state", "server_state", "attack_state", "picture_decoder", "key_attack_state")
_ATTACKED = (
    "attack_state", "reconstruction", "linkage", "traits", "clean_traits", "presentation", "login",
    "key_attack_state", "crossmatch", "inversion", "picture_decoder", "pictures",
)  # fmt: skip


@dataclass(frozen=True)
class Node:
    """An artefact to make or a cell to judge. In a graph, nodes follow what they need."""

    name: str
    needs: tuple[str, ...] = ()
    seconds: float = 0.0
    trains: bool = False
    cell: bool = False


@dataclass(frozen=True, kw_only=True)
class Size:
    """How many of each a matrix has; None: as many as configured. Further ones cost as much as the configured ones."""

    defenses: int | None = None
    attacks: int | None = None
    datasets: int | None = None
    seeds: int | None = None


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """The size and duration of a matrix. Seconds are None if nothing was measured."""

    cells: int
    artefacts: int
    trainings: int
    unshared: int  #: number of trainings without sharing between cells
    total_s: float | None = None
    critical_s: float | None = None  #: seconds of the longest chain of dependencies
    makespan_s: Mapping[int, float] | None = None  #: seconds by number of workers

    def text(self) -> str:
        """Formatted for the terminal."""
        lines = [
            f"{self.cells:,} cells from {self.artefacts:,} artefacts.",
            f"{self.trainings:,} trainings; sharing saves {self.unshared - self.trainings:,} more.",
        ]
        if self.total_s is not None and self.critical_s is not None and self.makespan_s is not None:
            lines.append(f"Work: {duration(self.total_s)}; longest chain: {duration(self.critical_s)}.")
            for workers, seconds in self.makespan_s.items():
                busy = f", {self.total_s / (workers * seconds):.0%} busy" if seconds else ""
                lines.append(f"  {workers:>3} worker{'s' * (workers > 1)}: {duration(seconds)}{busy}")
        return "\n".join(lines)


def forecast(settings: Settings, plan: Plan, size: Size, measured: bool = True) -> Forecast:
    """Simulates a matrix of any size without making artefacts; one worker is as fast as this machine.

    Args:
        measured: time each part; otherwise only count.
    """
    tasks, jobs = plan.tasks(), list(plan.jobs)
    names = [*(task.key for task in tasks), *(job.cell.name for job in jobs)]
    seconds = [item.seconds for item in costs(settings, tasks, jobs)] if measured else [0.0] * len(names)
    nodes = _graph(settings, plan, size, dict(zip(names, seconds, strict=True)))
    counts: dict[str, Any] = {
        "cells": sum(node.cell for node in nodes),
        "artefacts": sum(not node.cell for node in nodes),
        "trainings": sum(node.trains for node in nodes),
        "unshared": _unshared(nodes),
    }
    if not measured:
        return Forecast(**counts)
    return Forecast(
        **counts,
        total_s=sum(node.seconds for node in nodes),
        critical_s=critical_path(nodes),
        makespan_s={workers: makespan(nodes, workers) for workers in WORKERS},
    )


# ------------------------------------------------------------------------------------------------------- schedule


def _tails(nodes: Sequence[Node]) -> dict[str, float]:
    """Seconds from a node's start to the end of the longest chain that depends on it."""
    after: dict[str, float] = {node.name: 0.0 for node in nodes}
    tails = {}
    for node in reversed(nodes):
        tails[node.name] = node.seconds + after[node.name]
        for need in node.needs:
            after[need] = max(after[need], tails[node.name])
    return tails


def critical_path(nodes: Sequence[Node]) -> float:
    """The lower bound in seconds for any number of workers."""
    return max(_tails(nodes).values(), default=0.0)


def makespan(nodes: Sequence[Node], workers: int) -> float:
    """Seconds on so many workers, if each takes the available node with the longest remaining chain.

    Graham (1966): at most total / workers + critical path x (1 - 1 / workers).
    """
    tails = _tails(nodes)
    by_name = {node.name: node for node in nodes}
    waits = {node.name: len(set(node.needs)) for node in nodes}
    wanted_by: dict[str, list[str]] = {node.name: [] for node in nodes}
    for node in nodes:
        for need in set(node.needs):
            wanted_by[need].append(node.name)
    ready = [(-tails[name], name) for name, count in waits.items() if not count]
    heapq.heapify(ready)
    running: list[tuple[float, str]] = []
    now = 0.0
    while ready or running:
        while ready and len(running) < workers:
            name = heapq.heappop(ready)[1]
            heapq.heappush(running, (now + by_name[name].seconds, name))
        now, ended = heapq.heappop(running)
        for name in wanted_by[ended]:
            waits[name] -= 1
            if not waits[name]:
                heapq.heappush(ready, (-tails[name], name))
    return now


def _unshared(nodes: Sequence[Node]) -> int:
    behind: dict[str, frozenset[str]] = {}  # trainings below a node; computed once, because there are many cells
    count = 0
    for node in nodes:
        own = frozenset([node.name] if node.trains else []).union(*(behind[need] for need in node.needs))
        if node.cell:
            count += len(own)
        else:
            behind[node.name] = own
    return count


# ---------------------------------------------------------------------------------------------------------- graph


def trains(settings: Settings, task: Task) -> bool:
    """Whether an artefact is a training: its plugin has a recipe for it and uses it in its mode."""
    if task.kind not in _STATES:
        return False
    if task.kind == "picture_decoder":
        return True
    attacked = task.kind in ("attack_state", "key_attack_state")
    plugin: Any = settings.attacks[task.attack] if attacked else settings.defenses[task.defense]
    wanted = ("recipe",) if task.kind == "server_state" else ("training", "recipe")
    return any(hasattr(plugin, name) for name in wanted)


def _knows_defense(settings: Settings, task: Task) -> bool:
    """Whether an artefact belongs to one defence; attacks that only learn from E serve all."""
    if task.kind in ("identity", "judge_identity", "clean_traits"):
        return False
    if task.kind != "attack_state":
        return True
    attack: Any = settings.attacks[task.attack]
    for _ in range(task.bases):
        attack = attack.base
    return attack.level >= Knowledge.ALGORITHM or any(_knows_defense(settings, need) for need in task.needs)


def _family(label: str, attacks: Mapping[str, Attack]) -> str:
    """A replay is counted with the attack that it presents."""
    attack = attacks.get(label)
    return attack.attack if isinstance(attack, ReplayAttack) and attack.present == "image" else label


def _copies(families: Sequence[Any], wanted: int | None) -> dict[Any, int]:
    """Distributes a number over the configured items in turn; returns how often each occurs."""
    count = len(families) if wanted is None else wanted
    return {family: max(0, math.ceil((count - place) / len(families))) for place, family in enumerate(families)}


def _graph(settings: Settings, plan: Plan, size: Size, seconds: Mapping[str, float]) -> list[Node]:
    """The plan's artefacts and cells, copied to the requested size; a control is copied with its defence."""
    defenses = _copies([label for label in settings.defenses if not is_harness(label)], size.defenses)
    attacks = _copies(list(dict.fromkeys(_family(label, settings.attacks) for label in settings.attacks)), size.attacks)
    datasets, seeds = _copies(settings.run.datasets, size.datasets), _copies(settings.run.seeds, size.seeds)
    nodes: dict[str, Node] = {}

    def copies(job: Job) -> Iterator[tuple[int, int, int, int]]:
        cell = job.cell
        times = (
            datasets[cell.dataset],
            seeds[cell.seed],
            defenses.get(harness_part(cell.defense)[0], 1),  # canaries occur only once
            attacks[_family(cell.attack, settings.attacks)] if cell.attack else 1,
        )
        yield from product(*map(range, times))

    def named(task: Task, copy: tuple[int, int, int, int]) -> str:
        dataset, seed, defense, attack = copy
        own = (defense if _knows_defense(settings, task) else 0, attack if task.kind in _ATTACKED else 0)
        return "/".join(map(str, (task.key, dataset, seed, *own)))

    for job in plan.jobs:
        below = every_task(job.needs)
        for copy in copies(job):
            for task in below:
                name = named(task, copy)
                if name not in nodes:
                    needs = tuple(named(need, copy) for need in task.needs)
                    nodes[name] = Node(name, needs, seconds[task.key], trains(settings, task))
            name = "/".join(map(str, (job.cell.name, *copy)))
            nodes[name] = Node(name, tuple(named(need, copy) for need in job.needs), seconds[job.cell.name], cell=True)
    return list(nodes.values())
