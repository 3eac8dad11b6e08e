"""Draws rows of reconstructions for the page: one picture per attack and defence, people side by side."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.analysis.board import LEVELS, Board, Entry
from bench.storage.files import replacing
from bench.storage.records import Run

_PEOPLE = 8  #: maximum number of columns
_QUALITY = 90  #: WebP quality: a tenth of PNG's size, without a visible difference


@dataclass(frozen=True, kw_only=True)
class Strip:
    """One row: the originals (no `attack`), or one attack's reconstructions."""

    attack: str = ""
    level: str = ""
    file: str = ""  #: the picture's file name in the folder; empty if there is none
    ssim: tuple[float | None, ...] = ()  #: labels of the pictures from left to right; None for a missing person
    why: str = ""  #: the reason why there is no picture


@dataclass(frozen=True, kw_only=True)
class Gallery:
    """All strips of one defence; the originals come first."""

    defense: str
    width: int  #: size of a strip in pixels
    height: int
    strips: tuple[Strip, ...] = field(default=())

    @property
    def people(self) -> int:
        """Number of columns."""
        return len(self.strips[0].ssim)


def galleries(run: Run, board: Board, folder: Path, start: int = 0) -> list[Gallery]:
    """Writes `strip-N.webp` into the folder, N from `start` on, and describes them. None without pictures."""
    found = []
    for defense in board.defenses:
        gallery = _gallery(run, board, defense, folder, start)
        if gallery is not None:
            found.append(gallery)
            start += len(gallery.strips)
    return found


def _gallery(run: Run, board: Board, defense: str, folder: Path, start: int) -> Gallery | None:
    entries = sorted(board.under(defense, "reconstruction"), key=lambda e: (LEVELS[e.cell.level].place, e.cell.attack))
    originals: dict[str, NDArray[Any]] = {}
    rebuilt: list[tuple[Entry, dict[str, NDArray[Any]]]] = []
    for entry in entries:
        samples = {} if entry.failed else run.samples(entry.cell)
        names = [str(name) for name in samples["name"]] if samples else []
        originals.update(zip(names, samples["original"], strict=True) if names else ())
        rebuilt.append((entry, dict(zip(names, samples["reconstruction"], strict=True)) if names else {}))
    if not originals:
        return None
    people = list(originals)[:_PEOPLE]
    shape = originals[people[0]].shape

    def write(number: int, pictures: dict[str, NDArray[Any]]) -> str:
        blank = np.full(shape, 128, dtype=np.uint8)
        row = np.concatenate([pictures.get(name, blank) for name in people], axis=1)
        # Numbers instead of labels, because a label is free text and must not determine where a file is written.
        path = folder / f"strip-{number}.webp"
        with replacing(path) as temporary:
            Image.fromarray(row).save(temporary, format="webp", quality=_QUALITY, method=2)
        return path.name

    strips = [Strip(file=write(start, originals), ssim=(None,) * len(people))]
    for number, (entry, pictures) in enumerate(rebuilt, start=start + 1):
        cell = entry.cell
        if not pictures:
            why = entry.failed or "no pictures were kept"
            strips.append(Strip(attack=cell.attack, level=cell.level, why=why))
            continue
        # The pictures are the first seed's, so the figures under them are too, and not means over seeds.
        ssim = run.scores(cell).set_index("name")["ssim"]
        figures = tuple(float(ssim[name]) if name in pictures else None for name in people)
        strips.append(Strip(attack=cell.attack, level=cell.level, file=write(number, pictures), ssim=figures))
    return Gallery(defense=defense, width=shape[1] * len(people), height=shape[0], strips=tuple(strips))
