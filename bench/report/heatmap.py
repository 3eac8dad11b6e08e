"""Draws transferability heatmaps: defences (or AdvFace's shadows) against attacks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import rc_context, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from bench.analysis.board import KEYED, Board, Entry, boards
from bench.errors import UserError, near_miss
from bench.labels import at_level, with_key
from bench.metrics.catalogue import metric as find_metric
from bench.metrics.catalogue import of_kind
from bench.storage.files import replacing
from bench.storage.records import Run

METRICS = tuple(m.name for m in of_kind("reconstruction"))
KEYED_METRICS = ("inverted_cosine", "picture_ssim")  #: of keyed defences


def heatmap(run: Run, metric: str = "ssim") -> Figure:
    """Rows: defences; columns: attacks by knowledge (`server` before `encoder`); a map per dataset and recogniser.

    Of keyed defences for `KEYED_METRICS`, and of the others for `METRICS`; boards without any are left out.

    Raises:
        UserError: there is no such metric, or no defence that could have it.
        DataError: there are no records, or damaged ones.
    """
    if metric not in (*METRICS, *KEYED_METRICS):
        raise UserError(f"no heatmap of {metric!r}.{near_miss(metric, (*METRICS, *KEYED_METRICS))}")
    kind = find_metric(metric).kind
    some = [board for board in boards(run) if _defenses(board, kind)]
    if not some:
        raise UserError(f"{run.folder}: no heatmap of {metric!r}: no defence here has it")
    width = max(5.0, 2.6 + (1.15 if kind in KEYED else 0.95) * max(len(board.attacks_of(kind)) for board in some))
    heights = [1.9 + 0.52 * len(_defenses(board, kind)) for board in some]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)  # seaborn needs a renderer
    axes = figure.subplots(len(some), 1, squeeze=False, height_ratios=heights)[:, 0]
    # seaborn draws the whole figure after each map, only to look for tick labels that overlap
    figure.set_visible(False)
    for axis, board in zip(axes, some, strict=True):
        _draw(axis, board, metric, kind)
    figure.set_visible(True)
    return figure


def _defenses(board: Board, kind: str) -> list[str]:
    """Of keyed ones, those to which an attack applies."""
    if kind not in KEYED:
        return board.defenses
    return [name for name in board.keyed if any(not entry.skipped for entry in board.under(name, kind))]


def _draw(axis: Axes, board: Board, metric: str, kind: str) -> None:
    import seaborn  # the import takes a second, which commands that draw nothing should not spend

    shown = find_metric(metric)
    heading, more_leaks = shown.heading, shown.better < 0
    decimals = min(shown.decimals, max(2, shown.decimals - 1))  # a cell of the map is narrower than one of a table
    defenses, attacks = _defenses(board, kind), board.attacks_of(kind)
    values = np.full((len(defenses), len(attacks)), np.nan)
    gaps: dict[tuple[int, int], str] = {}
    images = 0
    for row, defense in enumerate(defenses):
        for column, attack in enumerate(attacks):
            entry = board.find(kind, defense, attack)
            figure = entry.metric(metric) if entry and not entry.failed else None
            if figure is not None and figure.value is not None:
                values[row, column], images = figure.value, max(images, figure.n)
            else:
                gaps[row, column] = _gap(entry)
    levels = {a: e.cell.level for e in board.entries for a in [e.cell.attack] if e.cell.kind == kind}
    if metric in ("ssim", "cosine", *KEYED_METRICS):
        low, high = 0.0, 1.0  # the same colours in every run
    elif len(gaps) < values.size:
        low, high = float(np.nanmin(values)), float(np.nanmax(values))
    else:
        low, high = 0.0, 1.0  # nothing to show; a scale without limits would warn
    seaborn.heatmap(
        values,
        ax=axis,
        annot=np.vectorize(lambda value: _label(value, decimals), otypes=[object])(values),
        fmt="",
        # Perceptually uniform; it works for colour-blind readers and in grey print, and figures are readable on all of
        # it. The dark end always means most leaked.
        cmap="rocket_r" if more_leaks else "rocket",
        vmin=low,
        vmax=high,
        linewidths=1.5,
        linecolor=rcParams["axes.facecolor"],
        xticklabels=[_named(attack, levels[attack]) for attack in attacks],
        yticklabels=defenses,
        cbar_kws={"label": f"{heading}\n(darker: more leaked)"},
        annot_kws={"fontsize": 10},
    )
    for text, (red, green, blue, _) in zip(axis.texts, _filled(axis, values), strict=True):
        # Black or white, whichever has more contrast by WCAG 2's relative luminance: seaborn puts white on orange.
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in (red, green, blue)]
        text.set_color("black" if np.dot([0.2126, 0.7152, 0.0722], linear) > 0.179 else "white")
    for (row, column), why in gaps.items():
        axis.add_patch(
            Rectangle((column + 0.01, row + 0.015), 0.98, 0.97, facecolor="0.93", edgecolor="0.75", hatch="///", lw=0)
        )
        plate = {"facecolor": "0.93", "edgecolor": "none", "pad": 1.5}
        axis.text(column + 0.5, row + 0.5, why, ha="center", va="center", fontsize=8, color="0.25", bbox=plate)
    axis.set_title(f"{heading}: {board.dataset}, {board.recognizer}, {images} images", fontsize=11)
    axis.set_ylabel("defence")
    axis.set_xlabel("attack (what the attacker knows)")
    axis.tick_params(axis="x", labelsize=8, rotation=0, length=0)
    axis.tick_params(axis="y", labelsize=9, rotation=0, length=0)


def _named(attack: str, level: str) -> str:
    """The attack and what it knows, on two lines: its level, and whether it has the victim's key."""
    plain, leaked = with_key(attack)
    return f"{at_level(plain)[0]}\n({level}{' + key' if leaked else ''})"


def _filled(axis: Axes, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Colours (K, 4) of the cells with a figure, in the order in which seaborn labels them."""
    colours = np.asarray(axis.collections[0].get_facecolor(), dtype=np.float64).reshape(-1, 4)
    return colours[~np.isnan(values).ravel()]


def _gap(entry: Entry | None) -> str:
    """A short reason why a cell has no figure."""
    if entry is None:
        return "not run"
    if entry.failed:
        return "skipped" if entry.failed.startswith("skipped") else "failed"
    return "unavailable"


def _label(value: float, decimals: int) -> str:
    """.26: drops the zero before the point, because many cells are side by side."""
    text = f"{value:.{decimals}f}"
    return text.replace("0.", ".", 1) if text.startswith(("0.", "-0.")) else text


def save(figure: Figure, base: Path, formats: tuple[str, ...] = ("png", "svg"), dpi: int = 200) -> list[Path]:
    """Writes BASE.png and BASE.svg; the same picture gives the same bytes."""
    written = []
    for suffix in formats:
        path = base.with_name(f"{base.name}.{suffix}")
        how: dict[str, Any] = {"metadata": {"Date": None}}
        if suffix == "png":  # faster than zlib's default level, an eighth larger
            how = {"metadata": {"Software": None}, "pil_kwargs": {"compress_level": 3}}
        with replacing(path) as temporary, rc_context({"svg.hashsalt": "veilbench", "svg.fonttype": "none"}):
            figure.savefig(temporary, format=suffix, dpi=dpi, **how)
        figure.set_layout_engine("none")  # the layout is final, so compute it only once
        written.append(path)
    return written
