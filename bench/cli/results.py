"""The commands about finished runs: tables, pages, comparisons and archives."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.cli.options import UserPath, out, run_argument, with_config

_FORMATS = ("md", "csv", "tex", "json")


def print_leaderboard(frame: Any, columns: Sequence[str] = ()) -> None:
    """Prints the summary on a terminal, or the selected columns of the leaderboard at any width."""
    from bench.report.terminal import needed_width, verdict_table, wide_table

    if not columns:
        out.print(verdict_table(frame, out.width), highlight=False)
        return
    table = wide_table(frame, columns)
    Console(width=max(out.width, needed_width(table, out))).print(table, highlight=False)


@click.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=UserPath())
@click.option("--columns", default="", metavar="NAME,...", help="Show these columns, by their names in the CSV.")
@click.option("--wide", is_flag=True, help="Show every column, at any width.")
@click.option("--sort", default="", metavar="NAME", help="Sort by this column, best first; `defense`: alphabetically.")
@click.option(
    "--format",
    "fmt",
    type=click.Choice(_FORMATS),
    help="Output format (default: a table on a terminal, otherwise Markdown).",
)
@click.option("--embeddings", is_flag=True, help="Show the table of the attacks on embeddings instead.")
@click.option("--templates", is_flag=True, help="Show the leaderboard of keyed defences instead.")
def leaderboard(
    runs: tuple[Path, ...], columns: str, wide: bool, sort: str, fmt: Any, embeddings: bool, templates: bool
) -> None:
    """Print the leaderboard of a run, or of several runs and archives (see `export`) together.

    On a terminal: what each defence hides from which attacker and at what cost, as a table that fits the width and in
    words.
    """
    from bench.analysis.columns import BY_NAME
    from bench.analysis.embeddings import embedding_attacks
    from bench.analysis.keyed import template_leaderboard
    from bench.analysis.leaderboard import check_columns, merged, sorted_by
    from bench.analysis.leaderboard import leaderboard as make
    from bench.analysis.submission import unpacked
    from bench.errors import UserError
    from bench.report.embeddings import render_embedding_attacks
    from bench.report.keyed import render_templates
    from bench.report.leaderboard import render

    chosen = [name.strip() for name in columns.split(",") if name.strip()]
    check_columns(chosen, "--columns")
    if wide and chosen:
        raise UserError("use either --wide (every column) or --columns (some)")
    if (embeddings or templates) and (chosen or wide or sort or len(runs) > 1 or (embeddings and templates)):
        option = "--embeddings" if embeddings else "--templates"
        raise UserError(f"{option} works on one run, always shows all columns, and stands alone")
    if embeddings:
        with unpacked(runs[0]) as run:
            click.echo(render_embedding_attacks(embedding_attacks(run), fmt or "md"))
        return
    if templates:
        with unpacked(runs[0]) as run:
            keyed = template_leaderboard(run)
        if not len(keyed):
            raise UserError(f"{runs[0]}: no keyed defence in this run; see veilbench run --profile templates")
        click.echo(render_templates(keyed, fmt or "md"))
        return
    if len(runs) > 1:
        frame = merged(runs)
    else:
        with unpacked(runs[0]) as run:
            frame = make(run)
    if not len(frame):
        raise UserError(f"{runs[0]}: only keyed defences here; use --templates")
    frame = sorted_by(frame, sort) if sort else frame
    if fmt or not sys.stdout.isatty():
        click.echo(render(frame, fmt or "md", columns=[*BY_NAME] if wide else chosen))
    else:
        print_leaderboard(frame, [*BY_NAME] if wide else chosen)


@click.command()
@run_argument
@click.option("--by", type=click.Choice(["kind", "defense", "attack"]), default="kind", help="What to add up.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def costs(folder: Path, by: Any, as_json: bool) -> None:
    """Print where a run's processor time went: trainings, templates, reconstructions, judging."""
    from bench.analysis.costs import costs as added_up
    from bench.report.text import markdown, number_text
    from bench.storage.records import Run

    run = Run(folder)
    table = added_up(run, by)
    if as_json:
        click.echo(table.to_json(orient="records", indent=1))
        return
    total, wall = float(table["processor_s"].sum()), sum(float(call["wall_s"]) for call in run.times())
    rows = [[by.replace("defense", "defence"), "items", "processor s", "share"]]
    columns = (table[name].tolist() for name in (by, "items", "processor_s", "share"))
    rows += [
        [who, f"{items:,}", number_text(seconds, 1), f"{100 * share:.1f} %"]
        for who, items, seconds, share in zip(*columns, strict=True)
    ]
    click.echo(markdown(rows))
    click.echo(
        f"\n{total:,.0f} s of processor time in all; {wall:,.0f} s of wall-clock time in {len(run.times())} call(s)."
    )


