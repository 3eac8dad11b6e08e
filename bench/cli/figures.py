"""The commands that draw figures of a finished run."""

from __future__ import annotations

from pathlib import Path

import click

from bench.cli.options import UserPath, run_argument


@click.command()
@run_argument
@click.option("--level", default="", metavar="LEVEL", help="Up to this level of knowledge, such as enrolment.")
@click.option("--output", "-o", type=UserPath(), help="Base name (default: RUN/scatter).")
def scatter(folder: Path, level: str, output: Path | None) -> None:
    """Plot accuracy against the best reconstruction of any attack, as PNG and SVG.

    With --level: against the best reconstruction, and the best linkage, of attacks up to that level of knowledge.
    """
    from bench.errors import UserError
    from bench.report.heatmap import save
    from bench.report.scatter import scatter as draw
    from bench.storage.records import Run

    figure = draw(Run(folder), level)
    if figure is None:
        raise UserError(f"{folder}: fewer than two defences have both figures; nothing to compare")
    for path in save(figure, output or folder / (f"scatter_{level}" if level else "scatter")):
        click.echo(path)


@click.command()
@run_argument
@click.option("--metric", default="ssim", show_default=True, help="ssim, psnr_db, mse, lpips or cosine.")
@click.option("--output", "-o", type=UserPath(), help="Base name (default: RUN/curve_METRIC).")
def curve(folder: Path, metric: str, output: Path | None) -> None:
    """Plot the result of an attack along a sweep of one of its parameters, as PNG and SVG."""
    from bench.errors import UserError, near_miss
    from bench.report.curve import curve as draw
    from bench.report.heatmap import METRICS, save
    from bench.storage.records import Run

    if metric not in METRICS:
        raise UserError(f"no curve of {metric!r}.{near_miss(metric, METRICS)}")
    figure = draw(Run(folder), metric)
    if figure is None:
        raise UserError(f"{folder}: no attack was swept; set [attacks.NAME] sweep.PARAMETER = [1, 2, 3]")
    for path in save(figure, output or folder / f"curve_{metric.removesuffix('_db')}"):
        click.echo(path)


@click.command()
@run_argument
@click.option(
    "--metric",
    default="ssim",
    show_default=True,
    help="ssim, psnr_db, mse, lpips or cosine; of keyed templates inverted_cosine or picture_ssim.",
)
@click.option("--output", "-o", type=UserPath(), help="Base name (default: RUN/heatmap_METRIC).")
def heatmap(folder: Path, metric: str, output: Path | None) -> None:
    """Plot defences against attacks as a heatmap, as PNG and SVG."""
    from bench.report.heatmap import heatmap as draw
    from bench.report.heatmap import save
    from bench.storage.records import Run

    run = Run(folder)
    for path in save(draw(run, metric), output or folder / f"heatmap_{metric.removesuffix('_db')}"):
        click.echo(path)


@click.command()
@run_argument
@click.option("--defense", "-d", help="Only this defence.")
def grid(folder: Path, defense: str | None) -> None:
    """Draw originals beside their reconstructions, one picture per defence."""
    from bench.report.grid import write_grids
    from bench.storage.records import Run

    for path in write_grids(Run(folder), defense):
        click.echo(path)
