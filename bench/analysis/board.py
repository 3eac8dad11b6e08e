"""A run's records averaged over seeds, the input of every table and figure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path

import pandas as pd

from bench.labels import Knowledge
from bench.metrics.bootstrap import measure
from bench.seeds import derive_seed
from bench.storage.records import Cell, Measure, Record, Run

LEVELS = {str(level): level for level in Knowledge}
UNKNOWN = Measure(None)
_DIGITS = re.compile(r"(\d+)")
KEYED = ("protection", "crossmatch", "inversion", "picture")  #: kinds of cell that only keyed defences have


@dataclass(frozen=True, eq=False)
class Entry:
    """One defence under one attack (or alone), over all seeds.

    `failed` is the reason why there is no figure; a cell that failed with any seed counts as failed.
    """

    cell: Cell  #: the first seed's
    records: tuple[Record, ...]
    metrics: dict[str, Measure]
    failed: str = ""
    scores: pd.DataFrame | None = field(default=None, repr=False)  #: per-image scores, averaged over seeds
    spread: Mapping[str, float] = field(default_factory=dict)  #: standard deviation between seeds, if there are several

    @property
    def skipped(self) -> bool:
        """Whether the attack does not apply here, which is not a failure."""
        return all(record.status == "skipped" for record in self.records)

    @property
    def why(self) -> str:
        """The reason why there is no figure."""
        return self.failed if self.skipped else f"failed: {self.failed}"

    def metric(self, name: str) -> Measure:
        """A figure, without a value if there is none."""
        return self.metrics.get(name, UNKNOWN)


@dataclass(frozen=True, eq=False)
class Board:
    """All entries of one dataset and recogniser."""

    dataset: str
    recognizer: str
    entries: tuple[Entry, ...]

    @property
    def defenses(self) -> list[str]:
        """Labels of defences, the least private under any attack first; without controls, canaries and keyed ones."""

        def leaked(defense: str) -> float:
            return max((e.metric("ssim").value or 0.0 for e in self.under(defense, "reconstruction")), default=0.0)

        real = {e.cell.defense for e in self.entries if not e.cell.probe and e.cell.kind not in KEYED}
        return sorted(real, key=lambda d: (-leaked(d), d))

    @property
    def keyed(self) -> list[str]:
        """Labels of keyed defences, which have a leaderboard of their own, without canaries; numbers sort by value."""
        found = {e.cell.defense for e in self.entries if not e.cell.probe and e.cell.kind in KEYED}
        return sorted(
            found, key=lambda label: [(int(p), "") if p.isdecimal() else (0, p) for p in _DIGITS.split(label)]
        )

    @property
    def attacks(self) -> list[str]:
        """Reconstruction attacks on templates, by ascending level of knowledge."""
        return self.attacks_of("reconstruction")

    def attacks_of(self, kind: str) -> list[str]:
        """Attacks on templates in cells of this kind, by ascending level of knowledge."""
        cells = [e.cell for e in self.entries if e.cell.kind == kind and e.cell.leaks == "template"]
        return sorted(
            {c.attack for c in cells}, key=lambda a: min((LEVELS[c.level].place, a) for c in cells if c.attack == a)
        )

    def find(self, kind: str, defense: str, attack: str = "") -> Entry | None:
        """The entry of this kind, if there is one."""
        return next((e for e in self._by_row.get((defense, kind), ()) if e.cell.attack == attack), None)

    def under(self, defense: str, kind: str) -> list[Entry]:
        """All entries of a kind for one defence."""
        return list(self._by_row.get((defense, kind), ()))

    @cached_property
    def _by_row(self) -> dict[tuple[str, str], list[Entry]]:
        found: dict[tuple[str, str], list[Entry]] = {}
        for entry in self.entries:
            found.setdefault((entry.cell.defense, entry.cell.kind), []).append(entry)
        return found


def boards(run: Run) -> list[Board]:
    """One board per dataset and recogniser, read once for all tables of a run: again only if a record has changed.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    return list(_boards(run.folder.absolute(), run.state()))


@lru_cache(maxsize=2)
def _boards(folder: Path, _: object) -> tuple[Board, ...]:
    run = Run(folder)
    places: dict[tuple[str, str], dict[tuple[str, str, str], list[Record]]] = {}
    for record in run.records():
        cell = record.cell
        entries = places.setdefault((cell.dataset, cell.recognizer), {})
        entries.setdefault((cell.kind, cell.defense, cell.attack), []).append(record)
    return tuple(
        Board(dataset, recognizer, tuple(_entry(run, records) for records in entries.values()))
        for (dataset, recognizer), entries in sorted(places.items())
    )


def _entry(run: Run, records: list[Record]) -> Entry:
    records = sorted(records, key=lambda r: r.cell.seed)
    first = records[0]
    bad = [record for record in records if record.status != "ok"]
    if bad:
        return Entry(first.cell, tuple(records), {}, f"{bad[0].status}: {bad[0].reason}")
    scores = run.scores(first.cell) if first.cell.kind in ("reconstruction", "inversion") else None
    if len(records) == 1:
        return Entry(first.cell, (first,), dict(first.metrics), scores=scores)
    if scores is None:
        means = [r.metrics for r in records]
        return Entry(first.cell, tuple(records), _means(means), spread=_spread(means))
    # Average over seeds before images: seeds are not people, and must not make an interval narrower.
    # Accepted or not is a share, whose interval is of another kind: its mean is averaged as it is.
    names = [c for c in scores.columns if c not in ("name", "subject") and scores[c].dtype != bool]
    every = [scores, *(run.scores(record.cell) for record in records[1:])]
    scores = scores.copy()
    scores[names] = sum(frame[names].to_numpy() for frame in every) / len(every)
    owners = scores["subject"].to_numpy(dtype=object)
    seed = derive_seed("bootstrap", first.cell.dataset)
    metrics = {name: measure(scores[name].to_numpy(), owners, seed=seed) for name in names}
    spread = _spread([r.metrics for r in records])
    averaged = _means([r.metrics for r in records])
    return Entry(first.cell, tuple(records), {**averaged, **metrics}, scores=scores, spread=spread)


def _spread(metrics: Sequence[Mapping[str, Measure]]) -> dict[str, float]:
    """Standard deviation (n - 1) between seeds, of each figure that all of them have."""
    found = {}
    for name in metrics[0]:
        values = [m[name].value for m in metrics if name in m and m[name].value is not None]
        if len(values) == len(metrics) > 1:
            found[name] = statistics.stdev(v for v in values if v is not None)
    return found


def _means(metrics: Iterable[Mapping[str, Measure]]) -> dict[str, Measure]:
    """Means over seeds of figures and of their interval limits."""
    every = list(metrics)
    found: dict[str, Measure] = {}
    for name, first in every[0].items():
        same = [m[name] for m in every if name in m]
        if any(m.value is None for m in same):
            found[name] = first
            continue

        def mean(part: str, same: list[Measure] = same) -> float | None:
            values = [getattr(m, part) for m in same]
            return None if any(v is None for v in values) else sum(values) / len(values)

        found[name] = Measure(mean("value"), mean("low"), mean("high"), first.n, first.note)
    return found
