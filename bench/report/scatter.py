"""Draws privacy against utility (AdvFace paper, section 5.2): the best attack's result against accuracy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

from bench import labels
from bench.analysis.board import LEVELS, boards
from bench.analysis.leaderboard import leaderboard
from bench.errors import UserError, near_miss
from bench.labels import Knowledge
from bench.metrics.catalogue import metric
from bench.storage.records import Run

#: The column and heading of a panel, and the column and name of its floor.
_Panel = tuple[str, str, str, str]
_PANELS: tuple[_Panel, ...] = (
    ("worst_ssim", f"{metric('ssim').heading} of the worst attack", "blind_ssim", "blind floor"),
    ("worst_psnr_db", f"{metric('psnr_db').heading} of that attack", "blind_psnr_db", "blind floor"),
)

_CROWDED = 12  #: with more points, the families are named in a legend and only the ends of a sweep are labelled
_MARKERS = "os^Dv<>PX*ph"
_WIDE = 0.2  #: range of accuracies beyond which the axis is in logits
_TICKS = [0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.998]

_RING: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "color": "0.5", "zorder": 0}


def scatter(run: Run, level: str = "") -> Figure | None:
    """A row of two panels per dataset and recogniser: what attacks get out of each defence against its accuracy.

    The panels have SSIM and PSNR of the worst attack. With a level, they have the SSIM of the best attack up to that
    level, and rank 1 of the best linkage attack up to it. Bars are 95 % intervals. The solid line is the Pareto front:
    defences that no other beats in both. The dashed line is the blind floor, or chance. A ring marks those on the front
    with size and time as further criteria, up to some level (`bench.analysis.pareto`). The points of a sweep are
    joined. None if fewer than two defences have both figures.

    Raises:
        DataError: there are no records, or damaged ones.
        UserError: there is no such level.
    """
    known = [str(one) for one in Knowledge if one > Knowledge.BLIND]
    if level and level not in known:
        raise UserError(f"no level of knowledge {level!r}.{near_miss(level, known)}")
    frame, panels = leaderboard(run), _PANELS
    if level:
        frame = frame.merge(_names(run, LEVELS[level]), how="left", on=["dataset", "recognizer", "defense"])
        heading = f"{metric('ssim').heading} of the best attack up to {level}"
        panels = ((f"{level}_ssim", heading, "blind_ssim", "blind floor, or chance"),)
        if frame["rank1"].notna().any():
            heading = f"{metric('rank1').heading} of linkage up to {level}"
            panels += (("rank1", heading, "rank1_chance", "chance"),)
    frame = frame.dropna(subset=["acc", panels[0][0]])
    groups = [(place, some) for place, some in frame.groupby(["dataset", "recognizer"], sort=False) if len(some) > 1]
    if not groups:
        return None
    crowded = max(len(some) for _, some in groups) > _CROWDED
    size = (5.25 * len(panels) + 2.2, 5.4 * len(groups)) if crowded else (5.25 * len(panels), 4.6 * len(groups))
    figure = Figure(figsize=size, layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(groups), len(panels), squeeze=False)
    for row, ((dataset, recognizer), some) in zip(axes, groups, strict=True):
        looks = _looks([labels.family(str(label)) for label in some["defense"]], crowded)
        for axis, panel in zip(row, panels, strict=True):
            _draw(axis, some.dropna(subset=[panel[0]]), panel, looks, crowded)
        row[0].set_title(f"{dataset}, {recognizer}", loc="left", fontsize=11)
        if crowded:
            row[-1].legend(
                *row[0].get_legend_handles_labels(),
                fontsize=8,
                loc="center left",
                bbox_to_anchor=(1.01, 0.5),
                frameon=False,
            )
    figure.draw_without_rendering()  # compute the layout first, because label positions depend on it
    figure.set_layout_engine("none")
    for axis in axes.flat:
        axis.set_visible(False)
    for axis in axes.flat:
        axis.set_visible(True)  # alone, because adjustText draws the whole figure for each panel
        _spread_labels(axis)
        axis.set_visible(False)
    for axis in axes.flat:
        axis.set_visible(True)
    return figure


def _names(run: Run, level: Knowledge) -> pd.DataFrame:
    """Rank 1 of the best linkage attack up to a level, for each defence, with its interval and what chance gives."""
    rows = []
    for board in boards(run):
        for defense in board.defenses:
            entries = [e for e in board.under(defense, "linkage") if not e.failed and LEVELS[e.cell.level] <= level]
            figures = [e.metric("rank1") for e in entries if e.metric("rank1").value is not None]
            place: dict[str, Any] = {"dataset": board.dataset, "recognizer": board.recognizer, "defense": defense}
            if figures:
                best = max(figures, key=lambda figure: figure.value or 0.0)
                place |= {"rank1": best.value, "rank1_low": best.low, "rank1_high": best.high}
                place |= {"rank1_chance": 1 / best.n if best.n else None}
            rows.append(place)
    names = ["dataset", "recognizer", "defense", "rank1", "rank1_low", "rank1_high", "rank1_chance"]
    return pd.DataFrame(rows, columns=names).astype(dict.fromkeys(names[3:], float))


def _spread_labels(axis: Axes) -> None:
    """Places labels next to their points without overlap; a thin line leads to a label that had to move far."""
    from adjustText import adjust_text

    points = np.array([text.get_position() for text in axis.texts])
    thin = {"arrowstyle": "-", "color": "0.6", "linewidth": 0.6}
    adjust_text(
        list(axis.texts), x=points[:, 0], y=points[:, 1], ax=axis, expand=(1.1, 1.3), iter_lim=500, arrowprops=thin
    )


def _looks(families: Sequence[str], crowded: bool) -> dict[str, tuple[Any, str]]:
    """The colour and the marker of each family, the same in all panels."""
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    known = sorted(set(families)) if crowded else list(dict.fromkeys(families))
    colours = seaborn.color_palette("husl", len(known)) if len(known) > 10 else seaborn.color_palette("colorblind", 10)
    return {
        family: (colours[place % len(colours)], _MARKERS[place % len(_MARKERS)] if crowded else "o")
        for place, family in enumerate(known)
    }


def _draw(axis: Axes, frame: pd.DataFrame, panel: _Panel, looks: Mapping[str, tuple[Any, str]], crowded: bool) -> None:
    import seaborn

    name, heading, floor, floor_name = panel
    families = {label: labels.family(str(label)) for label in frame["defense"]}
    for family, some in frame.groupby(frame["defense"].map(families), sort=False):
        colour, marker = looks[str(family)]
        some = some.sort_values(name)
        if len(some) > 1:
            axis.plot(some[name], some["acc"], color=colour, linewidth=1, alpha=0.5, zorder=1)
        for number, point in enumerate(some.to_dict("records")):
            across, up = _bar(point, name), _bar(point, "acc")
            bars: dict[str, Any] = {"elinewidth": 0.5 if crowded else 1, "markersize": 4.5 if crowded else 6}
            drawn = axis.errorbar(point[name], point["acc"], yerr=up, xerr=across, fmt=marker, color=colour, **bars)
            if crowded and number == 0:
                drawn.set_label(str(family))
            if point["pareto"]:
                axis.plot(point[name], point["acc"], "o", **_RING)
            if not crowded:
                axis.text(point[name], point["acc"], _label(str(point["defense"])), fontsize=8)
            elif number in (0, len(some) - 1) and labels.point(str(point["defense"])):
                axis.text(point[name], point["acc"], _label(str(point["defense"])).partition("=")[2], fontsize=7)
    front = _front(frame, name)
    ink = rcParams["text.color"]  # so that the picture is also readable on a dark page
    axis.step(
        front[name], front["acc"], where="post", color=ink, alpha=0.65, linewidth=1.2, zorder=0, label="Pareto front"
    )
    if frame["pareto"].any():
        axis.plot([], [], "o", label="front with bytes and ms", **_RING)
    if frame[floor].notna().any():
        axis.axvline(float(frame[floor].max()), color="0.5", linestyle="--", linewidth=1, label=floor_name)
    axis.set_xlabel(f"{heading} (left: more private)")
    axis.set_ylabel("accuracy")
    axis.margins(0.12)
    if (
        frame["acc"].max() - frame["acc"].min() > _WIDE
    ):  # so that one that recognises nobody does not squeeze the others
        axis.set_yscale("logit", nonpositive="clip")
        axis.set_ylim(max(0.01, frame["acc"].min() - 0.05), 1 - min(0.002, (1 - frame["acc"].max()) / 2 or 0.002))
        axis.yaxis.set_major_locator(FixedLocator(_TICKS))
        axis.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{share:g}"))
        axis.yaxis.set_minor_locator(NullLocator())
    if not crowded:
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
