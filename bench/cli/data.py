"""Commands that fetch public data sets and report which are present."""

from __future__ import annotations

import json
from pathlib import Path

import click
from rich.console import Console

from bench.cli.options import UserPath


@click.group()
def data() -> None:
    """List the data that the profiles on photographs need, and fetch what may be downloaded."""


@data.command(name="status")
@click.option("--into", type=UserPath(), help="The data folder (default: VEILBENCH_DATA).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def data_status(into: Path | None, as_json: bool) -> None:
    """For each data set: what it is, where it was looked for, its hash if found, how to get it, and its licence."""
    from bench.datasets.downloads import data_folder, status

    found = status(data_folder(into))
    if as_json:
        click.echo(json.dumps(found, indent=1))
        return
    for entry in found:
        click.echo(f"{entry['name']}: {'here' if entry['found'] else 'missing'}. {entry['what']}")
        for place in entry["places"]:
            rest = {key: value for key, value in place.items() if key not in ("path", "found")}
            said = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in rest.items())
            click.echo(f"  {place['path']}: {said or 'nothing there'}")
        if not entry["found"]:
            click.echo(f"  to get it: {entry['how']}")
        click.echo(f"  licence: {entry['licence']}")


@data.command(name="fetch")
@click.argument("name")
@click.option("--into", type=UserPath(), help="The data folder; default: VEILBENCH_DATA.")
@click.option(
    "--mirror", default="", metavar="URL", help="Download from a mirror that has the files under their own names."
)
@click.option("--sha256", default="", metavar="HASH", help="Expected hash of the download, if it is not the known one.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress bars.")
def data_fetch(name: str, into: Path | None, mirror: str, sha256: str, quiet: bool) -> None:
    """Download NAME (lfw, facenet or lpips) and check its hash. An interrupted transfer resumes."""
    from bench.datasets.downloads import data_folder, fetch, find
    from bench.toolkit.progress import progress_shown

    with progress_shown(Console(stderr=True, quiet=quiet)):
        written = fetch(find(name), data_folder(into), mirror=mirror, sha256=sha256)
    click.echo("\n".join(map(str, written)))


@data.command(name="inspect")
@click.argument("path", type=UserPath())
@click.option("--limit", type=click.IntRange(1), default=10_000, show_default=True, help="Look at so many images.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
def data_inspect(path: Path, limit: int, as_json: bool, quiet: bool) -> None:
    """Says what PATH is, how many people and images it holds, their sizes, what a run would leave out, and its section.

    Knows folders of photographs, insightface's train.rec and .bin, parquet files, tar shards, and lists of pairs.

    Exit status: 0 known; 2 nothing there, or nothing that holds faces.
    """
    from dataclasses import asdict

    from bench.datasets.inspection import inspect
    from bench.toolkit.progress import progress_shown

    with progress_shown(Console(stderr=True, quiet=quiet)):
        found = inspect(path, limit)
    if as_json:
        click.echo(json.dumps(asdict(found), indent=1))
        return
    people = "people unknown" if found.people is None else f"{found.people:,} people"
    seen = "" if found.whole else f" among the first {limit:,} images"
    click.echo(f"{path}: {found.what}\n{found.images:,} images, {people}{seen}")
    if found.sizes:
        shown = [f"{count:,} of {size}" for size, count in list(found.sizes.items())[:5]]
        rest = len(found.sizes) - len(shown)
        click.echo(f"sizes (height x width): {', '.join(shown)}{f', and {rest} more' if rest > 0 else ''}")
    for why, names in found.left_out.items():
        click.echo(f"{len(names)} {why}: {', '.join(names[:3])}{', ...' if len(names) > 3 else ''}")
    click.echo(f"\n{found.section}")
