"""Draws rows of reconstructions for the page: one picture per attack and defence, people side by side."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.analysis.board import LEVELS, Board, Entry
from bench.storage.files import replacing
from bench.storage.records import Run

_PEOPLE = 8  #: maximum number of columns
_TRUE = "true embedding"  #: names the faces made of these
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
    """Writes `strip-N.webp` into the folder, N from `start` on, and describes them. None without pictures.

    Of keyed defences, the faces made of recovered embeddings, and last those made of the true ones.
    """
    found = []
    for defense in (*board.defenses, *board.keyed):
        gallery = _gallery(run, board, defense, folder, start)
        if gallery is not None:
            found.append(gallery)
            start += len(gallery.strips)
    return found


@dataclass(frozen=True, eq=False)
class _Row:
    """The pictures of one attack and their SSIM, by the image's name."""

    attack: str
    level: str
    pictures: dict[str, NDArray[Any]] = field(default_factory=dict)
    ssim: dict[str, float] = field(default_factory=dict)
    why: str = ""


def _row(run: Run, entry: Entry, part: str, metric: str, attack: str) -> _Row:
    """One part of an entry's samples; of the first seed, and so are the figures, and not means over seeds."""
    samples = {} if entry.failed else run.samples(entry.cell)
    if not samples or not len(samples["name"]):
        return _Row(attack, entry.cell.level, why=entry.failed or "no pictures were kept")
    names = [str(name) for name in samples["name"]]
    scores = run.scores(entry.cell).set_index("name")[metric]
    pictures = dict(zip(names, samples[part], strict=True))
    return _Row(attack, entry.cell.level, pictures, {name: float(scores[name]) for name in names})


def _gallery(run: Run, board: Board, defense: str, folder: Path, start: int) -> Gallery | None:
    entries = sorted(board.under(defense, "reconstruction"), key=lambda e: (LEVELS[e.cell.level].place, e.cell.attack))
    rebuilt = [_row(run, entry, "reconstruction", "ssim", entry.cell.attack) for entry in entries]
    decoded = sorted((e for e in board.under(defense, "picture") if not e.skipped), key=lambda e: e.cell.attack)
    rebuilt += [_row(run, entry, "reconstruction", "picture_ssim", entry.cell.attack) for entry in decoded]
    rebuilt += [replace(_row(run, entry, "plain", "plain_picture_ssim", _TRUE), level="") for entry in decoded[:1]]
    originals: dict[str, NDArray[Any]] = {}
    for entry in (*entries, *decoded):
        samples = {} if entry.failed else run.samples(entry.cell)
        originals.update(zip(map(str, samples["name"]), samples["original"], strict=True) if samples else ())
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
    for number, row in enumerate(rebuilt, start=start + 1):
        figures = tuple(row.ssim.get(name) for name in people)
        file = write(number, row.pictures) if row.pictures else ""
        strips.append(Strip(attack=row.attack, level=row.level, file=file, ssim=figures, why=row.why))
    return Gallery(defense=defense, width=shape[1] * len(people), height=shape[0], strips=tuple(strips))
