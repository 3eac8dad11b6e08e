"""The commands for whoever writes a plugin: `new` and `check`."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from bench.cli.options import out
from bench.labels import KINDS, word


@click.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(as_json: bool) -> None:
    """Shows every plugin with its parameters and defaults."""
    from bench.settings import registry

    everything = {kind: {n: registry.describe(kind, n) for n in registry.names(kind)} for kind in KINDS}
    if as_json:
        click.echo(json.dumps({k: {n: d.as_dict() for n, d in v.items()} for k, v in everything.items()}, indent=1))
        return
    for kind, plugins in everything.items():
        table = Table(title=f"{word(kind)}s", title_justify="left", show_lines=True)
        for heading in ("name", "what", "parameters = defaults"):
            table.add_column(heading, overflow="fold")
        for name, plugin in plugins.items():
            table.add_row(name, plugin.summary, "\n".join(f"{k} = {v}" for k, v in plugin.parameters.items()))
        out.print(table, markup=False)


_KINDS = ("defense", "attack", "dataset", "recognizer")


@click.command()
@click.argument("kind", type=click.Choice(_KINDS))
@click.argument("name")
@click.option(
    "--path", "folder", type=click.Path(path_type=Path, file_okay=False), default=".", help="Folder; default: here."
)
def new(kind: Any, name: str, folder: Path) -> None:
    """Writes NAME.py: a plugin that runs at once, with its contract in its docstring."""
    from bench.cli.scaffold import advice, scaffold

    click.echo(advice(kind, name, scaffold(kind, name, folder)))


@click.command()
@click.argument("plugin", metavar="NAME|PATH")
@click.option("--kind", type=click.Choice(_KINDS), help="Where a name could be of several kinds.")
@click.option("--param", "parameters", multiple=True, metavar="KEY=VALUE", help="A parameter of it; repeatable.")
@click.option("--small", is_flag=True, help="Small images and a server of random weights: seconds.")
@click.option("--faces", type=click.IntRange(16), default=240, show_default=True, help="Public faces to learn from.")
@click.option("--json", "as_json", is_flag=True, help="Every verdict as JSON.")
def check(plugin: str, kind: Any, parameters: tuple[str, ...], small: bool, faces: int, as_json: bool) -> None:
    """Says whether a plugin keeps its contract: one line a check, and how to mend what failed.

    A defence or an attack is tried on synthetic people and the recogniser that comes with the package.

    Exit status: 0 all passed; 1 something failed; 2 no such plugin, or wrong parameters.
    """
    from dataclasses import asdict

    from bench.checks import Scene, failures
    from bench.checks import check as look
    from bench.settings.registry import find_any, make
    from bench.settings.toml import parse_values

    found = find_any(plugin, kind, "check")
    instance = make(found, parse_values(parameters, "--param"), f"check {plugin}")
    scene = None
    if hasattr(instance, "protect") or hasattr(instance, "level"):
        scene = Scene.small(public=faces) if small else Scene.shipped(faces)
    verdicts = look(instance, scene)
    wrong = failures(verdicts)
    if as_json:
        click.echo(json.dumps({"passed": not wrong, "checks": [asdict(verdict) for verdict in verdicts]}, indent=1))
    else:
        for verdict in verdicts:
            sign = {"passed": "ok  ", "failed": "FAIL", "skipped": "–   "}[verdict.status]
            click.echo(f"{sign}  {verdict.check}{f': {verdict.note}' if verdict.note else ''}")
            if verdict.status == "failed":
                click.echo(
                    f"        expected {verdict.expected}\n        came     {verdict.came}\n        {verdict.fix}"
                )
        click.echo(
            f"\n{plugin}: {len(verdicts) - len(wrong)} of {len(verdicts)} checks passed or had nothing to look at"
        )
    sys.exit(1 if wrong else 0)
