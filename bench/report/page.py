"""Writes the HTML report: a folder with one page that shows all results of a run and loads nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from bench import __version__
from bench.analysis.board import LEVELS, Board, boards
from bench.analysis.embeddings import embedding_attacks
from bench.analysis.files import file_notes
from bench.analysis.leaderboard import leaderboard
from bench.analysis.verdict import verdicts
from bench.labels import at_level
from bench.metrics.catalogue import metric
from bench.report.floor import floor_figure
from bench.report.heatmap import KEYED_METRICS, METRICS, heatmap, save
from bench.report.keyed_figures import det, template_curves
from bench.report.page_tables import (
    cells_table,
    embedding_tables,
    keyed_tables,
    keys_table,
    leaderboard_tables,
    side_table,
    verdict_tables,
)
from bench.report.provenance import flags, origins, parameters, settings, time_taken
from bench.report.scatter import scatter
from bench.report.side_tables import side_tables
from bench.report.strips import Gallery, galleries
from bench.report.text import unbroken
from bench.storage.files import replacing
from bench.storage.records import Run

#: Background and text colours of the page, light and dark, as in `report.css`. A picture is drawn once, in a pair of
#: colours that it does not otherwise use (a heatmap's figures are pure black and white), and then recoloured.
_LIGHT = ("#fefefe", "#1b1e23")
_DARK = ("#15181d", "#e6e8eb")
_STYLE: dict[Any, str] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), _LIGHT[0]),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _LIGHT[1]),
}

#: What each level of knowledge lets an attacker do, in the order of `LEVELS`.
_KNOWLEDGE = dict(
    zip(
        LEVELS,
        (
            "public faces only; never looks at the template",
            "also has the stolen templates, and nothing of the system that made them",
            "also has the server's network with gradients, but has never seen a client",
            "has the stolen templates, and asks the client's encoder for features: the AdvFace paper's attacker",
            "also knows the defence and its settings, and runs a copy of its own",
            "also enrols own images and reads the stored templates back",
            "the whole system with gradients, but not the victims' randomness",
        ),
        strict=True,
    )
)


def write_page(run: Run, folder: Path) -> Path:
    """Writes FOLDER/index.html and its pictures `*.svg` and `strip-N.webp`. Touches nothing else in FOLDER.

    Names and messages are untrusted text: they are escaped, files are numbered, and the page's policy only allows its
    own script.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    some, frame = boards(run), leaderboard(run)
    records = [record for board in some for entry in board.entries for record in entry.records]
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[tuple[Board, list[Gallery]]] = []
    strips = 0
    for board in some:
        found = galleries(run, board, folder, strips)
        strips += sum(len(gallery.strips) for gallery in found)
        shown.append((board, found))
    for stale in folder.glob("strip-*.webp"):
        if stale.stem.partition("-")[2].isdecimal() and int(stale.stem.partition("-")[2]) >= strips:
            stale.unlink()  # left by an earlier run with more pictures
    every_strip = [strip for _, found in shown for gallery in found for strip in gallery.strips]
    environment = Environment(
        loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = environment.get_template("report.js").render()
    page = environment.get_template("index.html").render(
        title=" · ".join(dict.fromkeys(f"{board.dataset}, {board.recognizer}" for board in some)),
        version=__version__,
        style=environment.get_template("report.css").render(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        verdicts=[replace(verdict, sentence=unbroken(verdict.sentence)) for verdict in verdicts(frame)],
        summaries=verdict_tables(frame),
        leaderboards=leaderboard_tables(frame),
        embeddings=embedding_tables(embedding_attacks(run).to_dict("records")),
        scatter=_drawn(folder, "scatter", partial(scatter, run)),
        floor=_drawn(folder, "mse_floor", partial(floor_figure, run)),
        heatmaps=_heatmaps(run, some, folder),
        keyed=[table for board in some for table in keyed_tables(board)],
        det=_drawn(folder, "det", partial(det, run)),
        curves=_drawn(folder, "templates_curves", partial(template_curves, run)),
        galleries=shown,
        cells=[cells_table(board) for board in some],
        sides=[side_table(board, side) for board in some for side in side_tables(board)],
        failures=[r for r in records if r.status == "error"],
        attacks=sorted({at_level(strip.attack)[0] for strip in every_strip if strip.attack}),
        defenses=list(dict.fromkeys(gallery.defense for _, found in shown for gallery in found)),
        levels=[level for level in LEVELS if any(strip.level == level for strip in every_strip)],
        knowledge=_KNOWLEDGE,
        flags=flags(records, {d: f.split("; ") for d, f in zip(frame["defense"], frame["flags"], strict=True) if f}),
        made=origins(records),
        settings=settings(records),
        parameters=parameters(records),
        keys=keys_table(records),
        files=file_notes(records),
        counted=len(records),
        time=time_taken(records, run.times()),
    )
    path = folder / "index.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


# ------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Picture:
    """An SVG in two colour schemes."""

    light: str
    dark: str
    heading: str


def _drawn(folder: Path, name: str, draw: Callable[[], Figure | None], heading: str = "") -> Picture | None:
    """Writes NAME.svg and NAME-dark.svg; returns None, and removes old ones, if there is nothing to draw."""
    light, dark = folder / f"{name}.svg", folder / f"{name}-dark.svg"
    with rc_context(_STYLE):
        figure = draw()
        if figure is None:
            light.unlink(missing_ok=True)
            dark.unlink(missing_ok=True)
            return None
        save(figure, folder / name, ("svg",))
    text = light.read_text(encoding="utf-8")
    for day, night in zip(_LIGHT, _DARK, strict=True):
        text = text.replace(day, night)
    with replacing(dark) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Picture(light.name, dark.name, heading)


def _heatmaps(run: Run, some: Sequence[Board], folder: Path) -> list[Picture]:
    entries = [entry for board in some for entry in board.entries]
    found = []
    if any(board.attacks for board in some):
        for name in METRICS:
            if name not in ("mse", "mae") and any(
                e.metric(name).value is not None for e in entries
            ):  # psnr_db shows the same
                heading = metric(name).heading
                picture = _drawn(folder, f"heatmap_{name}", partial(heatmap, run, name), heading)
                found += [picture] if picture else []
    for name in KEYED_METRICS:
        if any(e.metric(name).value is not None for e in entries):
            heading = f"{metric(name).heading}, of keyed templates"
            picture = _drawn(folder, f"heatmap_{name}", partial(heatmap, run, name), heading)
            found += [picture] if picture else []
    return found
