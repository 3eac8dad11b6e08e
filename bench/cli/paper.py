"""The commands `veilbench paper` and `veilbench data`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Literal

import click
from rich.console import Console

from bench.cli.options import UserPath, with_config, with_workers

_NAMES = ("table1", "table2", "table3", "table4", "figure3", "figure4", "figure5", "figure6")


@click.command()
@click.argument("what", metavar="WHAT", type=click.Choice([*_NAMES, "all"]))
@with_config
@click.option("--output", "-o", type=UserPath(), help="Folder for records, tables and figures (default: RUN-paper).")
@click.option(
    "--knowledge",
    default="",
    metavar="LEVEL",
    help="Also do table 4 and figure 6 at this level of knowledge, such as enrolment.",
)
@click.option("--estimate", is_flag=True, help="Print the estimated time and disk space on this machine, and exit.")
@with_workers
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress bars.")
def paper(
    what: str,
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    knowledge: str,
    estimate: bool,
    workers: Literal["auto"] | int,
    scheduler: str,
    as_json: bool,
    quiet: bool,
) -> None:
    """Regenerate WHAT of the AdvFace paper: table1 to table4, figure3 to figure6, or all.

    Runs only missing cells. Tables are written as Markdown, CSV and LaTeX, figures as PNG and PDF. Figures 3, 5 and 6
    show faces of the data set: check before you share them.

    Exit status: 0 all cells judged; 1 some failed; 2 wrong settings; 130 interrupted, 143 terminated.
    """
    from bench.paper.gather import campaign, compute, fill
    from bench.runner.cluster.submit import Cluster
    from bench.toolkit.progress import progress_shown

    work = campaign(_NAMES if what == "all" else [what], config, profile, overrides, output, knowledge)
    where = Cluster.of(workers, scheduler, work.settings)
    if estimate:
        from bench.paper.estimate import estimate_paper

        expected = estimate_paper(work)
        click.echo(json.dumps(expected.as_dict(), indent=1) if as_json else expected.text())
        return
    with progress_shown(Console(stderr=True, quiet=quiet)) as display:
        failed = compute(work, where, display.report)
    from bench.paper.figures import write_figure
    from bench.paper.tables import render_markdown, write_table

    written: list[Path] = []
    for filled in fill(work):
        written += write_table(filled, work.output)
        if not filled.layout.is_table:
            written += write_figure(filled, work.run)
        if not as_json:
            click.echo(render_markdown(filled))
    if as_json:
        click.echo(json.dumps({"written": [str(p) for p in written], "failed": failed, "missing": dict(work.missing)}))
    else:
        click.echo("\n".join(map(str, written)))
    sys.exit(1 if failed else 0)
