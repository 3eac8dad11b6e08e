"""Reads the training sets of insightface: MXNet's RecordIO (`train.rec`) with its offsets (`train.idx`)."""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from pathlib import Path

from bench.datasets.packs import LARGEST, Packed, PackedFaces
from bench.errors import DataError

_MAGIC = 0xCED7230A
_LENGTH = (1 << 29) - 1  #: of a word: the upper three bits say whether a record goes on in the next part
_HEADER = struct.Struct("<IfQQ")  #: how many labels follow (0: the next value is the label), label, id, second id


class _Damaged(Exception):
    """What is wrong with a record."""


class Records:
    """The images of a `.rec` file, by index. Written after the format's description; mxnet is not needed."""

    def __init__(self, path: Path) -> None:
        self.notes: dict[str, list[str]] = {}
        self._path, self._size = path, path.stat().st_size
        self._file = path.open("rb")
        index = path.with_suffix(".idx")
        self._offsets = self._listed(index) if index.is_file() else self._walked()
        self._keys = sorted(self._offsets)
        first = self._first()
        if first is not None:
            self._keys = [key for key in self._keys if 0 < key < first]

    def __len__(self) -> int:
        return len(self._keys)

    def where(self, index: int) -> str:
        return f"{self._path}: record {self._keys[index]}"

    def read(self, index: int) -> Packed:
        key = self._keys[index]
        try:
            labels, data = self._record(self._offsets[key])
            if not labels or not math.isfinite(labels[0]) or labels[0] < 0:
                raise _Damaged("its label is no person's number")
            person = f"{int(labels[0]):07d}"
        except _Damaged as error:
            raise DataError(f"{self.where(index)}: damaged ({error})") from error
        # As insightface's own scripts unpack it, but in an order that sorting keeps.
        return Packed(f"{person}/{key:08d}.jpg", person, data)

    def _first(self) -> int | None:
        """Record 0 of insightface's sets holds no image, but where the images end and the people begin."""
        if 0 not in self._offsets:
            return None
        try:
            labels, data = self._record(self._offsets[0])
        except _Damaged:
            return None
        return int(labels[0]) if len(labels) > 1 and not data and math.isfinite(labels[0]) else None

    def _listed(self, index: Path) -> dict[int, int]:
        found: dict[int, int] = {}
        with index.open("rb") as lines:
            for number, line in enumerate(lines, 1):
                try:
                    key, offset = (int(word) for word in line.split())
                    if not 0 <= offset < self._size:
                        raise ValueError
                except ValueError as error:
                    raise DataError(
                        f"{index}:{number}: not a record's number and its place in {self._path.name} "
                        f"({self._size:,} bytes); is it of another file? Without it, records are looked for"
                    ) from error
                found[key] = offset
        return found

    def _walked(self) -> dict[int, int]:
        """Every record's place, from one to the next; what lies behind a damaged one is out of reach."""
        found: dict[int, int] = {}
        place = 0
        while place < self._size:
            start, more = place, True
            while more:
                try:
                    flag, length = self._part(place)
                except _Damaged as error:
                    if not found:
                        raise DataError(f"{self._path}: no RecordIO file ({error})") from error
                    self.notes["bytes behind a damaged record, out of reach without the .idx file"] = [
                        f"{self._path}: from byte {place} on"
                    ]
                    return found
                place += 8 + (length + 3) // 4 * 4
                more = flag in (1, 2)
            found[len(found)] = start
        return found

    def _part(self, place: int) -> tuple[int, int]:
        """(flag, length) of the part that begins there."""
        self._file.seek(place)
        head = self._file.read(8)
        if len(head) < 8:
            raise _Damaged("the file ends within it")
        magic, word = struct.unpack("<II", head)
        if magic != _MAGIC:
            raise _Damaged("it does not begin as a record does")
        if place + 8 + (word & _LENGTH) > self._size:
            raise _Damaged("the file ends within it")
        return word >> 29, word & _LENGTH

    def _record(self, place: int) -> tuple[tuple[float, ...], bytes]:
        """Labels, and the encoded image."""
        parts: list[bytes] = []
        while True:
            flag, length = self._part(place)
            if sum(map(len, parts)) + length > LARGEST:
                raise _Damaged(f"more than {LARGEST:,} bytes")
            if (flag in (0, 1)) != (not parts):
                raise _Damaged("its parts do not follow each other")
            parts.append(self._file.read(length))
            place += 8 + (length + 3) // 4 * 4
            if flag in (0, 3):
                break
        # Where the image itself holds the four bytes that begin a record, it was taken apart there.
        whole = struct.pack("<I", _MAGIC).join(parts)
        if len(whole) < _HEADER.size:
            raise _Damaged("shorter than a header")
        count, label, _, _ = _HEADER.unpack_from(whole)
        end = _HEADER.size + 4 * count
        if end > len(whole):
            raise _Damaged("it promises more labels than it holds")
        labels = struct.unpack_from(f"<{count}f", whole, _HEADER.size) if count else (label,)
        return labels, whole[end:]


@dataclass(frozen=True, kw_only=True)
class RecordIo(PackedFaces):
    """Public faces from insightface's `train.rec` and `train.idx`, aligned at 112 x 112.

    Without the `.idx` file the records are looked for in the `.rec`. Damaged ones are left out and named.
    """

    def files(self) -> list[Path]:
        """The `.rec`, and the `.idx` where there is one."""
        path = Path(self.path).expanduser()
        if path.is_dir():
            path = path / "train.rec"
        if not path.is_file():
            raise DataError(f"{path}: no such RecordIO file; set path to the .rec, or to the folder of train.rec")
        index = path.with_suffix(".idx")
        return [path, index] if index.is_file() else [path]

    def open(self) -> Records:
        """The records."""
        return Records(self.files()[0])
