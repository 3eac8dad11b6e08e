"""The command `veilbench audit`: measures what can be reconstructed from a dump of templates."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from bench.cli.options import UserPath, profile_if_there, with_config


@click.command()
@click.argument("templates", metavar="TEMPLATES", type=UserPath())
@click.option("--recognizer", "-r", required=True, metavar="LABEL", help="The recogniser whose client made them.")
@click.option(
    "--defense", "-d", default="", metavar="LABEL|FILE.py", help="The defence, with its settings (default: none)."
)
@click.option("--public", type=UserPath(), metavar="FACES", help="Other people's faces (default: the config's).")
@click.option(
    "--level", type=click.Choice(["encoder", "algorithm", "enrolment", "whitebox"]),
    help="What the attacker knows, see above; default: algorithm where a defence is named, else encoder.",
)  # fmt: skip
@click.option("--attack", "-a", "labels", multiple=True, metavar="LABEL", help="Default: the profile's of that level.")
@click.option(
    "--originals", type=UserPath(), metavar="FOLDER", help="The original faces in the dump's order, only to measure."
)
@click.option("--detect", is_flag=True, help="Detect the face in each image (default: already cropped).")
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Seed of all randomness.")
@click.option("--output", "-o", type=UserPath(), required=True, help="The folder to write into.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress bars.")
@with_config
def audit(
    templates: Path,
    recognizer: str,
    defense: str,
    public: Path | None,
    level: str | None,
    labels: tuple[str, ...],
    originals: Path | None,
    detect: bool,
    seed: int,
    output: Path,
    as_json: bool,
    quiet: bool,
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Measure what can be reconstructed from TEMPLATES: .npy or .safetensors (N, C, h, w), or what protect wrote.

    Checks whether they can be of that client and defence, trains the attacks of the level on public faces, and measures
    them on other public faces that are protected in the same way: these figures are the promised ones. With
    --originals, the true figures are measured too. Writes into OUTPUT: index.html, audit.json, images/ (one PNG per
    template), and reconstructions.npy and .csv.

    Levels: encoder, who can ask the client for features of own faces; algorithm, who also knows the defence and its
    settings; enrolment, who can also enrol own faces and read their templates; whitebox, who has the whole system with
    gradients. Level blind is refused: its guess never looks at a template, and stands beside every figure. The last two
    use what the defence learned if TEMPLATES is a folder of veilbench protect. Otherwise they use a system with the
    same settings that is fitted on public faces, and the page says so. Attacks that need several templates a face, or
    that work on embeddings or names, are left out.

    Without --profile, the attacks are those of the profile audit, if the config has one. Costly ones attack the first
    templates alone: --set attacks.NAME.images=COUNT.

    Exit status: 0 written; 2 wrong settings, data or disk, or templates that cannot be this client's; 130 interrupted.
    """
    from bench.errors import UserError
    from bench.labels import Knowledge
    from bench.report.audit import figure, remarks, table, write_page
    from bench.runner.audit import audit as look
    from bench.runner.audit import no_defense, read_templates
    from bench.runner.standalone import faces_of, settings_of
    from bench.settings.toml import default_path, read_file
    from bench.toolkit.progress import progress_shown

    dump = read_templates(templates)
    profile = profile or profile_if_there("audit", config or default_path())
    wanted = level or ("algorithm" if defense else "encoder")
    known = list(labels) or read_file(config or default_path(), profile, overrides).run.attacks
    settings = settings_of(
        config, profile, overrides,
        defense=defense or no_defense(), recognizer=recognizer, attacks=known, public=public, detect=detect,
    )  # fmt: skip
    with progress_shown(Console(stderr=True, quiet=quiet)):
        faces = None
        if originals is not None:
            faces = faces_of(originals, settings, detect)
            place = {name: i for i, name in enumerate(faces.names)}
            if set(dump.names) <= set(place):
                faces = faces.subset([place[name] for name in dump.names])
            elif len(faces) != len(dump.names):
                raise UserError(f"--originals: {len(faces)} faces for {len(dump.names)} templates; one each is wanted")
        found = look(settings, dump, Knowledge[wanted.upper()], seed, faces)
    files = found.rebuilt.write(output)
    shown = None if faces is None else faces.batch(range(min(8, len(faces)))).numpy()
    (output / "attack.json").unlink(missing_ok=True)  # audit.json says all of it
    written = [*(file for file in files if file.name != "attack.json"),
               *write_page(output, found.account, found.rebuilt.images, found.samples, shown)]  # fmt: skip
    account: Any = found.account
    if as_json:
        click.echo(json.dumps(account))
        return
    for finding in account["findings"]:
        click.echo(f"doubt: {finding}")
    for remark in remarks(account):
        click.echo(remark)
    for label, promised, true, guess, match in table(account):
        measured = f"; true {true}" if faces is not None and true else ""
        click.echo(f"{label}: SSIM promised {promised}{measured}; a guess {guess}; cosine to the template {match}")
    best = account["attacks"][account["best"]]
    click.echo(f"best on held-out public faces: {account['best']}, {figure(best['promised']['ssim'])}")
    click.echo("\n".join(map(str, written)))
