"""The commands about one recogniser: where it can be cut in two."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bench.cli.options import with_config

if TYPE_CHECKING:
    from bench.contracts import Recognizer


@click.group()
def recognizer() -> None:
    """Looks into a recogniser."""


@recognizer.command(name="cuts")
@click.argument("network", metavar="FILE.onnx|PACKAGE:FUNCTION|LABEL")
@click.option("--size", type=(int, int), metavar="HEIGHT WIDTH", help="Of its images; default: as it says itself.")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@with_config
def recognizer_cuts(
    network: str,
    size: tuple[int, int] | None,
    as_json: bool,
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Lists where a network can be cut in two: the places where a single tensor crosses.

    NETWORK is an ONNX file, a function that makes a PyTorch module (package.module:function or file.py:function), or a
    recogniser of the config. For each place: its name, which a recogniser's `cut` takes, the template's shape and its
    bytes in float32, and the share of the multiplications that the client would do.

    Exit status: 0 listed; 2 no such network, or one that cannot be followed.
    """
    import torch

    from bench.toolkit.cutting import cuts, trace

    chosen = _recognizer(network, size, config, profile, overrides)
    graph = chosen.traced() if hasattr(chosen, "traced") else trace(_joined(chosen), network)
    height, width = chosen.image_size
    found = cuts(graph, torch.zeros(1, 3, height, width), network)
    if as_json:
        click.echo(json.dumps({"network": network, "image_size": [height, width], "cuts": [asdict(c) for c in found]}))
        return
    widest = max((len(cut.name) for cut in found), default=4)
    click.echo(f"{network}, images of {height} x {width} pixels: {len(found)} places")
    click.echo(f"{'cut':<{widest}}  {'template':>15}  {'bytes':>11}  on the client")
    for cut in found:
        shape = " x ".join(map(str, cut.shape))
        click.echo(f"{cut.name:<{widest}}  {shape:>15}  {cut.bytes:>11,}  {100 * cut.share:12.1f} %")


def _recognizer(
    network: str, size: tuple[int, int] | None, config: Path | None, profile: str | None, overrides: tuple[str, ...]
) -> Any:
    """The recogniser that the argument stands for."""
    from bench.settings import registry
    from bench.settings.resolve import load
    from bench.settings.toml import parse_values

    if network.lower().endswith(".onnx") or ":" in network:
        kind, name = ("module", "factory") if ":" in network else ("onnx", "path")
        parameters: dict[str, Any] = {name: network, "crop": "box"}
        if size is not None:
            parameters["size"] = list(size)
        return registry.make(registry.find("recognizer", kind, "cuts"), parameters, "cuts")
    chosen = {**parse_values(overrides, "--set"), "run.recognizers": [network]}
    ((_, found),) = load(config, profile, chosen).recognizers.items()
    return found


def _joined(chosen: Recognizer) -> Any:
    """Client and server in one again, as they are trained or, where there are no weights, as they are built."""
    from torch import nn

    from bench.errors import DataError

    try:
        halves = chosen.load()
    except DataError:
        halves = chosen.build()
    return nn.Sequential(halves.client, halves.server)
