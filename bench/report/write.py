"""Writes all reports of a finished run beside its records."""

from __future__ import annotations

from pathlib import Path

from bench.analysis.embeddings import embedding_attacks
from bench.analysis.keyed import template_leaderboard
from bench.analysis.leaderboard import leaderboard
from bench.report.curve import curve
from bench.report.embeddings import render_embedding_attacks
from bench.report.floor import floor_figure
from bench.report.grid import write_grids
from bench.report.heatmap import heatmap, save
from bench.report.keyed import render_templates
from bench.report.keyed_figures import det, template_curves
from bench.report.leaderboard import render
from bench.report.page import write_page
from bench.report.scatter import scatter
from bench.report.text import Format
from bench.storage.files import replacing
from bench.storage.records import Run

_FORMATS: tuple[Format, ...] = ("md", "csv", "tex")


def write_reports(run: Run) -> list[Path]:
    """leaderboard.md, .csv, .tex; templates.* and DET curves if a defence has keys; other figures; report/index.html.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    written = []
    frame = leaderboard(run)
    for fmt in _FORMATS:
        path = run.folder / f"leaderboard.{fmt}"
        with replacing(path) as temporary:
            temporary.write_text(render(frame, fmt, run), encoding="utf-8")
        written.append(path)
    stolen = embedding_attacks(run)
    for fmt in _FORMATS[1:] if len(stolen) else ():
        path = run.folder / f"embeddings.{fmt}"
        with replacing(path) as temporary:
            temporary.write_text(render_embedding_attacks(stolen, fmt), encoding="utf-8")
        written.append(path)
    keyed = template_leaderboard(run)
    for fmt in _FORMATS if len(keyed) else ():
        path = run.folder / f"templates.{fmt}"
        with replacing(path) as temporary:
            temporary.write_text(render_templates(keyed, fmt), encoding="utf-8")
        written.append(path)
    for metric in ("ssim", "psnr_db") if len(frame) else ():
        written += save(heatmap(run, metric), run.folder / f"heatmap_{metric.removesuffix('_db')}")
    points = scatter(run)
    written += save(points, run.folder / "scatter") if points else []
    floors = floor_figure(run)
    written += save(floors, run.folder / "mse_floor") if floors else []
    gained = curve(run)
    written += save(gained, run.folder / "curve_ssim") if gained else []
    for name, draw in (("det", det), ("templates_curves", template_curves)) if len(keyed) else ():
        drawn = draw(run)
        written += save(drawn, run.folder / name) if drawn else []
    return [*written, *write_grids(run), write_page(run, run.folder / "report")]
