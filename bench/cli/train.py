"""The command that trains a recogniser."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.cli.options import UserPath, with_config


@click.command()
@with_config
@click.option(
    "--recognizer", "-r", required=True, metavar="LABEL", help="The recogniser to train: compact, facenet, ..."
)
@click.option("--dataset", metavar="LABEL", default="", help="Train on the public faces of this dataset of the config.")
@click.option("--folder", type=UserPath(), help="Train on a folder of PERSON/IMAGE.jpg, such as CASIA-WebFace.")
@click.option("--aligned", is_flag=True, help="The folder's images are already cropped.")
@click.option(
    "--init",
    default="",
    metavar="FILE|own",
    help="Start from these weights: train the classifier first, then everything.",
)
@click.option(
    "--teacher", default="", metavar="LABEL", help="Learn the embeddings of this recogniser; needs no identities."
)
@click.option("--defense", default="", metavar="LABEL", help="Train the server of this defence instead.")
@click.option("--evaluate", "-e", multiple=True, metavar="LABEL", help="Verify on this dataset's pairs; repeatable.")
@click.option("--recipe", multiple=True, metavar="KEY=VALUE", help="Set epochs, learning_rate, loss, ...; repeatable.")
@click.option("--seed", default=0, show_default=True)
@click.option("--full-precision", is_flag=True, help="Write single precision (default: half).")
@click.option("--output", "-o", required=True, type=UserPath(), help="Folder for weights, model card and checkpoints.")
@click.option("--json", "as_json", is_flag=True, help="Print the model card as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress bars.")
def train_recognizer(
    config: Path | None, profile: str | None, overrides: tuple[str, ...], as_json: bool, quiet: bool, **options: Any
) -> None:
    """Train a recogniser with the AdvFace paper's recipe; resumes from its last checkpoint.

    Exit status: 0 trained; 2 wrong settings, data or disk; 130 interrupted, 143 terminated.
    """
    from bench.settings.toml import parse_values
    from bench.toolkit.progress import progress_shown
    from bench.train_recognizer import TrainingOptions, train

    order = TrainingOptions(**{**options, "recipe": parse_values(options["recipe"], "--recipe")})
    with progress_shown(Console(stderr=True, quiet=quiet)):
        card = train(order, config, profile, overrides)
    click.echo(json.dumps(card, indent=1) if as_json else (order.output / "model_card.md").read_text(encoding="utf-8"))
