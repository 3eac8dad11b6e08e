"""Compares two runs cell by cell: better, worse, unchanged, or not comparable."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Literal

import numpy as np
import pandas as pd

from bench.errors import DataError
from bench.labels import harness_part, is_canary
from bench.metrics.bootstrap import paired_difference
from bench.metrics.catalogue import Metric, find
from bench.metrics.proportions import CHOSEN_THRESHOLDS, share_difference
from bench.seeds import derive_seed
from bench.settings.model import CompareSettings
from bench.storage.records import Cell, Measure, Record, Run

Verdict = Literal["better", "worse", "within noise", "new failure", "mended", "missing", "new", "not comparable"]

BAD: tuple[Verdict, ...] = ("worse", "new failure", "missing", "not comparable")


@dataclass(frozen=True)
class Finding:
    """One metric of one cell in both runs; or a whole cell, if `metric` is empty."""

    cell: str
    metric: str
    verdict: Verdict
    base: float | None = None
    new: float | None = None
    low: float | None = None  #: 95 % interval of new - base, if both have scores of the same images or pairs
    high: float | None = None
    note: str = ""


def compare(base: Run, new: Run, tolerances: CompareSettings) -> list[Finding]:
    """Findings for every cell of either run, the bad ones first.

    Cells match by name (dataset, recogniser, defence, attack, level, seed). If the protocol, the data, the recogniser
    or a plugin's parameters differ, they are not comparable; a plugin's code may differ, because detecting its effects
    is the purpose of a gate. Better and worse usually refer to the defence: a stronger reconstruction is worse. On
    unprotected systems and canaries they refer to the benchmark: an attack that became weaker makes every defence look
    good, so a weaker reconstruction is worse.

    A difference counts if it exceeds the tolerance and its paired interval, if there is one, excludes 0.

    Raises:
        DataError: a run has no records, or damaged ones.
    """
    old, current = ({r.cell.name: r for r in run.records()} for run in (base, new))
    found: list[Finding] = []
    for name in sorted({*old, *current}):
        if name not in current:
            found.append(Finding(name, "", "missing", note="the new run has no such cell"))
        elif name not in old:
            found.append(Finding(name, "", "new"))
        else:
            found += _cell(base, new, old[name], current[name], tolerances)
    return sorted(found, key=lambda f: (f.verdict not in BAD, f.cell, f.metric))


def _cell(base: Run, new: Run, old: Record, current: Record, tolerances: CompareSettings) -> list[Finding]:
    name = old.cell.name
    if "error" in (old.status, current.status) and old.status != current.status:
        if current.status == "error":
            return [Finding(name, "", "new failure", note=current.reason)]
        return [Finding(name, "", "mended", note=f"failed before: {old.reason}")]
    changed = _changed(old, current)
    if changed:
        return [Finding(name, "", "not comparable", note=changed)]
    if current.status != "ok" or old.status != "ok":
        same = current.status == old.status
        return [] if same else [Finding(name, "", "not comparable", note=f"{old.status} before, {current.status} now")]
    tables = (_scores(base, old.cell), _scores(new, current.cell))
    found = []
    for metric, before in old.metrics.items():
        after = current.metrics.get(metric)
        known = find(metric)
        if known is None or not known.compared or after is None:
            continue
        if before.value is None or after.value is None:
            if (before.value is None) != (after.value is None):
                why = after.note or before.note or "one run lacks it"
                found.append(Finding(name, metric, "not comparable", before.value, after.value, note=why))
            continue
        found.append(_metric(old, known, metric, before, after, tables, tolerances, _remark(old, current)))
    return found


def _changed(old: Record, current: Record) -> str:
    """The reason why two cells of one name are not comparable, if there is one."""
    if old.provenance.get("protocol") != current.provenance.get("protocol"):
        return f"protocol {old.provenance.get('protocol')} before, {current.provenance.get('protocol')} now"
    for part in ("data", "recognizer"):
        if old.origin.get(part) != current.origin.get(part):
            return f"another {part}: {old.origin.get(part, '?')[:12]} before, {current.origin.get(part, '?')[:12]} now"
    before, after = (json.loads(json.dumps(r.parameters, sort_keys=True)) for r in (old, current))
    for who in ("defense", "attack"):
        one, other = before.get(who) or {}, after.get(who) or {}
        for key in sorted({*one, *other}):
            if one.get(key) != other.get(key):
                return f"{who}'s {key}: {one.get(key)!r} before, {other.get(key)!r} now"
    return ""


def _remark(old: Record, current: Record) -> str:
    return "" if old.origin.get("code") == current.origin.get("code") else "code changed"


def _scores(run: Run, cell: Cell) -> pd.DataFrame | None:
    try:
        return run.scores(cell)
    except DataError:
        return None


def _metric(
    record: Record,
    known: Metric,
    metric: str,
    before: Measure,
    after: Measure,
    tables: tuple[pd.DataFrame | None, pd.DataFrame | None],
    tolerances: CompareSettings,
    remark: str,
) -> Finding:
    assert before.value is not None and after.value is not None
    low, high = paired_interval(record, known.column or metric, tables)
    difference = after.value - before.value
    sign = known.better * (-1 if _tests_attacks(record) and record.cell.kind != "utility" else 1)
    if harness_part(record.cell.defense)[1] == "closed":
        sign = 0  # reconstructions from the closed canary are judged by the run's self-test
    verdict: Verdict = "within noise"
    certain = low is None or high is None or not low <= 0 <= high
    if sign and certain and abs(difference) > tolerances.of(known):
        verdict = "better" if difference * sign > 0 else "worse"
    return Finding(record.cell.name, metric, verdict, before.value, after.value, low, high, remark)


def _tests_attacks(record: Record) -> bool:
    return bool(record.info.get("stores_features")) or is_canary(record.cell.defense)


def paired_interval(
    record: Record, column: str, tables: tuple[pd.DataFrame | None, pd.DataFrame | None]
) -> tuple[float | None, float | None]:
    """95 % interval of the second table's mean minus the first's, if both scored the same items; else None."""
    one, other = tables
    if one is None or other is None or column not in one or column not in other or len(one) != len(other):
        return None, None
    keys = [key for key in ("name", "left", "right", "other") if key in one and key in other]
    if not keys or not one[keys].equals(other[keys]):
        return None, None
    owners = one["subject"] if "subject" in one else one[["left", "right"]].map(_person)
    people = owners.to_numpy(dtype=object)
    first, second = (np.asarray(table[column], dtype=np.float64) for table in (other, one))
    if one[column].dtype == bool:
        inflation = CHOSEN_THRESHOLDS if record.cell.kind == "utility" else 1.0
        _, low, high = share_difference(first, second, people, inflation=inflation)
    else:
        seed = derive_seed("bootstrap", record.cell.dataset)
        _, low, high = paired_difference(first, second, people, seed=seed)
    return low, high


def _person(name: str) -> str:
    """The person an image shows, from its name `PERSON/IMAGE`; an image without a slash is its own person."""
    return str(name).rpartition("/")[0] or str(name)


# ------------------------------------------------------------------------------------------------------ rendering


def passed(findings: list[Finding]) -> bool:
    """Whether a gate should pass."""
    return not any(f.verdict in BAD for f in findings)
