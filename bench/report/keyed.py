"""Renders the leaderboard of keyed defences: two tables, of recognition and linking, and of inversion."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
from rich.table import Table
from rich.text import Text

from bench.analysis.keyed import INVERSION, RECOGNITION, YARDSTICKS, Column
from bench.report.text import Format, booktabs, figure_text, markdown


@dataclass(frozen=True)
class Part:
    """One of the tables; `remarks` are the leaderboard's columns, by how they are said, that it ends with."""

    title: str
    columns: Sequence[Column]
    remarks: Mapping[str, str]
    note: str


PARTS = (
    Part(
        "Protected templates: recognition, linking, renewal",
        RECOGNITION,
        {"linked by": "link_attack", "D_sys by": "d_sys_attack", "best score": "choice", "FMR": "fmr"},
        "95 % intervals over identities. *Normal*: impostors have keys of their own; *stolen token*: that of the "
        "claimed identity. *Linking AUC*: two applications' templates of one person against those of two; chance: .5. "
        "*D_sys*: 0 unlinkable, 1 linkable; up to the 95 % point beside it, chance explains it. The *best score* is "
        "chosen on half of the people, and its figures are of the other half. *FMR of renewed templates*: the rate "
        "under remarks if renewal works. *Replayed*: the stolen template itself, in place of a "
        "protected probe. Arrows point to better protection or better utility.",
    ),
    Part(
        "Protected templates: inversion",
        INVERSION,
        {"with key": "attack_key", "no key": "attack_none", "FMR": "fmr"},
        "95 % intervals over identities. *Recovered cosine*: of the best inversion's embedding with the true one; an "
        "average face's is above 0. "
        "*ISR*: the share of these that the unprotected system accepts, and *pre-image* that the protected one does, "
        "at the FMR under remarks; *after renewal*: another application does, under its key. *Picture*: a face made of "
        "the recovered embedding; *SAR*: the share that a recogniser which was not attacked accepts at FMR 1e-2; "
        "*accepted*: by the unprotected system; *login*: by the protected one. The last rows have the faces that the "
        "same decoder makes of the true embeddings, and the mean face of somebody who knows nothing. Arrows point to "
        "better protection.",
    ),
)


def render_templates(frame: pd.DataFrame, fmt: Format) -> str:
    """The tables as text; see `bench.report.leaderboard.render` for the formats."""
    if fmt == "csv":
        return frame.to_csv(index=False)
    if fmt == "json":
        return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)
    parts = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        for part in PARTS:
            title, rows = f"{part.title}: {dataset}, {recognizer}", keyed_rows(part, some.to_dict("records"))
            if fmt == "tex":
                parts.append(booktabs([row[:-1] for row in rows], "ll" + "r" * (len(rows[0]) - 3), title))
            else:
                parts.append(f"### {title}\n\n{markdown(rows)}\n\n{part.note}")
    return "\n\n".join(parts) + "\n"


def keyed_rows(part: Part, records: Sequence[Mapping[Any, Any]], whole: bool = False) -> list[list[str]]:
    """The headings, and a row of texts per row of `bench.analysis.keyed.board_templates`.

    Columns without any figure are left out, and so are the last rows in the part about recognition, unless `whole`.
    """
    shown = shown_columns(part, records)
    rows = [["defence", "keys", *(column.heading for column in shown), "remarks"]]
    for row in records:
        if row["defense"] in YARDSTICKS and part.columns is RECOGNITION and not whole:
            continue
        figures = [
            figure_text(row[c.name], row.get(f"{c.name}_low"), row.get(f"{c.name}_high"), c.decimals) for c in shown
        ]
        rows.append([str(row["defense"]), str(row["keys"]), *figures, remarks(part, row)])
    return rows


def shown_columns(part: Part, records: Sequence[Mapping[Any, Any]]) -> list[Column]:
    """The columns that have a figure."""
    return [column for column in part.columns if any(pd.notna(row[column.name]) for row in records)]


def template_table(frame: pd.DataFrame) -> list[Table]:
    """For a terminal: a table per dataset and recogniser with a row per figure and a column per defence."""
    tables = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        records = some.to_dict("records")
        table = Table(box=None, padding=(0, 1, 0, 0), pad_edge=False, title=f"{dataset}, {recognizer}")
        table.title_justify = "left"
        table.add_column("", no_wrap=True)
        for row in records:
            table.add_column(str(row["defense"]), justify="right", overflow="fold")
        for part in PARTS:
            head, *rows = keyed_rows(part, records, whole=True)
            table.add_row(Text(part.title.partition(": ")[2], style="bold"))
            for place, heading in list(enumerate(head))[2:]:
                table.add_row(heading, *(row[place] for row in rows))
        tables.append(table)
    return tables


def remarks(part: Part, row: Mapping[Any, Any]) -> str:
    """Who reached the figures, at which rate, and what is missing."""
    if row["skipped"]:
        return str(row["skipped"])
    parts = {said: row[column] for said, column in {**part.remarks, "void": "void", "failed": "failed"}.items()}
    return "; ".join(f"{what}: {value}" for what, value in parts.items() if value)
