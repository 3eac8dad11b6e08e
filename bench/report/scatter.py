"""Draws privacy against utility (AdvFace paper, section 5.2): the worst attack's result against accuracy."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench import labels
from bench.analysis.leaderboard import leaderboard
from bench.metrics.catalogue import metric
from bench.storage.records import Run

_PANELS = (
    ("worst_ssim", f"{metric('ssim').heading} of the worst attack", "blind_ssim"),
    ("worst_psnr_db", f"{metric('psnr_db').heading} of that attack", "blind_psnr_db"),
)

_RING: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "color": "0.5", "zorder": 0}


def scatter(run: Run) -> Figure | None:
    """A row of two panels per dataset and recogniser: SSIM and PSNR of the worst attack against accuracy.

    Bars are 95 % intervals. The solid line is the Pareto front: defences that no other beats in both. The dashed line
    is the blind floor. A ring marks those on the front with size and time as further criteria, up to some level
    (`bench.analysis.pareto`). The points of a sweep are joined. None if fewer than two defences have both figures.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    frame = leaderboard(run).dropna(subset=["acc", "worst_ssim"])
    groups = [(place, some) for place, some in frame.groupby(["dataset", "recognizer"], sort=False) if len(some) > 1]
    if not groups:
        return None
    figure = Figure(figsize=(10.5, 4.6 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(groups), 2, squeeze=False)
    for row, ((dataset, recognizer), some) in zip(axes, groups, strict=True):
        for axis, (name, heading, floor) in zip(row, _PANELS, strict=True):
            _draw(axis, some, name, heading, floor)
        row[0].set_title(f"{dataset}, {recognizer}", loc="left", fontsize=11)
    figure.draw_without_rendering()  # compute the layout first, because label positions depend on it
    figure.set_layout_engine("none")
    for axis in axes.flat:
        _spread_labels(axis)
    return figure


def _spread_labels(axis: Axes) -> None:
    """Places labels next to their points without overlap; a thin line leads to a label that had to move far."""
    from adjustText import adjust_text

    points = np.array([text.get_position() for text in axis.texts])
    thin = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6}
    adjust_text(
        list(axis.texts), x=points[:, 0], y=points[:, 1], ax=axis, expand=(1.1, 1.3), iter_lim=500, arrowprops=thin
    )


def _draw(axis: Axes, frame: pd.DataFrame, name: str, heading: str, floor: str) -> None:
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    colours = seaborn.color_palette("colorblind", 10)
    families = {label: labels.family(str(label)) for label in frame["defense"]}
    known = list(dict.fromkeys(families.values()))
    for family, some in frame.groupby(frame["defense"].map(families), sort=False):
        colour = colours[known.index(str(family)) % len(colours)]
        some = some.sort_values(name)
        if len(some) > 1:
            axis.plot(some[name], some["acc"], color=colour, linewidth=1, alpha=0.5, zorder=1)
        for point in some.to_dict("records"):
            across, up = _bar(point, name), _bar(point, "acc")
            axis.errorbar(point[name], point["acc"], yerr=up, xerr=across, fmt="o", color=colour, elinewidth=1)
            if point["pareto"]:
                axis.plot(point[name], point["acc"], "o", **_RING)
            axis.text(point[name], point["acc"], _label(str(point["defense"])), fontsize=8)
    front = _front(frame, name)
    ink = rcParams["text.color"]  # so that the picture is also readable on a dark page
    axis.step(
        front[name], front["acc"], where="post", color=ink, alpha=0.65, linewidth=1.2, zorder=0, label="Pareto front"
    )
    if frame["pareto"].any():
        axis.plot([], [], "o", label="front with bytes and ms", **_RING)
    if frame[floor].notna().any():
        axis.axvline(float(frame[floor].max()), color="0.5", linestyle="--", linewidth=1, label="blind floor")
    axis.set_xlabel(f"{heading} (left: more private)")
    axis.set_ylabel("accuracy")
    axis.margins(0.12)
    axis.legend(fontsize=8, loc="best", frameon=False)
    seaborn.despine(ax=axis)


def _bar(point: Mapping[Any, Any], name: str) -> list[list[float]] | None:
    low, high = point[f"{name}_low"], point[f"{name}_high"]
    if pd.isna(low) or pd.isna(high):
        return None
    return [[max(0.0, point[name] - low)], [max(0.0, high - point[name])]]


def _front(frame: pd.DataFrame, name: str) -> pd.DataFrame:
    """Those that no other beats in both, the most private first."""
    ordered = frame.sort_values([name, "acc"], ascending=[True, False])
    return ordered[ordered["acc"] > ordered["acc"].cummax().shift(fill_value=-1.0)]


def _label(defense: str) -> str:
    """Shows advface[epsilon=0.1] as epsilon=0.1, because its family has a colour."""
    return labels.point(defense) or defense
