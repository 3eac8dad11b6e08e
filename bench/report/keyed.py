"""Renders the leaderboard of keyed defences."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from bench.analysis.keyed import COLUMNS
from bench.report.text import Format, booktabs, figure_text, markdown

TITLE = "Protected templates"


def render_templates(frame: pd.DataFrame, fmt: Format) -> str:
    """The table as text; see `bench.report.leaderboard.render` for the formats."""
    if fmt == "csv":
        return frame.to_csv(index=False)
    if fmt == "json":
        return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)
    parts = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        title, rows = f"{TITLE}: {dataset}, {recognizer}", keyed_rows(some.to_dict("records"))
        if fmt == "tex":
            parts.append(booktabs([row[:-1] for row in rows], "ll" + "r" * len(COLUMNS), title))
        else:
            parts.append(f"### {title}\n\n{markdown(rows)}\n\n{NOTE}")
    return "\n\n".join(parts) + "\n"


def keyed_rows(records: Sequence[Mapping[Any, Any]]) -> list[list[str]]:
    """The headings, and a row of texts per row of `bench.analysis.keyed.board_templates`."""
    rows = [["defence", "keys", *(column.heading for column in COLUMNS), "remarks"]]
    for row in records:
        figures = [
            figure_text(row[c.name], row.get(f"{c.name}_low"), row.get(f"{c.name}_high"), c.decimals) for c in COLUMNS
        ]
        rows.append([str(row["defense"]), str(row["keys"]), *figures, _remarks(row)])
    return rows


def _remarks(row: Mapping[Any, Any]) -> str:
    """Who reached the figures, at which rate, and what is missing."""
    parts = {
        "with key": row["attack_key"], "no key": row["attack_none"], "linked by": row["link_attack"],
        "D_sys by": row["d_sys_attack"] if row["d_sys_attack"] != row["link_attack"] else "",
        "best score": "" if row["halved"] or not row["link_attack"] else "chosen and reported on the same people",
        "FMR": row["fmr"] if row["attack_key"] or row["attack_none"] else "", "void": row["void"],
        "failed": row["failed"],
    }  # fmt: skip
    said = [f"{what}: {value}" for what, value in parts.items() if value]
    return "; ".join([*said, str(row["skipped"])] if row["skipped"] else said)


NOTE = (
    "95 % intervals over identities. *Normal*: impostors have keys of their own; *stolen token*: that of the claimed "
    "identity. *Recovered cosine*: of the best inversion's embedding with the true one (an average face's is above 0); "
    "*ISR*: the share of these that the unprotected system accepts, and *pre-image* that the protected system does, at "
    "the FMR under remarks. "
    "*Linking AUC*: two applications' templates of one person against those of two; .5 is chance. "
    "*D_sys*: 0 unlinkable, 1 linkable; up to the 95 % point beside it, chance explains it. The *best score* is chosen "
    "on half of the people, and its figures are of the other half. *FMR of renewed "
    "templates*: the rate itself if renewal works. Arrows point to better protection or better utility."
)
