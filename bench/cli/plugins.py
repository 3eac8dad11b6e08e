"""The commands about plugins: list, show, new and check."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from bench.cli.options import UserPath, out
from bench.labels import KINDS, kind_name

if TYPE_CHECKING:
    from bench.checks import Verdict
    from bench.labels import PluginKind
    from bench.settings.describe import Description, Parameter


_PAGE = 120  #: columns of a description written to a file
QUICK = "quick"  #: the profile in which plugins are tested


@click.command(name="list")
@click.option("--kind", type=click.Choice(KINDS), help="List only this kind.")
@click.option("--json", "as_json", is_flag=True, help="Print every plugin with the content of `show`, as JSON.")
@click.option("--json-schema", is_flag=True, help="Print the JSON Schema of --json.")
def list_(kind: Any, as_json: bool, json_schema: bool) -> None:
    """List every plugin with a one-line summary, and for attacks the levels of knowledge at which they run."""
    from bench.settings import registry
    from bench.settings.describe import describe, schema

    if json_schema:
        click.echo(json.dumps(schema(), indent=1))
        return
    kinds = (kind,) if kind else KINDS
    found = [describe(k, name) for k in kinds for name in registry.names(k)]
    if as_json:
        click.echo(json.dumps([plugin.as_dict() for plugin in found], indent=1, allow_nan=False))
        return
    for one in kinds:
        click.echo(f"{kind_name(one)}s")
        rows = [(p.name, _levels(p), p.summary) for p in found if p.kind == one]
        first, second = (max(len(row[place]) for row in rows) for place in (0, 1))
        for name, known, summary in rows:
            line = f"  {name:<{first}}  {known:<{second}}{'  ' if second else ''}{summary}"
            click.echo(line if len(line) <= out.width or not sys.stdout.isatty() else f"{line[: out.width - 1]}…")
    click.echo("See veilbench show NAME for parameters; veilbench new KIND NAME writes a new plugin.")


@click.command()
@click.argument("plugin", metavar="NAME|PATH|PACKAGE:CLASS")
@click.option("--kind", type=click.Choice(KINDS), help="Needed if the name could be of several kinds.")
@click.option("--cost/--no-cost", default=True, help="Measure the cost on this machine (takes seconds).")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, in the schema of `list --json-schema`.")
def show(plugin: str, kind: Any, cost: bool, as_json: bool) -> None:
    """Show what a plugin does, its source, its parameters with their choices and meanings, and its cost."""
    from bench.settings.describe import describe
    from bench.settings.registry import find_kind

    found = describe(find_kind(plugin, kind, "show"), plugin, "show")
    if as_json:
        click.echo(json.dumps(found.as_dict(), indent=1, allow_nan=False))
        return
    page = out if sys.stdout.isatty() else Console(width=_PAGE)
    print_description(found, page)
    if cost and found.kind in ("defense", "attack"):
        page.print(Text(f"\nOn this machine: {_cost(found.kind, plugin)}"))


def _cost(kind: PluginKind, plugin: str) -> str:
    """Its cost in the quick profile of the built-in settings."""
    from bench.contracts import KeyedAttack, KeyedDefense
    from bench.errors import DataError, UserError
    from bench.forecast.plugin import plugin_cost
    from bench.settings.registry import find
    from bench.settings.resolve import load
    from bench.settings.trial import trial
    from bench.storage.files import shipped

    path = shipped("bench.toml", "bench.toml")
    if issubclass(find(kind, plugin, "show"), KeyedDefense | KeyedAttack):
        return "see veilbench run --profile templates --dry-run"
    try:
        planned = trial(plugin, path, QUICK, kind=kind)
        found = plugin_cost(load(path, QUICK, planned.overrides), kind, planned.label)
    except DataError as error:
        return f"unknown: {error}"
    except UserError as error:
        return f"unknown, because it has required parameters ({error})"
    return f"{found.text()} (in profile {QUICK})" if found else f"not judged by profile {QUICK}"


def print_description(plugin: Description, out: Console) -> None:
    """Prints the complete description of a plugin."""
    out.print(Text(f"{plugin.name}: {kind_name(plugin.kind)}", style="bold"))
    out.print(Text(plugin.source))
    out.print(Text(f"\n{plugin.text}"))
    if plugin.kind == "attack":
        said = (
            f"levels of knowledge: {', '.join(plugin.levels)}"
            if plugin.levels
            else "the level of the attack that it replays"
        )
        out.print(Text(f"\nSteals: {plugin.leaks}; {said}"))
    if not plugin.parameters:
        out.print("\nNo parameters.")
        return
    table = Table(box=None, padding=(0, 2, 0, 0), title_justify="left")
    table.add_column("parameter", no_wrap=True)
    table.add_column("default", overflow="fold", max_width=24)
    table.add_column("type", overflow="fold", max_width=48)
    table.add_column("meaning")
    for parameter in plugin.parameters:
        default = "required" if parameter.required else json.dumps(parameter.default, ensure_ascii=False)
        table.add_row(parameter.name, "none" if default == "null" else default, _type(parameter), _meaning(parameter))
    out.print()
    out.print(table, markup=False, highlight=False)
    out.print(Text(f"\n{plugin.file}", style="dim"))


def _type(parameter: Parameter) -> Text:
    return Text(" | ".join(map(str, parameter.choices)) if parameter.choices else parameter.type)


def _levels(plugin: Description) -> str:
    return ", ".join(plugin.levels) or ("that of the replayed attack" if plugin.kind == "attack" else "")


def _meaning(parameter: Parameter) -> Text:
    return Text(f"{parameter.meaning}{f' ({parameter.unit})' if parameter.unit else ''}")


@click.command()
@click.argument("kind", type=click.Choice(KINDS))
@click.argument("name")
@click.option(
    "--path",
    "folder",
    type=UserPath(file_okay=False),
    default=".",
    help="Folder to write into (default: the current one).",
)
@click.option("--keyed", is_flag=True, help="A defence that protects embeddings under keys.")
def new(kind: Any, name: str, folder: Path, keyed: bool) -> None:
    """Write NAME.py: a plugin that runs as it is, with its contract in the docstring."""
    from bench.cli.scaffold import advice, scaffold
    from bench.errors import UserError

    if keyed and kind != "defense":
        raise UserError(f"new {kind}: only a defence has keys; leave out --keyed")
    click.echo(advice(kind, name, scaffold(kind, name, folder, keyed)))


@click.command()
@click.argument("plugin", metavar="NAME|PATH")
@click.option("--kind", type=click.Choice(KINDS), help="Needed if the name could be of several kinds.")
@click.option(
    "--param", "parameters", multiple=True, metavar="KEY=VALUE", help="Set a parameter of the plugin; repeatable."
)
@click.option("--small", is_flag=True, help="Use small images and a server of random weights (takes seconds).")
@click.option(
    "--faces", type=click.IntRange(16), default=240, show_default=True, help="Number of public faces to train on."
)
@click.option("--json", "as_json", is_flag=True, help="Print every verdict as JSON.")
def check(plugin: str, kind: Any, parameters: tuple[str, ...], small: bool, faces: int, as_json: bool) -> None:
    """Check whether a plugin keeps its contract: one line per check, and how to fix failures.

    Defences and attacks are tested on synthetic people with the built-in recogniser; those of templates under keys on
    random embeddings.

    Exit status: 0 all passed; 1 a check failed; 2 no such plugin, or wrong parameters.
    """
    from dataclasses import asdict

    from bench.checks import Scene, failures
    from bench.checks import check as look
    from bench.contracts import Attack, Defense, KeyedAttack, KeyedDefense
    from bench.settings.registry import find_any, make
    from bench.settings.toml import parse_values

    found = find_any(plugin, kind, "check")
    instance = make(found, parse_values(parameters, "--param"), f"check {plugin}")
    scene = None
    if isinstance(instance, Defense | Attack) and not isinstance(instance, KeyedDefense | KeyedAttack):
        scene = Scene.small(public=faces) if small else Scene.shipped(faces)
    verdicts = look(instance, scene)
    wrong = failures(verdicts)
    if as_json:
        click.echo(json.dumps({"passed": not wrong, "checks": [asdict(verdict) for verdict in verdicts]}, indent=1))
    else:
        for verdict in verdicts:
            print_check(verdict)
        click.echo(f"\n{plugin}: {len(verdicts) - len(wrong)} of {len(verdicts)} checks passed or did not apply")
    sys.exit(1 if wrong else 0)


def print_check(verdict: Verdict) -> None:
    """One line for a check, and how to fix a failure."""
    sign = {"passed": "ok  ", "failed": "FAIL", "skipped": "–   "}[verdict.status]
    click.echo(f"{sign}  {verdict.check}{f': {verdict.note}' if verdict.note else ''}")
    if verdict.status == "failed":
        click.echo(f"        expected {verdict.expected}\n        got      {verdict.came}\n        {verdict.fix}")
