"""Detects copies of a photograph under another name, in another encoding or size."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.contracts import Originals
from bench.datasets.align import ImageSource
from bench.storage.files import locked, replacing
from bench.storage.keys import content_key
from bench.toolkit.progress import track

log = logging.getLogger("veilbench")

_SIDE = 16  #: side of a thumbnail, in pixels
_COARSE = 4  #: side of the thumbnails in the first search
# Two thumbnails (mean 0, variance 1) with at most this mean squared difference show the same photograph (correlation
# .9975). In LFW and CFP, different photographs of one person stay above .009; copies with another JPEG quality (30 and
# up) or size (0.3 to 2 times) stay below .0015.
_SAME = 0.005
_FLAT = 2.0  #: an image whose standard deviation (grey levels) is below this has too little content to compare


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """A (16, 16) grey thumbnail of the whole picture, whatever its aspect ratio."""
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.HAMMING))


def originals(source: ImageSource, digests: Mapping[str, bytes], cache: Path) -> Originals:
    """Thumbnails and digests of a source's files; each file is read once and the result cached.

    Args:
        digests: sha256 of each file, by the source's names.

    Raises:
        DataError: a file cannot be read.
    """
    count = len(source.names)
    path = cache / f"thumbnails-{content_key(revision=source.revision, side=_SIDE)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), "run.cache"):
        thumbnails = _cached(path, count)
        if thumbnails is None:
            steps = track(range(count), "looking for copies (once)", count)
            thumbnails = np.array([thumbnail(source.read(i)) for i in steps], dtype=np.uint8).reshape(
                count, _SIDE, _SIDE
            )
            with replacing(path) as aside, aside.open("wb") as file:
                np.save(file, thumbnails, allow_pickle=False)
    places = tuple(source.where(i) for i in range(count))
    return Originals(places, tuple(digests[name] for name in source.names), thumbnails)


def _cached(path: Path, count: int) -> NDArray[np.uint8] | None:
    try:
        found: NDArray[np.uint8] = np.load(path, allow_pickle=False)
        if found.shape == (count, _SIDE, _SIDE) and found.dtype == np.uint8:
            return found
        reason = f"of shape {found.shape}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error)
    log.warning("%s: damaged (%s); computing it again", path, reason)
    return None


def copies(one: Originals, other: Originals) -> list[tuple[int, int]]:
    """Pairs (i, j) where image j of the other set is a copy of image i of the first, sorted by j and then i.

    Copies have the same bytes, or are equal when scaled down and normalised in brightness and contrast.
    """
    at: dict[bytes, list[int]] = {}
    for i, digest in enumerate(one.digests):
        at.setdefault(digest, []).append(i)
    found = {(i, j) for j, digest in enumerate(other.digests) for i in at.get(digest, ())}
    (first, here), (second, there) = _shapes(one), _shapes(other)
    if len(here) and len(there):
        from scipy.spatial import KDTree  # slow to import, and most runs have no other set to look for copies in

        # Averaging pixels only reduces differences, so images that are close at 16 x 16 are close at 4 x 4.
        near = KDTree(_coarse(first)).query_ball_point(_coarse(second), r=np.sqrt(_SAME) * _COARSE, workers=1)
        for j, candidates in enumerate(near):
            for i in candidates:
                if np.square(first[i] - second[j]).mean() <= _SAME:
                    found.add((int(here[i]), int(there[j])))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _shapes(some: Originals) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Thumbnails with mean 0 and variance 1, and their indices; images without content are omitted."""
    flat = some.thumbnails.reshape(len(some.files), _SIDE**2).astype(np.float64)
    spread = flat.std(1) if len(flat) else np.zeros(0)
    rows = np.flatnonzero(spread >= _FLAT)
    return (flat[rows] - flat[rows].mean(1, keepdims=True)) / spread[rows, None], rows


def _coarse(shapes: NDArray[np.float64]) -> NDArray[np.float64]:
    block = _SIDE // _COARSE
    blocks = shapes.reshape(-1, _COARSE, block, _COARSE, block)
    return np.asarray(blocks.mean((2, 4)), dtype=np.float64).reshape(-1, _COARSE**2)
