"""The command line: reads options, calls the library, prints. Heavy imports wait until a command needs them."""

from __future__ import annotations

import json
import logging
import os
import sys
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table

from bench import __version__
from bench.options import with_config, with_workers
from bench.paper.commands import data, paper
from bench.plugin_commands import check, new
from bench.run_commands import compare, curve, export, grid, heatmap, leaderboard, paired, report, scatter, verify

out = Console()
err = Console(stderr=True)


class _Group(click.Group):
    """Turns a user's mistake into one clear line and exit status 2, an interrupt into 130."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        from bench.contracts import UserError

        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False}) or sys.exit(0)
        except UserError as error:
            err.print(f"veilbench: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read us has had enough
            sys.exit(1)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            message = f"veilbench: {place}{error.strerror or error}"
            err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort):
            err.print("Interrupted. Finished cells are kept; the same command goes on from here.")
            sys.exit(130)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            from bench.registry import near_miss

            raise click.UsageError(f"unknown command {args[0]!r}.{near_miss(args[0], self.commands)}", ctx) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="veilbench")
def main() -> None:
    """Benchmarks what stored face features give away: defences crossed with attacks."""
    # Plain lines, not boxes, where output goes to a file.
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)]
    )


_ELSEWHERE = (
    paper, data, new, check, leaderboard, export, verify, compare, paired, scatter, curve, heatmap, grid, report,
)  # fmt: skip
for _command in _ELSEWHERE:
    main.add_command(_command)


@main.command()
@with_config
@click.option("--output", "-o", type=click.Path(path_type=Path), help="Where records and reports go (run.output).")
@click.option("--dry-run", is_flag=True, help="Say what would be made and judged, with disk and time; make nothing.")
@click.option("--strict", is_flag=True, help="Exit 1 where an attack fails the run's test of itself (run.canaries).")
@with_workers
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
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
    """Runs the matrix: whatever has no finished record yet.

    Exit status: 0 all cells judged; 1 some failed, or with --strict an attack failed the run's test of itself; 2 wrong
    settings, data or disk; 130 interrupted.
    """
    from bench.config import load

    settings = load(config, profile, overrides)
    if output is not None:
        settings = settings.moved(output)
    from bench.cluster import Cluster, carry_out
    from bench.plan import plan
    from bench.progress import progress_shown
    from bench.records import Run
    from bench.store import Store

    where = Cluster.of(workers, scheduler, settings)
    if dry_run:
        from bench.estimate import estimate

        outlook = estimate(settings, plan(settings), Run(Path(settings.run.output)))
        click.echo(json.dumps(outlook.as_dict(), indent=1) if as_json else outlook.text())
        return
    folder = Run(Path(settings.run.output))
    folder.prepare()
    store = Store(Path(settings.run.store), settings.run.mirror)
    shown = Console(stderr=True, quiet=quiet)
    with store.in_use(), progress_shown(shown) as progress:
        overall = progress.add_task("planning", total=None)

        def report(what: str, ended: int, total: int) -> None:
            progress.update(overall, description=what, completed=ended, total=total)

        outcome = carry_out(where, settings, plan(settings), store, folder, report)
    from bench.report.write import write_reports

    if outcome.done or outcome.failed or not (folder.folder / "leaderboard.md").exists():
        write_reports(folder)
    if as_json:
        click.echo(json.dumps({"folder": str(folder.folder), **outcome.__dict__}))
    else:
        _summary(folder, outcome)
    if strict:
        from bench.report.selftest import trials

        void = sorted({f"{trial.attack} on canary~{trial.canary}" for trial in trials(folder) if not trial.passed})
        if void:
            err.print(f"veilbench: attacks failed the self-test: {'; '.join(void)}", style="red", markup=False)
            sys.exit(1)
    sys.exit(1 if outcome.failed else 0)


@main.command()
@with_config
@click.option("--estimate", is_flag=True, help="Also how long it would take on 1, 8 and 64 workers like this machine.")
@click.option("--defenses", type=click.IntRange(1), metavar="N", help="As if there were so many, like those there are.")
@click.option("--attacks", type=click.IntRange(1), metavar="N", help="The same for attacks.")
@click.option("--datasets", type=click.IntRange(1), metavar="N", help="The same for datasets.")
@click.option("--seeds", type=click.IntRange(1), metavar="N", help="The same for seeds.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def plan(
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    estimate: bool,
    as_json: bool,
    **size: int | None,
) -> None:
    """Says what the whole matrix comes to, of this size or another, as if nothing were made yet; makes nothing."""
    from dataclasses import asdict

    from bench.config import load
    from bench.plan import plan as make
    from bench.simulate import Size, forecast

    settings = load(config, profile, overrides)
    found = forecast(settings, make(settings), Size(**size), measured=estimate)
    click.echo(json.dumps(asdict(found), indent=1) if as_json else found.text())


def _summary(folder: Any, outcome: Any) -> None:
    from bench.report.leaderboard import leaderboard, render

    click.echo(render(leaderboard(folder), "md"))
    click.echo(f"\n{outcome.done} cells judged, {outcome.kept} stood already, {len(outcome.failed)} failed.")
    for name in outcome.failed:
        record = folder.read(name)
        click.echo(f"  failed: {name}: {record.reason if record else ''}")
    click.echo(f"Reports and records: {folder.folder}{os.sep}")


@main.command()
@with_config
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def config(config: Path | None, profile: str | None, overrides: tuple[str, ...], as_json: bool) -> None:
    """Prints the settings as resolved: profile, overrides, sweeps and defaults included."""
    from bench.config import load

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
        for label, parameters in entries.items():
            click.echo(f"\n[{section}.{json.dumps(label) if not label.isidentifier() else label}]")
            for key, value in parameters.items():
                click.echo(f"{key} = {json.dumps(value)}")


@main.command(name="list")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(as_json: bool) -> None:
    """Shows every plugin with its parameters and defaults."""
    from bench import registry

    everything = {kind: {n: registry.describe(kind, n) for n in registry.names(kind)} for kind in registry.KINDS}
    if as_json:
        click.echo(json.dumps({k: {n: d.as_dict() for n, d in v.items()} for k, v in everything.items()}, indent=1))
        return
    for kind, plugins in everything.items():
        table = Table(title=f"{registry.word(kind)}s", title_justify="left", show_lines=True)
        for heading in ("name", "what", "parameters = defaults"):
            table.add_column(heading, overflow="fold")
        for name, plugin in plugins.items():
            table.add_row(name, plugin.summary, "\n".join(f"{k} = {v}" for k, v in plugin.parameters.items()))
        out.print(table, markup=False)


@main.command()
@with_config
@click.option("--dry-run", is_flag=True, help="Only say how much would be freed.")
@click.option("--run", "runs", multiple=True, type=click.Path(path_type=Path, exists=True), help="Another run to keep.")
def clean(
    config: Path | None, profile: str | None, overrides: tuple[str, ...], dry_run: bool, runs: tuple[Path, ...]
) -> None:
    """Frees the store of what no record needs any more: artefacts of other settings, sources or killed runs.

    The artefacts behind the records of every run folder beside run.output are kept, and those of --run.
    What an interrupted run had made for cells that it did not reach is freed too: finish it first.
    """
    from bench.config import load
    from bench.records import Run
    from bench.store import Store

    settings = load(config, profile, overrides)
    output = Path(settings.run.output)
    folders = {*(p for p in output.parent.glob("*") if (p / "records").is_dir()), *runs}
    keep = {key for folder in folders for name in Run(folder).names() for key in Run(folder).artefacts(name)}
    store = Path(settings.run.store)
    count, size = Store(store).clean(keep, dry_run) if store.exists() else (0, 0)
    click.echo(f"{'would free' if dry_run else 'freed'} {size / 1e9:.2f} GB in {count} artefacts of {store}")


@main.command()
@with_config
@click.option("--recognizer", "-r", required=True, metavar="LABEL", help="What to train: compact, facenet, ...")
@click.option("--dataset", metavar="LABEL", default="", help="A dataset of the config: its public faces teach.")
@click.option("--folder", type=click.Path(path_type=Path), help="Or a folder of PERSON/IMAGE.jpg, say CASIA-WebFace.")
@click.option("--aligned", is_flag=True, help="The folder's images are cut out already.")
@click.option(
    "--init", default="", metavar="FILE|own", help="Start from these weights: the classifier first, then all."
)
@click.option("--teacher", default="", metavar="LABEL", help="Learn this recogniser's embeddings; needs no identities.")
@click.option("--defense", default="", metavar="LABEL", help="Train the server of this defence instead.")
@click.option("--evaluate", "-e", multiple=True, metavar="LABEL", help="Verify on this dataset's pairs; repeatable.")
@click.option("--recipe", multiple=True, metavar="KEY=VALUE", help="epochs, learning_rate, loss, ...; repeatable.")
@click.option("--seed", default=0, show_default=True)
@click.option("--full-precision", is_flag=True, help="Write single precision; default is half.")
@click.option("--output", "-o", required=True, type=click.Path(path_type=Path), help="Weights, card, checkpoints.")
@click.option("--json", "as_json", is_flag=True, help="Print the model card as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="No progress bars.")
def train_recognizer(
    config: Path | None, profile: str | None, overrides: tuple[str, ...], as_json: bool, quiet: bool, **options: Any
) -> None:
    """Trains a recogniser, by the AdvFace paper's recipe; goes on from its last checkpoint.

    Exit status: 0 trained; 2 wrong settings, data or disk; 130 interrupted.
    """
    from bench.config import parse_values
    from bench.progress import progress_shown
    from bench.train import Order, train

    order = Order(**{**options, "recipe": parse_values(options["recipe"], "--recipe")})
    with progress_shown(Console(stderr=True, quiet=quiet)):
        card = train(order, config, profile, overrides)
    click.echo(json.dumps(card, indent=1) if as_json else (order.output / "model_card.md").read_text(encoding="utf-8"))
