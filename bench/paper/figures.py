"""Draws the paper's figures as PNG and PDF, at the width of its column (3.3 inches) or page (6.9)."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

from bench.paper.gather import Cell, Filled
from bench.paper.layouts import BOUNDS, ROLES
from bench.paper.tables import caption
from bench.storage.files import replacing
from bench.storage.records import Run

_COLUMN, _PAGE = 3.3, 6.9  #: inches
_STYLE: Any = {
    "font.size": 7,
    "axes.labelsize": 7,
    "axes.titlesize": 7,
    "legend.fontsize": 6.5,
    "xtick.labelsize": 6.5,
    "ytick.labelsize": 6.5,
    "pdf.fonttype": 42,  # embed TrueType fonts, because publishers refuse type 3
}
_THIN = 0.5  #: as a fraction of a picture's width: a row without pictures
_MARKERS = {"lfw": "o", "cfp_fp": "s", "agedb": "^"}


def write_figure(filled: Filled, run: Run) -> list[Path]:
    """Writes NAME.png and NAME.pdf into the run's folder. Figures 3, 5 and 6 show faces of people in the data."""
    written = []
    with rc_context(_STYLE):
        figure = _trade_off(filled) if filled.layout.name == "figure4" else _faces(filled, run)
        for suffix in ("png", "pdf"):
            path = run.folder / f"{filled.layout.name}.{suffix}"
            metadata: dict[str, Any] = {"Software": None} if suffix == "png" else {"CreationDate": None}
            with replacing(path) as temporary:
                figure.savefig(temporary, format=suffix, dpi=300, metadata=metadata)
            written.append(path)
    return written


def _under(figure: Figure, text: str, width: float) -> None:
    """Puts the caption below the drawing, so that the figure stands alone."""
    figure.supxlabel("\n".join(textwrap.wrap(text, int(width * 23))), fontsize=6, x=0.01, ha="left")


# ------------------------------------------------------------------------------------------------------ figure 4


def _trade_off(filled: Filled) -> Figure:
    """Accuracy against PSNR, a line per data set, a point per noise bound."""
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    figure = Figure(figsize=(_COLUMN, 3.2), layout="constrained")
    FigureCanvasAgg(figure)
    axis = figure.subplots()
    colours = seaborn.color_palette("colorblind", len(ROLES))
    for colour, (role, title) in zip(colours, ROLES.items(), strict=True):
        points = _points(filled, role)
        if not points:
            axis.plot([], [], " ", label=f"{title}: {_why(filled, role)}")
            continue
        psnr, accuracy = ([cells[i].measure for _, cells in points] for i in (1, 0))
        x = [m.value or 0.0 for m in psnr if m]
        y = [100 * (m.value or 0.0) for m in accuracy if m]
        axis.errorbar(
            x,
            y,
            xerr=_errors(psnr, 1.0),
            yerr=_errors(accuracy, 100.0),
            marker=_MARKERS[role],
            color=colour,
            label=f"{title} ({filled.datasets[role]})",
            lw=1,
            ms=3.5,
            elinewidth=0.5,
            alpha=0.9,
        )
    axis.set(xlabel="PSNR of ResRec's reconstructions, dB (lower: more private)", ylabel="accuracy, %")
    axis.grid(lw=0.3, alpha=0.6)
    figure.legend(frameon=False, loc="outside upper left")  # points and their bars may lie anywhere
    _under(
        figure,
        f"{caption(filled)} Along each line, from the right: bounds of {', '.join(f'{b:g}' for b in BOUNDS)}. "
        "Bars: 95 % intervals over identities.",
        _COLUMN,
    )
    return figure


def _points(filled: Filled, role: str) -> list[tuple[str, list[Cell]]]:
    """(bound, [accuracy, PSNR]) for bounds that have both."""
    found: dict[str, list[Cell]] = {}
    for cell in filled.cells:
        if cell.slot.role == role and cell.measure is not None:
            found.setdefault(cell.slot.row[0], []).append(cell)
    return [(bound, cells) for bound, cells in found.items() if len(cells) == 2]


def _errors(measures: list[Any], factor: float) -> list[list[float]]:
    """Lower and upper distances, as `errorbar` expects them; None if there is no interval."""
    down = [factor * max(0.0, m.value - m.low) if m.low is not None else 0.0 for m in measures]
    up = [factor * max(0.0, m.high - m.value) if m.high is not None else 0.0 for m in measures]
    return [down, up]


