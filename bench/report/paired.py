"""Renders the comparison of two defences on the same images, and of all accuracies with one on the same pairs."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd

from bench.analysis.paired import METRICS
from bench.report.text import Format, figure_text, markdown


def render_paired(frame: pd.DataFrame, fmt: Format) -> str:
    """The differences as text: `md`, `csv` or `json`."""
    if fmt != "md":
        return _for_scripts(frame, fmt)
    one, other = frame.iloc[0]["one"], frame.iloc[0]["other"]
    rows = [["dataset", "recogniser", "attack", *(m.heading for m in METRICS), "n", "gives away less"]]
    for row in frame.to_dict("records"):
        figures = [
            figure_text(row.get(m.name, np.nan), row.get(f"{m.name}_low"), row.get(f"{m.name}_high"), m.decimals)
            for m in METRICS
        ]
        verdict = one if row["ssim_high"] < 0 else other if row["ssim_low"] > 0 else "within noise"
        rows.append([row["dataset"], row["recognizer"], row["attack"], *figures, str(row["n"]), verdict])
    note = "Differences on the same images; 95 % intervals by paired bootstrap over identities; verdict by SSIM."
    return f"## {one} minus {other}\n\n{markdown(rows)}\n\n{note}\n"


def render_accuracies(frame: pd.DataFrame, reference: str, fmt: Format) -> str:
    """Differences in accuracy from one defence as text: `md`, `csv` or `json`."""
    if fmt != "md":
        return _for_scripts(frame, fmt)
    rows = [["dataset", "recogniser", "defence", "ACC", f"minus {reference}", "p", "p (Holm)", "pairs"]]
    for row in frame.to_dict("records"):
        difference = figure_text(row["difference"], row["difference_low"], row["difference_high"], 3)
        place, shares = [row["dataset"], row["recognizer"], row["defense"]], [_p(row[p]) for p in ("p", "p_holm")]
        rows.append([*place, f"{row['acc']:.3f}", difference, *shares, str(row["n"])])
    note = (
        "Differences on the same pairs, with 95 % intervals that allow for pairs that share a person. p (Holm) is "
        "corrected for the number of defences on the dataset."
    )
    return f"## Accuracy, against {reference}\n\n{markdown(rows)}\n\n{note}\n"


def _p(value: float) -> str:
    return "≤ .001" if value <= 0.001 else f"{value:.3f}".removeprefix("0")


def _for_scripts(frame: pd.DataFrame, fmt: Format) -> str:
    if fmt == "csv":
        return frame.to_csv(index=False)
    return json.dumps(json.loads(frame.to_json(orient="records")), indent=1)
