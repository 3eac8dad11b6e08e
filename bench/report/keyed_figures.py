"""Draws keyed defences: error trade-offs (DET) of each scheme, and figures along its swept parameter."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter
from scipy.special import ndtr, ndtri

from bench import labels
from bench.analysis.board import boards
from bench.analysis.keyed_curves import det_curves, swept_templates
from bench.storage.records import Run

_RATES = (0.001, 0.01, 0.05, 0.2, 0.5)  #: ticks of the DET's axes
_LEAST, _MOST = 3e-4, 0.65
_ACROSS = 3  #: panels side by side
_WIDE = 8  #: a sweep over a larger ratio has a logarithmic axis

#: The panels of a sweep: heading, and curves by their column and name.
_PANELS = (
    ("accuracy", {"acc_normal": "own keys", "acc_stolen": "stolen token", "acc_plain": "without protection"}),
    (
        "given away, with the key",
        {"cosine_key": "recovered cosine", "isr_key": "ISR", "ssim_key": "picture's SSIM", "sar_key": "picture's SAR"},
    ),
    ("linking AUC, no key", {"link_own": "own score", "link_best": "best score"}),
    ("D_sys, no key", {"d_sys_own": "own score", "d_sys": "best score"}),
)


def det(run: Run) -> Figure | None:
    """DET curves, a panel per family of keyed defences, with axes in normal deviates. None without keyed defences.

    Solid: impostors have their own keys; dashed: stolen tokens; dotted: unprotected embeddings, the same in all panels
    of a recogniser. A sweep's points are shaded, its smallest value the lightest.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    panels: list[tuple[str, pd.DataFrame, pd.DataFrame]] = []
    for board in boards(run):
        curves = det_curves(run, board)
        if curves.empty:
            continue
        plain, protected = (curves[(curves["scenario"] == "plain") == is_plain] for is_plain in (True, False))
        for family, some in protected.groupby(protected["defense"].map(labels.family), sort=True):
            panels.append((f"{family}\n{board.dataset}, {board.recognizer}", some, plain))
    if not panels:
        return None
    figure, axes = _grid(len(panels), 3.5)
    for axis, (title, some, plain) in zip(axes, panels, strict=False):
        _det_panel(axis, some, plain)
        axis.set_title(title, loc="left", fontsize=9)
    return figure


def _det_panel(axis: Axes, curves: pd.DataFrame, plain: pd.DataFrame) -> None:
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    ink = rcParams["text.color"]
    points = sorted(curves["defense"].unique(), key=_value)
    colours = seaborn.color_palette("flare", len(points)) if len(points) > 1 else seaborn.color_palette("colorblind", 1)
    axis.plot(plain["fmr"], plain["fnmr"], color=ink, linestyle=":", linewidth=1.2)
    for colour, point in zip(colours, points, strict=True):
        for scenario, style in (("normal", "-"), ("stolen", "--")):
            some = curves[(curves["defense"] == point) & (curves["scenario"] == scenario)]
            axis.plot(some["fmr"], some["fnmr"], color=colour, linestyle=style, linewidth=1.3)
    for scale, ticks in ((axis.set_xscale, axis.xaxis), (axis.set_yscale, axis.yaxis)):
        scale("function", functions=(_deviate, ndtr))
        ticks.set_major_locator(FixedLocator(_RATES))
        ticks.set_minor_locator(NullLocator())
        ticks.set_major_formatter(lambda rate, _: f"{100 * rate:g} %")
    axis.set_xlim(_LEAST, _MOST)
    axis.set_ylim(_LEAST, _MOST)
    axis.set_xlabel("false match rate")
    axis.set_ylabel("false non-match rate")
    axis.tick_params(labelsize=8)
    axis.grid(color="0.5", alpha=0.25, linewidth=0.6)
    shown = [Line2D([], [], color=c, label=labels.point(p) or p) for c, p in zip(colours, points, strict=True)]
    shown += [
        Line2D([], [], color=ink, linestyle="-", linewidth=1, label="own keys"),
        Line2D([], [], color=ink, linestyle="--", linewidth=1, label="stolen token"),
        Line2D([], [], color=ink, linestyle=":", linewidth=1, label="without protection"),
    ]
    axis.legend(handles=shown, fontsize=7, frameon=False, loc="upper right")
    seaborn.despine(ax=axis)