@click.command()
@run_argument
@click.option("--output", "-o", type=UserPath(), help="The archive to write (default: RUN.zip).")
@click.option("--plugin", "plugins", multiple=True, type=UserPath(), help="Add the .py file of an own plugin.")
def export(folder: Path, output: Path | None, plugins: tuple[Path, ...]) -> None:
    """Pack a run for a public leaderboard: records, per-image scores and settings, without images of faces."""
    from bench.analysis.submission import export as make
    from bench.storage.records import Run

    path = make(Run(folder), output or folder.with_name(f"{folder.name}.zip"), plugins)
    click.echo(f"{path}: {path.stat().st_size / 1e6:.1f} MB")


@click.command()
@click.argument("archive", type=UserPath())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(archive: Path, as_json: bool) -> None:
    """Check an archive of `export`: hashes, schema, and whether the figures follow from the scores.

    Exit status: 0 consistent; 1 figures that do not follow from the scores; 2 not an archive, or changed after it was
    made.
    """
    from bench.analysis.submission import unpacked
    from bench.analysis.submission import verify as check

    problems = check(archive)
    with unpacked(archive) as run:
        records = run.records()
    flags = sorted({flag for record in records for flag in record.flags})
    if as_json:
        click.echo(json.dumps({"sound": not problems, "problems": problems, "cells": len(records), "flags": flags}))
    else:
        click.echo(
            "\n".join(
                [*problems, f"{len(records)} cells, {len(problems)} problems; flags: {'; '.join(flags) or 'none'}"]
            )
        )
    sys.exit(1 if problems else 0)


@click.command()
@with_config
@click.argument("base", type=UserPath())
@click.argument("new", type=UserPath())
@click.option("--json", "as_json", is_flag=True, help="Print every finding as JSON.")
@click.option("--junit", type=UserPath(), help="Also write a JUnit XML file.")
@click.option("--markdown", type=UserPath(), help="Also write Markdown, for example for a pull request.")
def compare(
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    base: Path,
    new: Path,
    as_json: bool,
    junit: Path | None,
    markdown: Path | None,
) -> None:
    """Compare run NEW with run BASE (folders or archives), cell by cell; [compare] sets the tolerances.

    Exit status: 0 no cell is worse, missing, failed or incomparable; 1 some are; 2 no such run.
    """
    from bench.analysis.compare import compare as make
    from bench.analysis.compare import passed
    from bench.analysis.submission import unpacked
    from bench.report.compare import junit as as_junit
    from bench.report.compare import render
    from bench.settings.toml import tolerances
    from bench.storage.files import replacing

    with unpacked(base) as before, unpacked(new) as after:
        findings = make(before, after, tolerances(config, profile, overrides))
    for path, text in ((junit, as_junit(findings)), (markdown, render(findings, "md"))):
        if path is not None:
            with replacing(path) as temporary:
                temporary.write_text(text, encoding="utf-8")
    click.echo(render(findings, "json" if as_json else "md"))
    sys.exit(0 if passed(findings) else 1)


@click.command()
@run_argument
@click.argument("one", metavar="DEFENCE")
@click.argument("other", metavar="[OTHER]", required=False)
@click.option("--format", "fmt", type=click.Choice(["md", "csv", "json"]), default="md", show_default=True)
def paired(folder: Path, one: str, other: str | None, fmt: Any) -> None:
    """Compare two defences of a run or archive on the same images, attack by attack, with intervals of the differences.

    Without OTHER: compare the accuracy of all others with that of DEFENCE on the same pairs, with p values corrected
    for the number of comparisons.
    """
    from bench.analysis.paired import accuracies
    from bench.analysis.paired import paired as make
    from bench.analysis.submission import unpacked
    from bench.report.paired import render_accuracies, render_paired

    with unpacked(folder) as run:
        text = render_paired(make(run, one, other), fmt) if other else render_accuracies(accuracies(run, one), one, fmt)
    click.echo(text)


@click.command()
@run_argument
@click.option("--output", "-o", type=UserPath(), help="The folder to write (default: RUN/report).")
def report(folder: Path, output: Path | None) -> None:
    """Write a folder with a single page, index.html, that shows all results and needs no network."""
    from bench.report.page import write_page
    from bench.storage.records import Run

    click.echo(write_page(Run(folder), output or folder / "report"))
