"""Transferability heatmaps: defences (or AdvFace's shadows) against attacks."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from bench.contracts import UserError
from bench.records import Run, replacing
from bench.registry import near_miss
from bench.report.summary import Board, boards

# Heading, decimals, and whether a larger figure means that more leaked.
METRICS = {
    "ssim": ("SSIM (7x7)", 2, True),
    "psnr_db": ("PSNR, dB", 1, True),
    "cosine": ("cosine of embeddings", 2, True),
    "lpips": ("LPIPS (alex)", 2, False),
    "mse": ("MSE on [0, 1]", 3, False),
}


def heatmap(run: Run, metric: str = "ssim") -> Figure:
    """Rows: defences; columns: attacks from the least knowing to the most; a map a dataset and recogniser.

    Raises:
        UserError: no such metric.
        DataError: there are no records, or damaged ones.
    """
    if metric not in METRICS:
        raise UserError(f"no heatmap of {metric!r}.{near_miss(metric, METRICS)}")
    some = boards(run)
    width = max(5.0, 2.6 + 0.95 * max(len(b.attacks) for b in some))
    heights = [1.9 + 0.52 * len(b.defenses) for b in some]
    figure = Figure(figsize=(width, sum(heights)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(some), 1, squeeze=False, height_ratios=heights)[:, 0]
    for axis, board in zip(axes, some, strict=True):
        _draw(axis, board, metric)
    return figure


def _draw(axis, board: Board, metric: str) -> None:  # type: ignore[no-untyped-def]
    import seaborn

    heading, decimals, more_leaks = METRICS[metric]
    defenses, attacks = board.defenses, board.attacks
    values = np.full((len(defenses), len(attacks)), np.nan)
    images = 0
    for row, defense in enumerate(defenses):
        for column, attack in enumerate(attacks):
            entry = board.find("reconstruction", defense, attack)
            figure = entry.metric(metric) if entry and not entry.failed else None
            if figure is not None and figure.value is not None:
                values[row, column], images = figure.value, max(images, figure.n)
    levels = {a: e.cell.level for e in board.entries for a in [e.cell.attack] if e.cell.kind == "reconstruction"}
    low, high = (0, 1) if metric in ("ssim", "cosine") else (None, None)
    seaborn.heatmap(
        values,
        ax=axis,
        annot=True,
        fmt=f".{decimals}f",
        # Perceptually even and safe for colour-blind eyes; the dark end is always what gives most away.
        cmap="cividis_r" if more_leaks else "cividis",
        vmin=low,
        vmax=high,
        linewidths=1.5,
        linecolor="white",
        xticklabels=[f"{attack}\n({levels[attack]})" for attack in attacks],
        yticklabels=defenses,
        cbar_kws={"label": f"{heading}\n(darker: more leaked)"},
        annot_kws={"fontsize": 10},
    )
    for row, column in np.argwhere(np.isnan(values)):
        axis.add_patch(Rectangle((column, row), 1, 1, facecolor="0.9", edgecolor="0.6", hatch="///", linewidth=0))
        axis.text(column + 0.5, row + 0.5, "no figure", ha="center", va="center", fontsize=8, color="0.2")
    axis.set_title(f"{heading}: {board.dataset}, {board.recognizer}, {images} images", fontsize=11)
    axis.set_ylabel("defence")
    axis.set_xlabel("attack (what the attacker knows)")
    axis.tick_params(axis="x", labelsize=8, rotation=0, length=0)
    axis.tick_params(axis="y", labelsize=9, rotation=0, length=0)


def save(figure: Figure, base: Path, formats: tuple[str, ...] = ("png", "svg")) -> list[Path]:
    """Writes BASE.png and BASE.svg; the same picture gives the same bytes."""
    written = []
    for suffix in formats:
        path = base.with_name(f"{base.name}.{suffix}")
        metadata = {"Date": None} if suffix == "svg" else {"Software": None}
        with replacing(path) as temporary, rc_context({"svg.hashsalt": "veilbench", "svg.fonttype": "none"}):
            figure.savefig(temporary, format=suffix, dpi=200, metadata=metadata)
        written.append(path)
    return written
