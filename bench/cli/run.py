"""The commands that plan, run and clean up."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console

from bench.cli.options import UserPath, err, with_config, with_workers
from bench.cli.results import print_leaderboard


@click.command()
@with_config
@click.option("--output", "-o", type=UserPath(), help="Folder for records and reports (run.output).")
@click.option(
    "--dry-run", is_flag=True, help="Print what would be computed, with estimated disk space and time, and exit."
)
@click.option("--strict", is_flag=True, help="Exit with 1 if an attack fails the self-test (run.canaries).")
@with_workers
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress bars.")
def run(
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    dry_run: bool,
    strict: bool,
    workers: Literal["auto"] | int,
    scheduler: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Run the matrix: judge every cell that has no finished record.

    Exit status: 0 all cells judged; 1 some failed, or with --strict an attack failed the self-test; 2 wrong settings,
    data or disk; 130 interrupted, 143 terminated.
    """
    if dry_run:
        from bench.forecast.costs import estimate
        from bench.plan import plan
        from bench.settings.resolve import load
        from bench.storage.records import Run

        settings = load(config, profile, overrides)
        if output is not None:
            settings = settings.moved(output)
        expected = estimate(settings, plan(settings), Run(Path(settings.run.output)))
        click.echo(json.dumps(expected.as_dict(), indent=1) if as_json else expected.text())
        return
    from bench import api
    from bench.toolkit.progress import progress_shown

    with progress_shown(Console(stderr=True, quiet=quiet)) as display:
        results = api.run(
            config, profile, overrides, output=output, workers=workers, scheduler=scheduler, report=display.report
        )
    folder, outcome = results.runs[0], results.outcome
    assert outcome is not None
    if as_json:
        click.echo(json.dumps({"folder": str(folder.folder), **outcome.__dict__}))
    else:
        _summary(folder, outcome)
    if strict:
        from bench.analysis.selftest import trials

        void = sorted({f"{trial.attack} on canary~{trial.canary}" for trial in trials(folder) if not trial.passed})
        if void:
            err.print(f"veilbench: attacks failed the self-test: {'; '.join(void)}", style="red", markup=False)
            sys.exit(1)
    sys.exit(1 if outcome.failed else 0)


@click.command()
@with_config
@click.option("--estimate", is_flag=True, help="Also estimate the time on 1, 8 and 64 workers like this machine.")
@click.option(
    "--defenses", type=click.IntRange(1), metavar="N", help="Assume this many defences, like the configured ones."
)
@click.option("--attacks", type=click.IntRange(1), metavar="N", help="Assume this many attacks.")
@click.option("--datasets", type=click.IntRange(1), metavar="N", help="Assume this many datasets.")
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="Assume this many seeds.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def plan(
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    estimate: bool,
    as_json: bool,
    **size: int | None,
) -> None:
    """Print the size of the whole matrix, as configured or scaled; computes nothing."""
    from dataclasses import asdict

    from bench.forecast.schedule import Size, forecast
    from bench.plan import plan as make
    from bench.settings.resolve import load

    settings = load(config, profile, overrides)
    found = forecast(settings, make(settings), Size(**size), measured=estimate)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else found.text())


def _summary(folder: Any, outcome: Any) -> None:
    from bench.analysis.keyed import template_leaderboard
    from bench.analysis.leaderboard import leaderboard
    from bench.report.keyed import render_templates
    from bench.report.leaderboard import render, render_files

    frame, keyed = leaderboard(folder), template_leaderboard(folder)
    if len(frame):
        if sys.stdout.isatty():
            print_leaderboard(frame)
        else:
            click.echo(render(frame, "md"))
    if len(keyed):
        click.echo(render_templates(keyed, "md"))
    if odd := render_files(folder.records()):
        click.echo(odd)
    click.echo(f"\n{outcome.done} cells judged, {outcome.kept} already finished, {len(outcome.failed)} failed.")
    for name in outcome.failed:
        record = folder.read(name)
        click.echo(f"  failed: {name}: {record.reason if record else ''}")
    click.echo(f"Reports and records: {folder.folder}{os.sep}")


@click.command()
@with_config
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def config(config: Path | None, profile: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Print the resolved settings, including profile, overrides, sweeps and defaults."""
    from bench.settings.resolve import load

    settings = load(config, profile, overrides)
    if as_json:
        click.echo(json.dumps(settings.as_dict(), indent=1))
        return
    click.echo(f"# {settings.path}" + (f", profile {profile}" if profile else ""))
    for section, entries in settings.as_dict().items():
        if section in ("run", "metrics", "compare"):
            click.echo(f"\n[{section}]")
            for key, value in entries.items():
                click.echo(f"{key} = {json.dumps(value)}")
            continue
        if section == "judge":
            section, entries = "recognizers", {settings.run.judge: entries} if entries else {}
        for label, parameters in entries.items():
            click.echo(f"\n[{section}.{json.dumps(label) if not label.isidentifier() else label}]")
            for key, value in parameters.items():
                click.echo(f"{key} = {json.dumps(value)}")


@click.command()
@with_config
@click.option("--dry-run", is_flag=True, help="Only print how much would be freed.")
@click.option("--run", "runs", multiple=True, type=UserPath(exists=True), help="Another run whose artefacts are kept.")
def clean(
    config: Path | None, profile: str | None, overrides: tuple[str, ...], dry_run: bool, runs: tuple[Path, ...]
) -> None:
    """Delete artefacts that no record needs: those of other settings, older sources or killed runs.

    Keeps the artefacts behind the records of every run folder beside run.output, and those of --run. Also deletes what
    an interrupted run made for cells that it did not reach, so finish such a run first.
    """
    from bench.settings.resolve import load
    from bench.storage.records import Run
    from bench.storage.store import Store

    settings = load(config, profile, overrides)
    output = Path(settings.run.output)
    folders = {*(p for p in output.parent.glob("*") if (p / "records").is_dir()), *runs}
    keep = {key for folder in folders for name in Run(folder).names() for key in Run(folder).artefacts(name)}
    store = Path(settings.run.store)
    count, size = Store(store).clean(keep, dry_run) if store.exists() else (0, 0)
    click.echo(f"{'would free' if dry_run else 'freed'} {size / 1e9:.2f} GB in {count} artefacts of {store}")
