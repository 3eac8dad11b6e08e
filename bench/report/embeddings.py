"""Renders the table of attacks on stolen embeddings, which are not part of the worst case."""

from __future__ import annotations

import json

import pandas as pd

from bench.analysis.embeddings import measured
from bench.report.text import Format, booktabs, figure_text, markdown, number_text


def render_embedding_attacks(frame: pd.DataFrame, fmt: Format) -> str:
    """The table as text; see `bench.report.leaderboard.render` for the formats."""
    if fmt == "csv":
        return frame.to_csv(index=False)
    if fmt == "json":
        return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)
    metrics = measured(frame)
    headings = ["defence", "attack (level)", "targets", "queries each", *(m.title for m in metrics)]
    parts = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        rows = [[*headings, "flags"]]
        for row in some.to_dict("records"):
            figures = [
                figure_text(row[m.name], row[f"{m.name}_low"], row[f"{m.name}_high"], m.decimals) for m in metrics
            ]
            counts = [number_text(row["targets"], 0), number_text(row["queries"], 0)]
            said = f"failed: {row['failed']}" if row["failed"] else row["flags"]
            rows.append([row["defense"], f"{row['attack']} ({row['level']})", *counts, *figures, said])
        title = f"Attacks on embeddings: {dataset}, {recognizer}"
        if fmt == "tex":
            parts.append(booktabs([row[:-1] for row in rows], "llrr" + "r" * len(metrics), title))
        else:
            parts.append(f"### {title}\n\n{markdown(rows)}\n\n{_NOTE}")
    return "\n\n".join(parts) + "\n"


_NOTE = (
    "Here the embedding is stolen and not the template, so these attacks have no part in the worst case above. "
    "Black-box: a query embeds one image. *SRRA I*: share of the targets for whom the reconstruction is accepted."
)