def _why(filled: Filled, role: str) -> str:
    return next((c.status.label for c in filled.cells if c.slot.role == role and c.measure is None), "no figures")


# -------------------------------------------------------------------------------------------- figures 3, 5 and 6


def _faces(filled: Filled, run: Run) -> Figure:
    """A row per data set (and level of knowledge): one person's original and its reconstructions."""
    # Cells with the same row and column differ only in the metric, so any of them has the pictures.
    cells = [c for c in filled.cells if c.slot.kind == "reconstruction"]
    metric = "ssim" if any(c.slot.metric == "ssim" for c in cells) else "psnr_db"
    cells = [c for c in cells if c.slot.metric == metric]
    heads = len(filled.layout.heads) - 1
    panels = list(dict.fromkeys(c.slot.row[heads and 1 :] for c in cells))
    lines: dict[tuple[str, ...], list[Cell]] = {}
    for cell in cells:
        level = cell.slot.column[1:] if filled.layout.name == "figure6" else ()
        lines.setdefault((ROLES[cell.slot.role], *level), []).append(cell)
    kept = {line: {c.slot.row[heads and 1 :]: c for c in own} for line, own in lines.items()}
    drawn = {line: {panel: _pictures(filled, run, c) for panel, c in own.items()} for line, own in kept.items()}
    heights = [1.2 if any(pictures.values()) else _THIN for pictures in drawn.values()]
    side = _PAGE / (len(panels) + 1.6)
    figure = Figure(figsize=(_PAGE, side * sum(heights) + 0.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(lines), len(panels) + 1, squeeze=False, height_ratios=heights)
    for place, (line, own) in enumerate(lines.items()):
        pictures = drawn[line]
        some = next((p for p in pictures.values() if p), None)
        label = "\n".join([*line, filled.datasets.get(own[0].slot.role, "")])
        _panel(axes[place, 0], some["original"][0] if some else None, "" if some else own[0].status.label)
        axes[place, 0].set_ylabel(label.strip(), fontsize=6, rotation=0, ha="right", va="center")
        for column, panel in enumerate(panels, 1):
            pair = pictures.get(panel)
            cell = kept[line][panel]
            _panel(axes[place, column], pair["reconstruction"][0] if pair else None, cell.status.label)
            if pair:
                axes[place, column].set_xlabel(_score(filled, run, cell, metric), fontsize=6, labelpad=1)
    for axis, panel in zip(axes[0], [("original",), *panels], strict=True):
        title = f"ε = {panel[0]}" if filled.layout.name == "figure3" and panel != ("original",) else "\n".join(panel)
        axis.set_title(title, fontsize=6)
    unit = "SSIM" if metric == "ssim" else "PSNR in dB"
    said = "" if metric == "ssim" else " No bound (0.00): the shadow image's features."
    _under(figure, f"{caption(filled)} Under each picture: its {unit}.{said}", _PAGE)
    return figure


def _panel(axis: Axes, picture: NDArray[Any] | None, why: str) -> None:
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(False)
    if picture is not None:
        axis.imshow(picture, interpolation="lanczos")
        return
    axis.set_facecolor("0.93")
    axis.text(0.5, 0.5, why.replace(" ", "\n"), ha="center", va="center", fontsize=5, transform=axis.transAxes)


def _pictures(filled: Filled, run: Run, cell: Cell) -> dict[str, NDArray[Any]]:
    """`original`, `reconstruction` and `name` of the stored samples; empty if there are none."""
    board = filled.boards.get(cell.slot.role)
    entry = board.find(cell.slot.kind, cell.slot.defense, cell.slot.attack) if board else None
    samples = run.samples(entry.cell) if entry and cell.measure else {}
    return samples if samples and len(samples["name"]) else {}


def _score(filled: Filled, run: Run, cell: Cell, metric: str) -> str:
    board = filled.boards[cell.slot.role]
    entry = board.find(cell.slot.kind, cell.slot.defense, cell.slot.attack)
    assert entry is not None
    name = str(run.samples(entry.cell)["name"][0])
    return f"{float(run.scores(entry.cell).set_index('name')[metric][name]):.2f}"
