"""The command `veilbench try`: evaluates a new plugin against the standard set."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click
from rich.console import Console
from rich.text import Text

from bench.cli.options import err, out, profile_if_there, with_config, with_workers
from bench.cli.plugins import QUICK, print_check
from bench.cli.results import print_leaderboard
from bench.labels import KINDS, kind_name

if TYPE_CHECKING:
    from bench.api import Results
    from bench.settings.trial import Trial


_WIDTH = 120  #: of the verdict in a file
_TEMPLATES = "templates"  #: the profile in which keyed defences are tried


@click.command(name="try")
@click.argument("plugin", metavar="FILE.py|NAME|PACKAGE:CLASS")
@click.option("--kind", type=click.Choice(KINDS), help="Needed if the name could be of several kinds.")
@click.option(
    "--param", "parameters", multiple=True, metavar="KEY=VALUE", help="Set a parameter of the plugin; repeatable."
)
@with_config
@click.option(
    "--output", "-o", type=click.Path(path_type=Path), help="Folder for records and reports (default: results/NAME)."
)
@with_workers
@click.option("--no-check", is_flag=True, help="Skip the check of its contract.")
@click.option("--save", is_flag=True, help="Add the lines that make the trial permanent to bench.toml.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress.")
def try_(
    plugin: str,
    kind: Any,
    parameters: tuple[str, ...],
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    output: Path | None,
    workers: Literal["auto"] | int,
    scheduler: str,
    no_check: bool,
    save: bool,
    quiet: bool,
) -> None:
    """Evaluate a defence, an attack, a dataset or a recogniser of your own, and explain the result.

    Checks its contract, runs it with the standard set of the profile (default: quick, two minutes; templates for a
    defence with keys) next to an undefended system and the most similar plugin, and prints the verdict and the lines
    for bench.toml that make it permanent. Finished work is reused.

    Exit status: 0 evaluated; 1 it breaks its contract, or a cell failed; 2 no such plugin, wrong settings, data or
    disk.
    """
    from bench.api import run
    from bench.settings.toml import default_path, parse_values
    from bench.settings.trial import save as write
    from bench.settings.trial import trial
    from bench.toolkit.progress import progress_shown

    path = config or default_path()
    keyed = _is_keyed(plugin, kind)
    profile = profile or profile_if_there(_TEMPLATES if keyed else QUICK, path)
    planned = trial(plugin, path, profile, overrides, parse_values(parameters, "--param"), kind)
    if not no_check and not _keeps_its_contract(plugin, planned, parameters, quiet):
        err.print(f"veilbench: {plugin} breaks its contract: fix it first, or use --no-check", style="red")
        sys.exit(1)
    beside = f" beside {', '.join(planned.beside)}" if planned.beside else ""
    out.print(Text(f"Trying the {kind_name(planned.kind)} {planned.label}{beside}, profile {profile or '(none)'}.\n"))
    with progress_shown(Console(stderr=True, quiet=quiet)) as display:
        everything = [*overrides, *planned.overrides]
        results = run(
            path, profile, everything, output=output, workers=workers, scheduler=scheduler, report=display.report
        )
    failed = results.outcome.failed if results.outcome else ()
    if keyed:
        _print_templates(results)
    else:
        _verdict(planned, results)
    for name in failed:
        record = results.runs[0].read(name)
        out.print(Text(f"failed: {name}: {record.reason if record else ''}", style="red"))
    out.print(Text(f"Records, pictures and a page: {results.places[0] / 'report' / 'index.html'}"))
    target = config if config is not None else Path("bench.toml")
    if save:
        write(planned, path, target)
        out.print(f"Saved in {target}: veilbench run --profile {planned.label}")
    else:
        out.print(f"\nTo keep it, use --save, or add to {target}:\n")
        click.echo(planned.lines())
        out.print(f"and then: veilbench run --profile {planned.label}")
    sys.exit(1 if failed else 0)


def _is_keyed(plugin: str, kind: Any) -> bool:
    from bench.contracts import KeyedDefense
    from bench.settings import registry

    return issubclass(registry.find_any(plugin, kind, "try"), KeyedDefense)


def _print_templates(results: Results) -> None:
    """The leaderboard of keyed defences, a column each."""
    from bench.analysis.keyed import template_leaderboard
    from bench.report.keyed import template_table

    width = out.width if sys.stdout.isatty() else _WIDTH
    for table in template_table(template_leaderboard(results.runs[0])):
        Console(width=width).print(table, highlight=False)


def _keeps_its_contract(plugin: str, planned: Trial, parameters: tuple[str, ...], quiet: bool) -> bool:
    """Checks the contract on small images and few faces, in seconds; a built-in plugin of the settings is trusted."""
    from bench.checks import Scene, check, failures
    from bench.settings import registry
    from bench.settings.toml import parse_values

    if not registry.is_place(plugin):
        return True
    made = registry.make(
        registry.find(planned.kind, plugin, "try"), parse_values(parameters, "--param"), f"try {plugin}"
    )
    scene = Scene.small() if planned.kind in ("defense", "attack") else None
    verdicts = check(made, scene)
    wrong = failures(verdicts)
    for verdict in wrong:
        print_check(verdict)
    if not quiet and not wrong:
        out.print(Text(f"{plugin}: keeps its contract ({len(verdicts)} checks; see veilbench check for details)."))
    return not wrong


def _verdict(planned: Trial, results: Results) -> None:
    """The verdict on defences; for an attack, its reconstructions next to those of the most similar attack."""
    if planned.kind != "attack":
        frame = results.leaderboard()
        if sys.stdout.isatty():
            print_leaderboard(frame)
        else:
            from bench.report.terminal import verdict_table

            Console(width=_WIDTH).print(verdict_table(frame, _WIDTH), highlight=False)
        return
    from bench.analysis.rivals import rivals, selftest
    from bench.report.terminal import rivals_table

    width = out.width if sys.stdout.isatty() else _WIDTH
    rival = planned.beside[0] if planned.beside else ""
    run = results.runs[0]
    table = rivals_table(rivals(run, planned.label, rival), rival, selftest(run, planned.label))
    Console(width=width).print(table, highlight=False)
