"""The commands about one recogniser: where it can be cut in two."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console

from bench.cli.options import UserPath, profile_if_there, with_config
from bench.cli.plugins import QUICK

if TYPE_CHECKING:
    from bench.contracts import Recognizer
    from bench.settings.model import Settings
    from bench.toolkit.cutting import Cut


@click.group()
def recognizer() -> None:
    """Looks into a recogniser."""


@recognizer.command(name="cuts")
@click.argument("network", metavar="FILE.onnx|PACKAGE:FUNCTION|LABEL")
@click.option("--size", type=(int, int), metavar="HEIGHT WIDTH", help="Of its images; default: as it says itself.")
@click.option("--try", "tried", is_flag=True, help="Also rebuild faces from what some of the places would store.")
@click.option("--at", "places", multiple=True, metavar="NAME", help="Try this place; repeatable (implies --try).")
@click.option(
    "--places",
    "count",
    type=click.IntRange(1),
    default=5,
    show_default=True,
    help="Without --at: try so many, spread over the client's share.",
)
@click.option("--attack", "-a", "label", default="", metavar="LABEL", help="Try this one; default: the first decoder.")
@click.option("--public", type=UserPath(), metavar="FACES", help="Faces to try it on; default: the config's.")
@click.option("--images", type=click.IntRange(40), metavar="COUNT", help="Use at most so many faces; default: all.")
@click.option("--detect", is_flag=True, help="Detect the face in each image of FACES (default: already cropped).")
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
@click.option("--quiet", "-q", is_flag=True, help="Show no progress bars.")
@with_config
def recognizer_cuts(
    network: str,
    size: tuple[int, int] | None,
    tried: bool,
    places: tuple[str, ...],
    count: int,
    label: str,
    public: Path | None,
    images: int | None,
    detect: bool,
    as_json: bool,
    quiet: bool,
    config: Path | None,
    profile: str | None,
    overrides: tuple[str, ...],
) -> None:
    """Lists where a network can be cut in two: the places where a single tensor crosses.

    NETWORK is an ONNX file, a function that makes a PyTorch module (package.module:function or file.py:function), or a
    recogniser of the config. For each place: its name, which a recogniser's `cut` takes, the template's shape and its
    bytes in float32, and the share of the multiplications that the client would do.

    With --try, an attack is trained for some of the places, on the features that would be stored there, unprotected.
    It is scored on people from whom it did not learn. Settings, attack and faces are the profile's (default: quick,
    whose faces are synthetic and whose decoder is small: a minute or two a place). Use --public or another profile for
    photographs. A place that fails is listed with its reason, and the others go on.

    Exit status: 0 listed; 1 a place that was tried failed; 2 no such network, or one that cannot be followed, wrong
    settings or data; 130 interrupted.
    """
    import torch

    from bench.toolkit.cut_recognizer import SplitRecognizer, traced_whole
    from bench.toolkit.cutting import cuts, spread
    from bench.toolkit.progress import progress_shown

    chosen = _recognizer(network, size, config, profile, overrides)
    tried = tried or bool(places)
    graph = chosen.traced() if isinstance(chosen, SplitRecognizer) else traced_whole(_halves(chosen, tried), network)
    height, width = chosen.image_size
    found = cuts(graph, torch.zeros(1, 3, height, width), network)
    about: dict[str, Any] = {"network": network, "image_size": [height, width]}
    if not tried:
        if as_json:
            click.echo(json.dumps({**about, "cuts": [asdict(cut) for cut in found]}))
        else:
            _print(network, (height, width), found, {}, "")
        return
    some = _named(found, places, graph, network) if places else spread(found, count)
    settings = _trial(config, profile, overrides, label, public, images, detect)
    with progress_shown(Console(stderr=True, quiet=quiet)):
        results = _tried(chosen, some, settings)
    (label,) = settings.attacks
    if as_json:
        cells = [{**asdict(cut), **({"tried": results[cut.name]} if cut.name in results else {})} for cut in found]
        click.echo(json.dumps({**about, "attack": label, "cuts": cells}))
    else:
        _print(network, (height, width), some, results, label)
    sys.exit(1 if any("failed" in result for result in results.values()) else 0)


def _print(network: str, size: tuple[int, int], found: list[Cut], results: dict[str, Any], label: str) -> None:
    """One line a place; of those that were tried, what was reached."""
    from bench.report.audit import figure

    widest = max((len(cut.name) for cut in found), default=4)
    tried = f"  {f'{label}: SSIM':<20}  PSNR (dB)" if results else ""
    what = "places tried" if results else "places"
    click.echo(f"{network}, images of {size[0]} x {size[1]} pixels: {len(found)} {what}")
    click.echo(f"{'cut':<{widest}}  {'template':>15}  {'bytes':>11}  on the client{tried}")
    for cut in found:
        shape = " x ".join(map(str, cut.shape))
        line = f"{cut.name:<{widest}}  {shape:>15}  {cut.bytes:>11,}  {100 * cut.share:11.1f} %"
        result = results.get(cut.name)
        if result is not None and "failed" in result:
            line += f"  failed: {result['failed']}"
        elif result is not None:
            line += f"  {figure(result['ssim']):<20}  {figure(result['psnr_db'], 1)}"
        click.echo(line)
    done = next((result for result in results.values() if "failed" not in result), None)
    if done is not None:
        faces = done["public_faces"]
        click.echo(
            f"the mean face, which looks at no template: SSIM {figure(done['blind_ssim'])}, PSNR "
            f"{figure(done['blind_psnr_db'], 1)} dB"
        )
        click.echo(f"learned from {faces['learning']} faces, measured on {faces['held_out']} of other people")


def _named(found: list[Cut], names: tuple[str, ...], graph: Any, network: str) -> list[Cut]:
    """The places of these names.

    Raises:
        UserError: the network cannot be cut there; says why.
    """
    from bench.errors import UserError
    from bench.toolkit.cutting import split

    for name in names:
        if name not in {cut.name for cut in found}:
            split(graph, name, network)
            raise UserError(f"{network}: {name!r} gives no feature map (C, h, w) that could be stored")
    return [cut for cut in found if cut.name in names]


def _trial(
    config: Path | None, profile: str | None, overrides: tuple[str, ...], label: str, public: Path | None,
    images: int | None, detect: bool,
) -> Settings:  # fmt: skip
    """The settings in which places are tried, still without their recogniser."""
    from bench.contracts import ReconstructionAttack
    from bench.errors import UserError
    from bench.labels import Knowledge
    from bench.runner.audit import no_defense
    from bench.runner.standalone import settings_of
    from bench.settings.toml import default_path, read_file

    profile = profile or profile_if_there(QUICK, config or default_path())
    if images is not None:  # the other half is the defender's, who needs none here
        overrides = (*overrides, f"run.public_limit={images}")
    file = read_file(config or default_path(), profile, overrides)
    settings = settings_of(
        config, profile, overrides,
        defense=no_defense(), recognizer=file.run.recognizers[0], attacks=[label] if label else file.run.attacks,
        public=public, detect=detect,
    )  # fmt: skip
    for name, attack in settings.attacks.items():
        decodes = isinstance(attack, ReconstructionAttack) and attack.leaks == "template" and not attack.parts
        if decodes and (label or attack.level == Knowledge.ENCODER):
            return replace(settings, attacks={name: attack})
    named = f"{label!r} does not rebuild" if label else "none of the config's attacks at level encoder rebuilds"
    raise UserError(f"--attack: {named} images from templates without other attacks' help; name one that does")


def _tried(chosen: Recognizer, places: list[Cut], settings: Settings) -> dict[str, Any]:
    """What the attack reaches at each place, or why it failed."""
    from bench.errors import UserError
    from bench.runner.cut_trial import try_cut
    from bench.toolkit.cut_recognizer import cut_at
    from bench.toolkit.progress import track

    results: dict[str, Any] = {}
    for cut in track(places, "trying places to cut", len(places)):
        try:
            results[cut.name] = try_cut(replace(settings, recognizers={cut.name: cut_at(chosen, cut.name)}))
        except Exception as error:  # of a network, an attack or memory: the other places may do
            said = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
            results[cut.name] = {"failed": " ".join(said.split())}
    return results


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


def _halves(chosen: Recognizer, trained: bool) -> Any:
    """Client and server with their weights; as they are built where there are no weights and none are needed."""
    from bench.errors import DataError

    try:
        return chosen.load()
    except DataError:
        if trained:
            raise
        return chosen.build()
