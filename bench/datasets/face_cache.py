"""Caches aligned faces in a memory-mapped file, written in chunks so that a kill loses only a few hundred."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.storage.files import file_hash, locked, replacing
from bench.toolkit.progress import track

log = logging.getLogger("veilbench")

CHUNK = 32  #: faces per item of `chunks`
_KEPT = 8  #: chunks between saves, which is what a kill can lose

#: Yields faces from an index on, `CHUNK` at a time, each with whether it was found.
Chunks = Callable[[int], Iterator[tuple[Sequence[NDArray[np.uint8]] | NDArray[np.uint8], Sequence[bool]]]]


def cached_faces(
    folder: Path,
    count: int,
    size: tuple[int, int],
    chunks: Chunks,
    label: str,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Returns the faces (N, H, W, 3), memory-mapped, and whether one was found in each image.

    An interrupted call resumes where it stopped; concurrent runs share the work.

    Args:
        folder: the cache's own folder; its name is a hash of what the faces depend on.
        chunks: yields the faces from an index on, `CHUNK` at a time, each with whether it was found.
        label: the label of the progress bar.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / "lock", "run.cache"):
        manifest = _manifest(folder)
        if manifest is None:
            found = _make(folder, count, size, chunks, label)
            with replacing(folder / "manifest.json") as path:
                path.write_text(json.dumps({"found": found, "sha256": file_hash(folder / "faces.npy")}))
            (folder / "progress.json").unlink(
                missing_ok=True
            )  # not deleted earlier, because a kill would then lose all faces
            manifest = {"found": found}
    pixels: NDArray[np.uint8] = np.load(folder / "faces.npy", mmap_mode="r", allow_pickle=False)
    return pixels, np.array(manifest["found"], dtype=bool)


def _manifest(folder: Path) -> dict[str, Any] | None:
    """The metadata of the finished cache; None if it does not exist, or is damaged (it is then deleted)."""
    try:
        manifest: dict[str, Any] = json.loads((folder / "manifest.json").read_text())
        if file_hash(folder / "faces.npy") == manifest["sha256"]:
            return manifest
        reason = "its hash is wrong"
    except FileNotFoundError:
        if not (folder / "manifest.json").exists():
            return None
        reason = "its pixels are missing"
    except (OSError, ValueError, KeyError, TypeError) as error:
        reason = str(error)
    log.warning("%s: cached faces damaged (%s); computing them again", folder, reason)
    for name in ("manifest.json", "faces.npy", "progress.json"):
        (folder / name).unlink(missing_ok=True)
    return None


def _make(
    folder: Path,
    count: int,
    size: tuple[int, int],
    chunks: Chunks,
    label: str,
) -> list[bool]:
    path, done_path = folder / "faces.npy", folder / "progress.json"
    found: list[bool] = []
    if done_path.exists() and path.exists():
        found = json.loads(done_path.read_text())
    shape = (count, *size, 3)
    pixels = np.lib.format.open_memmap(
        path, mode="r+" if found else "w+", dtype=np.uint8, shape=None if found else shape
    )
    for number, (faces, seen) in enumerate(track(chunks(len(found)), label, -(-(count - len(found)) // CHUNK)), 1):
        pixels[len(found) : len(found) + len(faces)] = faces
        found.extend(seen)
        if number % _KEPT == 0:
            pixels.flush()
            with replacing(done_path) as temporary:
                temporary.write_text(json.dumps(found))
    pixels.flush()
    return found
