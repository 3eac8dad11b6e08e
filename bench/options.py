"""Options that several commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click


def with_config(command: Callable[..., Any]) -> Callable[..., Any]:
    """Adds --config, --profile and --set, as `config`, `profile` and `overrides`."""
    for option in (
        click.option("--set", "overrides", multiple=True, metavar="KEY=VALUE", help="Override a setting; repeatable."),
        click.option("--profile", "-p", help="Overlay [profile.NAME] of the config."),
        click.option(
            "--config", "-c", type=click.Path(path_type=Path), help="Default: ./bench.toml, or the built-in one."
        ),
    ):
        command = option(command)
    return command
