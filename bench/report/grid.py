"""Originals beside what each attack rebuilt of them, a picture a defence."""

from __future__ import annotations

from pathlib import Path

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from bench.contracts import UserError
from bench.records import Run
from bench.registry import near_miss
from bench.report.heatmap import save
from bench.report.summary import Board, boards


def grid(run: Run, board: Board, defense: str) -> Figure | None:
    """Columns: people; rows: the original, then each attack, with the SSIM of each picture. None without samples."""
    shown = []
    for attack in board.attacks:
        entry = board.find("reconstruction", defense, attack)
        samples = run.samples(entry.cell) if entry and not entry.failed else {}
        if entry and samples and len(samples["name"]):
            assert entry.scores is not None
            scores = entry.scores.set_index("name")["ssim"]
            shown.append((attack, samples["reconstruction"], [float(scores[str(n)]) for n in samples["name"]]))
    if not shown:
        return None
    original = samples["original"] if samples else run.samples(_first(board, defense, shown[0][0]))["original"]
    rows, columns = len(shown) + 1, len(original)
    height, width = original.shape[1:3]
    cell = 1.05
    figure = Figure(figsize=(1.1 + columns * cell, 0.5 + rows * (cell * height / width + 0.2)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(rows, columns, squeeze=False)
    for row, (label, pictures, scores_) in enumerate([("original", original, None), *shown]):
        for column, axis in enumerate(axes[row]):
            axis.imshow(pictures[column], interpolation="lanczos")
            axis.set_xticks([])
            axis.set_yticks([])
            for spine in axis.spines.values():
                spine.set_visible(False)
            if scores_ is not None:
                axis.set_xlabel(f"{scores_[column]:.2f}", fontsize=8, labelpad=1)
        axes[row][0].set_ylabel(label, fontsize=9)
    figure.suptitle(f"{defense}: {board.dataset}, {board.recognizer}; SSIM under each picture", fontsize=10)
    return figure


def _first(board: Board, defense: str, attack: str):  # type: ignore[no-untyped-def]
    entry = board.find("reconstruction", defense, attack)
    assert entry is not None
    return entry.cell


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
                written += save(figure, run.folder / f"grid_{place}", ("png",))
    return written
