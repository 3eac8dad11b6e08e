"""Draws an attack's score along a sweep of one of its parameters, such as the number of enrolled faces."""

from __future__ import annotations

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, NullLocator, ScalarFormatter

from bench.analysis.board import boards
from bench.analysis.curve import curve_points
from bench.analysis.selftest import blind_floor
from bench.metrics.catalogue import metric as heading_of
from bench.storage.records import Run


def curve(run: Run, metric: str = "ssim") -> Figure | None:
    """A panel per dataset, recogniser, attack and swept parameter; a line per defence. None if no attack was swept.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    points = curve_points(run, metric)
    if not len(points):
        return None
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    floors = {(board.dataset, board.recognizer): blind_floor(board) for board in boards(run)}
    groups = list(points.groupby(["dataset", "recognizer", "attack", "parameter"], sort=False))
    figure = Figure(figsize=(5.6, 3.9 * len(groups)), layout="constrained")
    FigureCanvasAgg(figure)
    colours = seaborn.color_palette("colorblind", 10)
    axes = figure.subplots(len(groups), 1, squeeze=False)[:, 0]
    for axis, (place, some) in zip(axes, groups, strict=True):
        dataset, recognizer, attack, parameter = map(str, place)  # type: ignore[arg-type]
        for colour, (defense, line) in zip(colours, some.groupby("defense", sort=False), strict=False):
            line = line.sort_values("x")
            axis.plot(line["x"], line["y"], "o-", color=colour, label=str(defense), markersize=4)
            ends = (line[end].astype(float) for end in ("low", "high"))
            axis.fill_between(line["x"], *ends, color=colour, alpha=0.18, linewidth=0)
        if metric == "ssim":
            floor = floors[dataset, recognizer]
            axis.axhline(floor, color="0.5", linestyle="--", linewidth=1, label="blind floor")
        values = sorted(set(some["x"]))
        if values[0] > 0 and values[-1] / values[0] >= 8:
            axis.set_xscale("log")
            axis.xaxis.set_major_formatter(ScalarFormatter())
            axis.xaxis.set_minor_locator(NullLocator())
        axis.xaxis.set_major_locator(FixedLocator(values))
        axis.set_xlabel(parameter)
        axis.set_ylabel(heading_of(metric).heading)
        axis.set_title(f"{attack}: {dataset}, {recognizer}, {int(some['n'].max())} images", loc="left", fontsize=10)
        axis.legend(fontsize=8, frameon=False)
        seaborn.despine(ax=axis)
    return figure
