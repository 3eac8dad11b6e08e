"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console


class UserPath(click.Path):
    """A path that a user typed: expands `~` where no shell has done so (`--output=~/out`)."""

    def __init__(self, **how: Any) -> None:
        super().__init__(path_type=Path, **how)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, with a leading `~` expanded."""
        return super().convert(os.path.expanduser(value) if isinstance(value, str) else value, param, ctx)


out = Console()
err = Console(stderr=True)


def run_argument(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds the folder of a finished run, as `folder`."""
    return click.argument("folder", metavar="RUN", type=UserPath())(command)


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config, --profile and --set, as `config`, `profile` and `overrides`."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; repeatable."),
        click.option("--profile", "-p", help="Overlay [profile.NAME] of the config."),
        click.option(
            "--config", "-c", type=UserPath(), help="The settings file (default: ./bench.toml, or the built-in one)."
        ),
    ):
        command = option(command)
    return command


def profile_if_there(name: str, path: Path) -> str | None:
    """The profile of that name, where the settings have one; a command's default."""
    from bench.settings.toml import profiles

    return name if name in profiles(path) else None


def _worker_count(_context: click.Context, _option: click.Parameter, said: str | None) -> Literal["auto"] | int:
    if said is None or said == "auto":
        return "auto" if said else 0
    if not said.isdecimal() or int(said) < 1:
        raise click.BadParameter(f"{said!r} is neither a positive number nor auto")
    return int(said)


def with_workers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --workers and --scheduler, as `workers` and `scheduler`: what `runner.cluster.submit.Cluster` takes."""
    for option in (
        click.option(
            "--scheduler", default="", metavar="tcp://HOST:PORT", help="Use the workers of this Dask scheduler."
        ),
        click.option(
            "--workers",
            "-w",
            callback=_worker_count,
            metavar="N|auto",
            help="Use N worker processes on this machine; auto: one per core, if memory allows.",
        ),
    ):
        command = option(command)
    return command
