"""Originals beside what each attack rebuilt of them, a picture a defence."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.contracts import UserError
from bench.records import Run
from bench.registry import near_miss
from bench.report.heatmap import save
from bench.report.summary import Board, boards

_PEOPLE = 8  #: columns at most
_WIDTH = 1.05  #: inches a picture


@dataclass(frozen=True, eq=False)
class _Row:
    """One attack's pictures and their SSIM, by the image's name; none where it failed."""

    label: str
    pictures: dict[str, NDArray[Any]] = field(default_factory=dict)
    ssim: dict[str, float] = field(default_factory=dict)
    failed: str = ""


def _rows(run: Run, board: Board, defense: str) -> list[_Row]:
    """The originals, then the attacks as in the heatmap. Empty where no attack kept pictures."""
    originals: dict[str, NDArray[Any]] = {}
    rows = []
    for attack in board.attacks:
        entry = board.find("reconstruction", defense, attack)
        if entry is None or entry.failed:
            rows.append(_Row(attack, failed=(entry.failed.split(":")[0] if entry else "not run")))
            continue
        samples = run.samples(entry.cell)
        if not samples or not len(samples["name"]):
            continue
        names = [str(name) for name in samples["name"]]
        originals.update(zip(names, samples["original"], strict=True))
        # The pictures are the first seed's, so the figures under them are too, and not means over seeds.
        ssim = run.scores(entry.cell).set_index("name")["ssim"]
        rows.append(
            _Row(
                attack,
                dict(zip(names, samples["reconstruction"], strict=True)),
                {name: float(ssim[name]) for name in names},
            )
        )
    return [_Row("original", originals), *rows] if originals else []


def grid(run: Run, board: Board, defense: str) -> Figure | None:
    """Columns: at most 8 people; rows: the original, then each attack, with the SSIM of each picture.

    An attack that failed keeps its row, and says so. None where no pictures were kept.
    """
    rows = _rows(run, board, defense)
    if not rows:
        return None
    names = list(rows[0].pictures)[:_PEOPLE]
    height, width = rows[0].pictures[names[0]].shape[:2]
    tall = _WIDTH * height / width + 0.2
    heights = [0.35 if row.failed else tall for row in rows]
    margin = 0.25 + 0.085 * max(len(row.label) for row in rows)  # inches, for the longest name in 9 points
    figure = Figure(figsize=(max(margin + len(names) * _WIDTH, 4.0), 0.5 + sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(names), squeeze=False, height_ratios=heights)
    for row, line in zip(rows, axes, strict=True):
        for name, axis in zip(names, line, strict=True):
            axis.set(xticks=[], yticks=[])
            axis.spines[:].set_visible(False)
            if row.failed:
                axis.set_facecolor("0.93")
                axis.text(0.5, 0.5, row.failed, ha="center", va="center", fontsize=8, color="0.25")
            elif name in row.pictures:
                axis.imshow(row.pictures[name], interpolation="lanczos")
            if name in row.ssim:
                axis.set_xlabel(f"{row.ssim[name]:.2f}", fontsize=8, labelpad=1)
        # Level text, with room made for it: a name is easier to read lying than standing.
        line[0].set_ylabel(row.label, fontsize=9, rotation=0, ha="right", va="center", labelpad=6)
    figure.suptitle(f"{defense}: {board.dataset}, {board.recognizer}\nSSIM (7x7) under each picture", fontsize=10)
    return figure


def write_grids(run: Run, defense: str | None = None) -> list[Path]:
    """RUN/grid_DEFENCE.png for one defence, or for all.

    Raises:
        UserError: no such defence in the run.
        DataError: there are no records, or damaged ones.
    """
    some = boards(run)
    known = {d for board in some for d in board.defenses}
    if defense is not None and defense not in known:
        raise UserError(f"{run.folder}: no defence {defense!r} in this run.{near_miss(defense, known)}")
    written = []
    for board in some:
        for label in board.defenses if defense is None else [defense]:
            figure = grid(run, board, label)
            if figure is not None:
                several = len(some) > 1
                place = f"{board.dataset}_{board.recognizer}_{label}" if several else label
                # A label is free text in bench.toml: it must stay one file in this folder.
                safe = "".join(c if c.isalnum() or c in "-_.=[]," else "_" for c in place)
                written += save(figure, run.folder / f"grid_{safe}", ("png",))
    return written
