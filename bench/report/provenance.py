"""Where a run's figures come from: flags, versions, settings and parameters, gathered from its records."""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from bench.analysis.flags import meaning
from bench.storage.records import Record


def flags(records: Sequence[Record], boards: Mapping[str, Collection[str]]) -> list[dict[str, Any]]:
    """Each flag once: what it means, and where it stands; `boards`: a defence's, seen over all of its cells."""
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
    """The different values of a part of the records, with how many have each, the most frequent first."""
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
    """How each metric was taken; several texts where records differ."""
    found: dict[str, set[str]] = {}
    for record in records:
        for name, value in record.settings.items():
            found.setdefault(name, set()).add(value if isinstance(value, str) else json.dumps(value))
    return {name: sorted(values) for name, values in sorted(found.items()) if name != "thresholds"}


def parameters(records: Sequence[Record]) -> dict[str, str]:
    """The defences' and attacks' parameters as JSON, by what they belong to."""
    found: dict[str, str] = {}
    for record in records:
        for role, label in (("defense", record.cell.defense), ("attack", record.cell.attack)):
            if record.parameters.get(role) is not None and label:
                word = "defence" if role == "defense" else role
                text = json.dumps(record.parameters[role], indent=2, sort_keys=True)
                found.setdefault(f"{word} {label}", text)
    return dict(sorted(found.items()))


def duration(seconds: float) -> str:
    """Seconds as people say them."""
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"
