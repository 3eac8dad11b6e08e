"""Where the time of a run went: by kind of artefact, by defence or by attack."""

from __future__ import annotations

from typing import Literal

import pandas as pd

from bench.errors import DataError
from bench.storage.records import Run

By = Literal["kind", "defense", "attack"]

_NOBODY = "(shared)"  #: artefacts that belong to no single defence, or to no attack


def costs(run: Run, by: By = "kind") -> pd.DataFrame:
    """One row per group, the most expensive first.

    Columns: the group, `items` (artefacts and cells), `processor_s`, `share` of all processor time (0 to 1), `wall_s`
    (of the artefacts alone). An artefact counts once, however many cells share it, and with what it took when it was
    made, which may have been in an earlier run; one that no record needs, as after a change of settings, does not.
    The first artefact of a scene includes loading its faces. The training of a decoder at level `encoder` is shared by
    defences, and stands under the one for which it was made.

    Raises:
        DataError: the run has noted no costs.
    """
    noted = run.costs()
    if not noted:
        raise DataError(f"{run.folder}: no costs.json, or a damaged one; the same veilbench run writes it again")
    records = run.records()
    used = {key for record in records for key in record.artefacts}
    rows = [
        {
            "kind": row.get("kind", ""),
            "defense": row.get("defense", ""),
            "attack": row.get("attack", ""),
            "processor_s": row.get("processor_s", 0.0),
            "wall_s": row.get("wall_s", 0.0),
        }
        for row in noted
        if row["key"] in used
    ]
    for record in records:
        names = {"kind": f"judging {record.cell.kind}", "defense": record.cell.defense, "attack": record.cell.attack}
        rows.append({**names, "processor_s": record.judging_s, "wall_s": 0.0})
    table = pd.DataFrame(rows)
    table["kind"] = table["kind"].str.replace("_", " ")
    grouped = table.replace({by: {"": _NOBODY}}).groupby(by, sort=False)
    found = grouped.agg(items=("kind", "size"), processor_s=("processor_s", "sum"), wall_s=("wall_s", "sum"))
    found.insert(2, "share", found["processor_s"] / max(1e-9, float(found["processor_s"].sum())))
    return found.sort_values("processor_s", ascending=False).reset_index()
