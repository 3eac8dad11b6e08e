"""Knows a photograph again under another name, in another encoding or size."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.spatial import KDTree

from bench.contracts import Originals
from bench.datasets.align import ImageSource
from bench.storage.files import locked, replacing
from bench.storage.keys import content_key
from bench.toolkit.progress import track

log = logging.getLogger("veilbench")

_SIDE = 16  #: pixels of a thumbnail
_COARSE = 4  #: and of what is searched first
# Mean squared difference of two thumbnails of mean 0 and variance 1, up to which they are of one photograph
# (correlation .9975). In LFW and CFP other shots of one person stay above .009; copies of another JPEG quality (30 and
# up) or size (0.3 to 2 times) below .0015.
_SAME = 0.005
_FLAT = 2.0  #: standard deviation, in grey values, below which a picture shows nothing that could be known again


def thumbnail(image: Image.Image) -> NDArray[np.uint8]:
    """(16, 16) grey: the whole picture, whatever its shape."""
    return np.asarray(image.convert("L").resize((_SIDE, _SIDE), Image.Resampling.HAMMING))


def originals(source: ImageSource, digests: Mapping[str, bytes], cache: Path) -> Originals:
    """The files behind a source, each looked at once and kept in the cache.

    Args:
        digests: sha256 of each file, by the source's names.

    Raises:
        DataError: one cannot be read.
    """
    count = len(source.names)
    path = cache / f"thumbnails-{content_key(revision=source.revision, side=_SIDE)}.npy"
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path.with_suffix(".lock"), "run.cache"):
        kept = _kept(path, count)
        if kept is None:
            steps = track(range(count), "looking for copies (once)", count)
            kept = np.array([thumbnail(source.read(i)) for i in steps], dtype=np.uint8).reshape(count, _SIDE, _SIDE)
            with replacing(path) as aside, aside.open("wb") as file:
                np.save(file, kept, allow_pickle=False)
    places = tuple(source.where(i) for i in range(count))
    return Originals(places, tuple(digests[name] for name in source.names), kept)


def _kept(path: Path, count: int) -> NDArray[np.uint8] | None:
    try:
        found: NDArray[np.uint8] = np.load(path, allow_pickle=False)
        if found.shape == (count, _SIDE, _SIDE) and found.dtype == np.uint8:
            return found
        reason = f"of shape {found.shape}"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, EOFError) as error:
        reason = str(error)
    log.warning("%s: damaged (%s); making it again", path, reason)
    return None


def copies(one: Originals, other: Originals) -> list[tuple[int, int]]:
    """Pairs (i, j) where the j-th of the other set is a copy of the i-th of the first, by j and then i.

    Either the same bytes, or pictures that are the same when scaled down and brought to one brightness and contrast.
    """
    at: dict[bytes, list[int]] = {}
    for i, digest in enumerate(one.digests):
        at.setdefault(digest, []).append(i)
    found = {(i, j) for j, digest in enumerate(other.digests) for i in at.get(digest, ())}
    (first, here), (second, there) = _shapes(one), _shapes(other)
    if len(here) and len(there):
        # Differences only shrink as pixels are averaged: whoever is near at 16 x 16 is near at 4 x 4.
        near = KDTree(_coarse(first)).query_ball_point(_coarse(second), r=np.sqrt(_SAME) * _COARSE, workers=1)
        for j, candidates in enumerate(near):
            for i in candidates:
                if np.square(first[i] - second[j]).mean() <= _SAME:
                    found.add((int(here[i]), int(there[j])))
    return sorted(found, key=lambda pair: (pair[1], pair[0]))


def _shapes(some: Originals) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Thumbnails of mean 0 and variance 1, and whose they are: those that show something."""
    flat = some.thumbnails.reshape(len(some.files), _SIDE**2).astype(np.float64)
    spread = flat.std(1) if len(flat) else np.zeros(0)
    rows = np.flatnonzero(spread >= _FLAT)
    return (flat[rows] - flat[rows].mean(1, keepdims=True)) / spread[rows, None], rows


def _coarse(shapes: NDArray[np.float64]) -> NDArray[np.float64]:
    block = _SIDE // _COARSE
    blocks = shapes.reshape(-1, _COARSE, block, _COARSE, block)
    return np.asarray(blocks.mean((2, 4)), dtype=np.float64).reshape(-1, _COARSE**2)
