"""Options that several commands share."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import click
from rich.console import Console


class UserPath(click.Path):
    """A path as users give it: `~` is their home folder, where no shell saw to it (`--output=~/out`)."""

    def __init__(self, **how: Any) -> None:
        super().__init__(path_type=Path, **how)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path, absolute where it began with a `~`."""
        return super().convert(os.path.expanduser(value) if isinstance(value, str) else value, param, ctx)


out = Console()
err = Console(stderr=True)


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config, --profile and --set, as `config`, `profile` and `overrides`."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; repeatable."),
        click.option("--profile", "-p", help="Overlay [profile.NAME] of the config."),
        click.option("--config", "-c", type=UserPath(), help="Default: ./bench.toml, or the built-in one."),
    ):
        command = option(command)
    return command


def _worker_count(_context: click.Context, _option: click.Parameter, said: str | None) -> Literal["auto"] | int:
    if said is None or said == "auto":
        return "auto" if said else 0
    if not said.isdecimal() or int(said) < 1:
        raise click.BadParameter(f"{said!r} is neither a number of at least 1 nor auto")
    return int(said)


def with_workers(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --workers and --scheduler, as `workers` and `scheduler`: what `runner.cluster.submit.Cluster` takes."""
    for option in (
        click.option("--scheduler", default="", metavar="tcp://HOST:PORT", help="On the workers of a Dask scheduler."),
        click.option(
            "--workers",
            "-w",
            callback=_worker_count,
            metavar="N|auto",
            help="On N worker processes of this machine; auto: one a core, as far as memory lasts.",
        ),
    ):
        command = option(command)
    return command
