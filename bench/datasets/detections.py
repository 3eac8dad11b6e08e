"""Remembers what the face detector found in each photograph, because every crop of it needs the same."""

from __future__ import annotations

import hashlib
import logging
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

log = logging.getLogger("veilbench")

Face = tuple[NDArray[np.float64], NDArray[np.float64]]  #: box (left, top, right, bottom) and points (5, 2), in pixels
_NUMBERS = 14  #: of a face
_DIGEST = 8  #: bytes
_WAIT_S = 60.0  #: for another process that writes


class Detections:
    """A file of detections by the photograph's pixels, so that other crops and other selections of a set share them.

    Processes may share the file. A damaged entry is not used. If the file cannot be used at all, faces are detected
    anew, with a warning.
    """

    def __init__(self, path: Path, detector: str) -> None:
        """`detector`: everything besides the pixels on which a detection depends."""
        self._path, self._detector = path, detector
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with self._open() as file, file:
                file.execute("CREATE TABLE IF NOT EXISTS faces (photograph BLOB PRIMARY KEY, face BLOB NOT NULL)")
            self._usable = True
        except (OSError, sqlite3.Error) as error:
            self._give_up(error)

    def face(self, image: Image.Image, detect: Callable[[], Face | None]) -> Face | None:
        """The face in a photograph, or None; calls `detect` if it is not known."""
        if not self._usable:
            return detect()
        content = hashlib.blake2b(f"{self._detector} {image.mode} {image.size} ".encode() + image.tobytes())
        photograph = content.digest()
        try:
            with self._open() as file:
                row = file.execute("SELECT face FROM faces WHERE photograph = ?", (photograph,)).fetchone()
            if row is not None and row[0][:_DIGEST] == _check(photograph, row[0][_DIGEST:]):
                return _unpacked(row[0][_DIGEST:])
            found = detect()
            packed = b"" if found is None else np.concatenate([part.ravel() for part in found]).astype("<f8").tobytes()
            with self._open() as file, file:
                entry = (photograph, _check(photograph, packed) + packed)
                file.execute("INSERT OR REPLACE INTO faces VALUES (?, ?)", entry)
        except sqlite3.Error as error:
            self._give_up(error)
            return detect()
        return found

    def _open(self) -> closing[sqlite3.Connection]:
        return closing(sqlite3.connect(self._path, timeout=_WAIT_S))

    def _give_up(self, error: Exception) -> None:
        self._usable = False
        log.warning("%s cannot be used (%s): faces are detected anew; delete it if this recurs", self._path, error)


def _check(photograph: bytes, packed: bytes) -> bytes:
    return hashlib.blake2b(photograph + packed, digest_size=_DIGEST).digest()


def _unpacked(packed: bytes) -> Face | None:
    if not packed:
        return None
    numbers = np.frombuffer(packed, dtype="<f8").astype(np.float64)
    if len(numbers) != _NUMBERS:
        return None
    return numbers[:4], numbers[4:].reshape(5, 2)
