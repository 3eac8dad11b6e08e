"""Draws originals beside each attack's reconstructions, one picture per defence."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from bench.analysis.board import Board, boards
from bench.errors import UserError, near_miss
from bench.report.heatmap import save
from bench.storage.files import file_name
from bench.storage.records import Run

_PEOPLE = 8  #: maximum number of columns
_WIDTH, _GAP, _CAPTION, _TITLE = 1.0, 0.06, 0.17, 0.5  #: inches: picture, gap, space under a picture, space above all
_DPI = 150  #: so a face of 112 pixels is hardly enlarged


@dataclass(frozen=True, eq=False)
class _Row:
    """One attack's pictures and their SSIM, by the image's name; empty if it failed."""

    label: str
    pictures: dict[str, NDArray[Any]] = field(default_factory=dict)
    ssim: dict[str, float] = field(default_factory=dict)
    failed: str = ""


def _rows(run: Run, board: Board, defense: str) -> list[_Row]:
    """The originals, then the attacks as in the heatmap. Empty if no attack has pictures."""
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

    A failed attack keeps its row, with a note. None if there are no pictures.
    """
    rows = _rows(run, board, defense)
    if not rows:
        return None
    names = list(rows[0].pictures)[:_PEOPLE]
    height, width = rows[0].pictures[names[0]].shape[:2]
    picture = _WIDTH * height / width
    margin = 0.25 + 0.085 * max(len(row.label) for row in rows)  # for the longest name in 9 points
    heights = [0.35 if row.failed else picture + _GAP + (_CAPTION if row.ssim else 0) for row in rows]
    size = max(margin + len(names) * (_WIDTH + _GAP), 4.0), _TITLE + sum(heights)
    figure = Figure(figsize=size)
    FigureCanvasAgg(figure)
    # All in one pair of axes, in inches from the top left, because dozens of axes take seconds.
    axis = figure.add_axes((0, 0, 1, 1), xlim=(0, size[0]), ylim=(size[1], 0))
    axis.axis("off")
    axis.text(
        size[0] / 2, _TITLE / 2, f"{defense}: {board.dataset}, {board.recognizer}\nSSIM (7x7) under each picture",
        fontsize=10, ha="center", va="center",
    )  # fmt: skip
    top = _TITLE
    for row, tall in zip(rows, heights, strict=True):
        deep = tall - _GAP if row.failed else picture
        axis.text(margin - 0.1, top + deep / 2, row.label, fontsize=9, ha="right", va="center")
        for column, name in enumerate(names):
            left = margin + column * (_WIDTH + _GAP)
            middle = left + _WIDTH / 2
            if row.failed:
                axis.add_patch(Rectangle((left, top), _WIDTH, deep, facecolor="0.93"))
                axis.text(middle, top + deep / 2, row.failed, ha="center", va="center", fontsize=8, color="0.25")
            elif name in row.pictures:
                place = (left, left + _WIDTH, top + picture, top)
                axis.imshow(row.pictures[name], extent=place, aspect="auto", interpolation="lanczos")
            if name in row.ssim:
                axis.text(middle, top + picture + 0.03, f"{row.ssim[name]:.2f}", fontsize=8, ha="center", va="top")
        top += tall
    return figure


def write_grids(run: Run, defense: str | None = None) -> list[Path]:
    """RUN/grid_DEFENCE.png for one defence, or for all.

    Raises:
        UserError: there is no such defence in the run.
        DataError: there are no records, or damaged ones.
    """
    some = boards(run)
    known = {d for board in some for d in board.defenses}
    if defense is not None and defense not in known:
        raise UserError(f"{run.folder}: no defence {defense!r} in this run.{near_miss(defense, known)}")
    written = []
    shared = Counter(_place(board, label, some) for board in some for label in board.defenses)
    for board in some:
        for label in board.defenses if defense is None else [defense]:
            figure = grid(run, board, label)
            if figure is not None:
                name = _place(board, label, some)
                if shared[name] > 1:  # for example a_b with c, and a with b_c
                    name = file_name(board.dataset, board.recognizer, label)
                written += save(figure, run.folder / f"grid_{name}", ("png",), _DPI)
    return written


def _place(board: Board, label: str, among: Sequence[Board]) -> str:
    """The file name of a grid; a label is free text, so it must be confined to the folder."""
    parts = (board.dataset, board.recognizer, label) if len(among) > 1 else (label,)
    return file_name(*parts, divider="_")
