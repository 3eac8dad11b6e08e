"""Draws each attack's mean squared error above the van Trees floor of its defence."""

from __future__ import annotations

from matplotlib import rcParams
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.analysis.board import LEVELS, boards
from bench.analysis.floor import floors
from bench.labels import Knowledge
from bench.storage.records import Run


def floor_figure(run: Run) -> Figure | None:
    """A panel per dataset and recogniser, a row per defence whose noise has a known law.

    A point is an attack on one template, its colour the level of knowledge; a vertical line is the floor, a dotted one
    the bound with an isotropic rest. None if there is no such defence with an attack.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    shown = [(board, [row for row in floors(board) if row.attacks]) for board in boards(run)]
    shown = [(board, rows) for board, rows in shown if rows]
    if not shown:
        return None
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    colours = dict(zip(LEVELS, seaborn.color_palette("colorblind", len(LEVELS)), strict=True))
    height = sum(1.2 + 0.45 * len(rows) for _, rows in shown)
    figure = Figure(figsize=(8, height), layout="constrained")
    FigureCanvasAgg(figure)
    ratios = [1.2 + 0.45 * len(rows) for _, rows in shown]
    axes = figure.subplots(len(shown), 1, squeeze=False, gridspec_kw={"height_ratios": ratios})
    for axis, (board, rows) in zip(axes[:, 0], shown, strict=True):
        for place, row in enumerate(rows):
            ends = (place - 0.35, place + 0.35)
            axis.vlines(row.mse, *ends, color=rcParams["text.color"], linewidth=2)
            if row.isotropic is not None:
                axis.vlines(row.isotropic, *ends, color=rcParams["text.color"], linewidth=1, linestyle=":")
            for entry, measured in row.attacks:
                axis.plot(measured.value, place, "o", color=colours[entry.cell.level], alpha=0.8, markersize=5)
        axis.set_yticks(range(len(rows)), [row.defense for row in rows])
        axis.set_ylim(len(rows) - 0.5, -0.5)
        axis.set_xscale("log")
        axis.set_xlabel("mean squared error of an attack on one template, pixels in [0, 1]; line: van Trees floor")
        axis.set_title(f"{board.dataset}, {board.recognizer}", loc="left", fontsize=11)
        for level in (level for level in LEVELS if LEVELS[level] > Knowledge.BLIND):
            axis.plot([], [], "o", color=colours[level], label=level)
        axis.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
        seaborn.despine(ax=axis)
    return figure
