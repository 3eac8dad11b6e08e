"""The commands about the public leaderboard: its pages, and repeating a sample of an archive's cells."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from bench.cli.options import UserPath


@click.command()
@click.argument("archives", metavar="ARCHIVE...", nargs=-1, required=True, type=UserPath())
@click.option("--output", "-o", required=True, type=UserPath(), help="The folder to write.")
@click.option("--docs", type=UserPath(), help="The folder with findings.md (default: docs/ of the project, if there).")
@click.option("--docs-url", default="", metavar="URL", help="Where the documentation is published, to link to it.")
def site(archives: tuple[Path, ...], output: Path, docs: Path | None, docs_url: str) -> None:
    """Write the public leaderboard's pages from archives of `export`, or from folders of runs.

    A page per family of defences, one per defence, how to submit, and the limits. They load nothing from elsewhere.
    """
    from bench.report.site.pages import write_site
    from bench.storage.files import ROOT

    click.echo(write_site(archives, output, docs or ROOT / "docs", docs_url))


@click.command()
@click.argument("archive", type=UserPath())
@click.option("--output", "-o", required=True, type=UserPath(), help="The folder of the new run.")
@click.option("--sample", default=2, show_default=True, type=click.IntRange(1), help="Defences and attacks to repeat.")
@click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting, such as a path.")
@click.option("--markdown", type=UserPath(), help="Also write the comparison as Markdown.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON.")
def repeat(
    archive: Path, output: Path, sample: int, overrides: tuple[str, ...], markdown: Path | None, as_json: bool
) -> None:
    """Run a sample of an archive's cells again, with the settings in it, and compare the figures.

    The sample is one dataset, recogniser and seed with some defences and attacks, drawn by the archive's hash. This
    executes the sources of plugins that the archive contains: treat it as you would any code of a stranger.

    Exit status: 0 no figure differs by more than the tolerances of [compare] and chance; 1 one does, a cell failed, or
    the archive is inconsistent; 2 it cannot be repeated here (data, settings).
    """
    from bench.analysis.compare import Finding, passed
    from bench.analysis.submission import verify
    from bench.cli.repeating import repeat as again
    from bench.report.compare import render
    from bench.storage.files import replacing

    problems = verify(archive)
    if problems:
        click.echo("\n".join([*problems, f"{archive}: inconsistent; nothing was repeated"]), err=True)
        sys.exit(1)
    findings: list[Finding] = again(archive, output, sample, overrides)
    if markdown is not None:
        with replacing(markdown) as temporary:
            temporary.write_text(render(findings, "md"), encoding="utf-8")
    cells = sorted({finding.cell for finding in findings})
    text = render(findings, "json" if as_json else "md")
    click.echo(text if as_json else f"{text}\n{len(cells)} cells of {archive.name} were repeated.")
    sys.exit(0 if passed(findings) and all(f.verdict != "better" for f in findings) else 1)
