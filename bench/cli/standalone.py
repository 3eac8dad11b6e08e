"""The commands for faces without a protocol: `protect` and `attack`."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.cli.options import with_config

_PATH = click.Path(path_type=Path)


def _shared(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--quiet", "-q", is_flag=True, help="Show no progress bars."),
        click.option("--json", "as_json", is_flag=True, help="Print the measurements as JSON."),
        click.option("--format", "fmt", type=click.Choice(["npy", "safetensors"]), default="npy", show_default=True),
        click.option("--output", "-o", type=_PATH, required=True, help="The folder to write into."),
        click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all randomness."),
        click.option("--detect", is_flag=True, help="Detect the face in each image (default: already cropped)."),
        click.option(
            "--public", type=_PATH, metavar="FOLDER",
            help="Other people's faces, as PERSON/IMAGE.png or flat: half of the people train the defence, half the "
            "attack (default: the config's public faces).",
        ),
        click.option("--recognizer", "-r", default="", metavar="LABEL", help="A recogniser (default: the config's)."),
    ):  # fmt: skip
        command = option(command)
    return with_config(command)


@click.command()
@click.argument("faces", metavar="FACES", type=_PATH)
@click.option("--defense", "-d", required=True, metavar="LABEL|FILE.py", help="A defence of the config, or a file.")
@_shared
def protect(
    faces: Path,
    defense: str,
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    recognizer: str,
    public: Path | None,
    detect: bool,
    seed: int,
    output: Path,
    fmt: Any,
    as_json: bool,
    quiet: bool,
) -> None:
    """Write what a defence would store for a folder of faces, one template per image.

    Writes into OUTPUT: templates.npy (N, C, h, w) or templates.safetensors; templates.csv with the name of each row's
    image; state/, the fitted defence; and protect.json: parameters, measured noise, bytes and time. The same images,
    options and seed give the same templates. `veilbench attack OUTPUT` attacks them.

    Exit status: 0 written; 2 wrong settings, data or disk; 130 interrupted.
    """
    from bench.runner.standalone import faces_of, protect_faces, settings_of
    from bench.toolkit.progress import progress_shown

    settings = settings_of(
        config, profile, overrides, defense=defense, recognizer=recognizer, public=public, detect=detect
    )
    with progress_shown(Console(stderr=True, quiet=quiet)):
        made = protect_faces(settings, faces_of(faces, settings, detect), seed)
    written = made.write(output, fmt)
    if as_json:
        click.echo(json.dumps(made.account))
        return
    account = made.account
    shape, noise = " x ".join(map(str, account["templates"]["shape"][1:])), account["noise"]
    click.echo(
        f"{len(made.names)} templates of {shape} {account['templates']['dtype']}, {account['templates']['bytes']:,} "
        f"bytes each, {account['ms_per_image']:.1f} ms per image"
    )
    if noise.get("rms"):
        click.echo(f"noise: rms {noise['rms']:.4g}, largest {noise['linf']:.4g}, SNR {noise['snr_db']:.1f} dB")
    click.echo("\n".join(map(str, written)))


@click.command()
@click.argument("templates", metavar="TEMPLATES", type=_PATH)
@click.option(
    "--attack",
    "-a",
    "label",
    required=True,
    metavar="LABEL|FILE.py",
    help="An attack, optionally with its level: resrec@algorithm.",
)
@click.option(
    "--defense",
    "-d",
    default="",
    metavar="LABEL|FILE.py",
    help="Settings file (default: as stored with the templates).",
)
@click.option("--originals", type=_PATH, metavar="FOLDER", help="The original faces, only to measure the result.")
@_shared
def attack(
    templates: Path,
    label: str,
    defense: str,
    originals: Path | None,
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
    recognizer: str,
    public: Path | None,
    detect: bool,
    seed: int,
    output: Path,
    fmt: Any,
    as_json: bool,
    quiet: bool,
) -> None:
    """Reconstruct faces from TEMPLATES, a folder written by `veilbench protect`.

    The attack trains on public faces and has the access that its level of knowledge allows. Writes into OUTPUT:
    images/, one PNG per template; reconstructions.npy (N, 3, H, W) in [0, 1], or .safetensors; reconstructions.csv with
    each row's template and file, and its scores if --originals is given; and attack.json: parameters, queries, means
    with 95 % intervals.

    Exit status: 0 written; 2 wrong settings, data or disk; 130 interrupted.
    """
    from bench.runner.standalone import faces_of, settings_of
    from bench.runner.standalone_attack import attack_templates
    from bench.runner.standalone_files import Protected
    from bench.toolkit.progress import progress_shown

    leaked = Protected.read(templates)
    defense = defense or leaked.label("defense")
    recognizer = recognizer or leaked.label("recognizer")
    settings = settings_of(
        config, profile, overrides,
        defense=defense, recognizer=recognizer, attack=label, public=public, detect=detect,
    )  # fmt: skip
    with progress_shown(Console(stderr=True, quiet=quiet)):
        faces = None if originals is None else faces_of(originals, settings, detect)
        made = attack_templates(settings, leaked, seed, faces)
    written = made.write(output, fmt)
    if as_json:
        click.echo(json.dumps(made.account))
        return
    account = made.account
    click.echo(
        f"{account['rebuilt']} of {account['templates']} templates attacked at level {account['attack']['level']}"
    )
    for name, figure in account["scores"].items():
        interval = "" if figure["low"] is None else f" [{figure['low']:.3f}, {figure['high']:.3f}]"
        click.echo(f"{name}: {figure['value']:.3f}{interval}")
    click.echo("\n".join(map(str, written)))
