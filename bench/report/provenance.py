"""Collects the provenance of a run's figures from its records: flags, versions, settings and parameters."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bench.analysis.flags import meaning
from bench.durations import duration
from bench.storage.records import Record


def flags(records: Sequence[Record], boards: Mapping[str, Collection[str]]) -> list[dict[str, Any]]:
    """Each flag once, with its meaning and where it occurs; `boards`: flags of a defence over all of its cells."""
    places: dict[str, dict[str, set[str]]] = {}
    for record in records:
        for flag in record.flags:
            found = places.setdefault(flag, {}).setdefault(record.cell.defense, set())
            found.add(record.cell.attack or "recognition")
    for defense, seen in boards.items():
        for flag in seen:
            places.setdefault(flag, {}).setdefault(defense, {"all attacks together"})
    return [
        {"flag": flag, "meaning": meaning(flag), "places": {d: sorted(a) for d, a in sorted(where.items())}}
        for flag, where in sorted(places.items())
    ]


def _same(records: Sequence[Record], part: str) -> list[tuple[dict[str, Any], int]]:
    """The distinct values of a part of the records, with the number of records for each, the most frequent first."""
    texts = [json.dumps(dict(getattr(record, part)), sort_keys=True, default=str) for record in records]
    counts = sorted(((text, texts.count(text)) for text in set(texts)), key=lambda pair: (-pair[1], pair[0]))
    return [(json.loads(text), count) for text, count in counts]


def origins(records: Sequence[Record]) -> list[dict[str, Any]]:
    """Versions and machines, each with the number of cells that were judged there."""
    found = []
    for origin, count in _same(records, "provenance"):
        versions = origin.pop("versions", {})
        found.append({"count": count, "rows": {**versions, **origin}})
    return found


def settings(records: Sequence[Record]) -> dict[str, list[str]]:
    """The variant of each metric; several texts if records differ."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.settings.items():
            found.setdefault(name, set()).add(value if isinstance(value, str) else json.dumps(value))
    return {name: sorted(values) for name, values in sorted(found.items()) if name != "thresholds"}


def parameters(records: Sequence[Record]) -> dict[str, str]:
    """The defences' and attacks' parameters as JSON, by their owner."""
    found: dict[str, str] = {}
    for record in records:
        for role, label in (("defense", record.cell.defense), ("attack", record.cell.attack)):
            if record.parameters.get(role) is not None and label:
                word = "defence" if role == "defense" else role
                text = json.dumps(record.parameters[role], indent=2, sort_keys=True)
                found.setdefault(f"{word} {label}", text)
    return dict(sorted(found.items()))


def time_taken(records: Sequence[Record], calls: Sequence[Mapping[str, Any]]) -> str:
    """The duration of a run and what it includes: of its calls, or, if unknown, what its records add up to.

    Args:
        calls: the result of `bench.storage.records.Run.times`.
    """
    if calls:
        wall = sum(float(call["wall_s"]) for call in calls)
        spread = sorted({int(call.get("workers") or 0) for call in calls})
        where = "in one process" if spread == [0] else f"on {' and '.join(map(str, spread))} workers"
        count = "one call" if len(calls) == 1 else f"{len(calls)} calls"
        return f"{duration(wall)} of wall-clock time in {count} {where}, without artefacts that were already stored"
    judged = sum(record.time_s for record in records)
    return f"{duration(judged)} in the cells themselves; shared artefacts and those made by workers are not included"