def _deviate(rate: object) -> np.ndarray:
    """Normal deviates; matplotlib also asks for rates outside of 0 to 1."""
    return np.asarray(ndtri(np.clip(np.asarray(rate, dtype=np.float64), 1e-9, 1 - 1e-9)))


def _value(defense: str) -> tuple[float, str]:
    """Sorts the points of a sweep by their value."""
    value = labels.point(defense).rpartition("=")[2]
    try:
        return float(value), defense
    except ValueError:
        return math.inf, defense


def template_curves(run: Run) -> Figure | None:
    """A row of panels per swept keyed defence: accuracy, what an inversion with the key recovers, linking and D_sys.

    Bands are 95 % intervals. In the panel of D_sys, chance explains what lies in the grey area (95 % point of the
    null). None if no keyed defence was swept over a number.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    rows: list[tuple[str, pd.DataFrame]] = []
    for board in boards(run):
        swept = swept_templates(board)
        for (family, parameter), some in swept.groupby(["family", "parameter"]) if len(swept) else ():
            rows.append((f"{family}, {parameter}: {board.dataset}, {board.recognizer}", some))
    if not rows:
        return None
    figure = Figure(figsize=(3.2 * len(_PANELS), 3.0 * len(rows)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(rows), len(_PANELS), squeeze=False)
    for line, (title, some) in zip(axes, rows, strict=True):
        for axis, (heading, curves) in zip(line, _PANELS, strict=True):
            _curve_panel(axis, some, heading, curves)
        line[0].set_title(title, loc="left", fontsize=10)
    return figure


def _curve_panel(axis: Axes, frame: pd.DataFrame, heading: str, curves: dict[str, str]) -> None:
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    for colour, (column, name) in zip(seaborn.color_palette("colorblind", 10), curves.items(), strict=False):
        some = frame.dropna(subset=[column])
        if some.empty:
            continue
        axis.plot(some["x"], some[column], "o-", color=colour, label=name, markersize=3.5, linewidth=1.3)
        low, high = (some[f"{column}_{end}"].fillna(some[column]).astype(float) for end in ("low", "high"))
        axis.fill_between(some["x"], low, high, color=colour, alpha=0.18, linewidth=0)
    if "d_sys" in curves and frame["d_sys_null"].notna().any():
        null = frame.dropna(subset=["d_sys_null"])
        axis.fill_between(null["x"], 0, null["d_sys_null"], color="0.5", alpha=0.3, linewidth=0, label="chance, 95 %")
    if "link_best" in curves:
        axis.axhline(0.5, color="0.5", linestyle="--", linewidth=1, label="chance")
    if not axis.get_legend_handles_labels()[0]:
        axis.text(0.5, 0.5, "no figures", transform=axis.transAxes, ha="center", fontsize=8)
    values = sorted(set(frame["x"]))
    if values[0] > 0 and values[-1] / values[0] >= _WIDE:
        axis.set_xscale("log")
        axis.xaxis.set_major_formatter(ScalarFormatter())
        axis.xaxis.set_minor_locator(NullLocator())
    axis.xaxis.set_major_locator(FixedLocator(values))
    axis.set_xlabel(str(frame["parameter"].iloc[0]), fontsize=9)
    axis.set_ylabel(heading, fontsize=9)
    axis.tick_params(labelsize=8)
    if axis.get_legend_handles_labels()[0]:
        axis.legend(fontsize=7, frameon=False)
    seaborn.despine(ax=axis)


def _grid(count: int, size: float) -> tuple[Figure, list[Axes]]:
    """A figure with panels of this size in inches, the unused ones of the last row hidden."""
    across = min(_ACROSS, count)
    down = -(-count // across)
    figure = Figure(figsize=(size * across, size * down), layout="constrained")
    FigureCanvasAgg(figure)
    axes = list(figure.subplots(down, across, squeeze=False).flat)
    for unused in axes[count:]:
        unused.set_visible(False)
    return figure, axes
