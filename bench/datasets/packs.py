"""Public faces from files that hold many: what every such format shares. Images are read by index, one at a time."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Protocol

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ALGORITHM, ImageSource, align, revision_of
from bench.datasets.copies import originals
from bench.datasets.decoding import conversions, decode
from bench.errors import DataError
from bench.toolkit.progress import track

LARGEST = 10_000_000  #: bytes an encoded image may have
DAMAGED = "damaged records, left out"
UNKNOWN = "images without an identity: the others' is ignored too"


@dataclass(frozen=True)
class Packed:
    """One image of a pack."""

    name: str  #: stable; PERSON/IMAGE where people are known
    person: str | None
    data: bytes = field(repr=False)  #: the encoded file


class Pack(Protocol):
    """An opened set of records."""

    notes: dict[str, list[str]]  #: what was left out while it was opened: why, and which

    def __len__(self) -> int:
        """How many records."""

    def read(self, index: int) -> Packed:
        """One of them.

        Raises:
            DataError: the record is damaged; says where it lies and why.
        """

    def where(self, index: int) -> str:
        """Where one lies, for messages."""


@dataclass(frozen=True)
class Scan:
    """Which records are faces that can be used, from looking at each once."""

    rows: tuple[int, ...] = field(repr=False)  #: in the pack
    names: tuple[str, ...] = field(repr=False)
    people: tuple[str, ...] | None = field(repr=False)
    digests: Mapping[str, bytes] = field(repr=False)  #: sha256 of each encoded image, by name
    sizes: Mapping[tuple[int, int], int]  #: how many have each (height, width)
    notes: Mapping[str, Sequence[str]] = field(repr=False)  #: what was left out, and what decoding does
    converted: Mapping[str, str] = field(repr=False)  #: how each was converted, by name


def scan(pack: Pack, limit: int | None, images_each: int | None) -> Scan:
    """Looks at records in their order until there are `limit` images; every image is decoded once.

    Args:
        images_each: at most so many of each person.
    """
    rows: list[int] = []
    names: list[str] = []
    people: list[str | None] = []
    digests: dict[str, bytes] = {}
    notes = {why: list(some) for why, some in pack.notes.items()}
    converted: dict[str, str] = {}
    sizes: Counter[tuple[int, int]] = Counter()
    each: Counter[str | None] = Counter()
    for index in track(range(len(pack)), "looking at records", len(pack)):
        if limit is not None and len(rows) >= limit:
            break
        try:
            found = pack.read(index)
            if images_each is not None and found.person is not None and each[found.person] >= images_each:
                continue
            image = decode(found.data, pack.where(index))
        except DataError as error:
            notes.setdefault(DAMAGED, []).append(str(error))
            continue
        name = found.name if found.name not in digests else f"{found.name}#{index}"
        rows.append(index)
        names.append(name)
        people.append(found.person)
        each[found.person] += 1
        digests[name] = hashlib.sha256(found.data).digest()
        sizes[image.height, image.width] += 1
        for how in conversions(found.data):
            converted[name] = converted.get(name, "") + how
            notes.setdefault(f"images {how}", []).append(name)
    nameless = [name for name, person in zip(names, people, strict=True) if person is None]
    if nameless and len(nameless) < len(names):
        notes[UNKNOWN] = nameless
    known = None if nameless else tuple(str(person) for person in people)
    return Scan(tuple(rows), tuple(names), known, digests, dict(sizes), notes, converted)


@dataclass(frozen=True, kw_only=True)
class _PackedFaces(Dataset):
    """Public faces only. Subclasses say how the file is opened."""

    path: str  #: the file, or the folder of files
    limit: int | None = None  #: at most so many images, the first; all are looked at each time, so large sets want one
    images_each: int | None = None  #: at most so many of each person: more people among `limit` images
    aligned: bool = True  #: the images are cut out as the recogniser wants them: only resize, or use as they are

    def __post_init__(self) -> None:
        if (self.limit or 1) < 1 or (self.images_each or 1) < 1:
            raise ValueError("limit and images_each must be at least 1")

    @abstractmethod
    def open(self) -> Pack:
        """The records.

        Raises:
            DataError: no such file, or one of another kind.
        """

    @abstractmethod
    def files(self) -> list[Path]:
        """All that is read.

        Raises:
            DataError: there is none.
        """

    def scanned(self) -> Scan:
        """What is in it; looked at once a process while the files stay as they are.

        Raises:
            DataError: nothing usable is.
        """
        stamps = tuple((str(path), path.stat().st_mtime_ns, path.stat().st_size) for path in self.files())
        found = _scanned(self, stamps)
        if not found.rows:
            said = "; ".join(f"{len(some)} {why} ({some[0]})" for why, some in found.notes.items())
            raise DataError(f"{self.path}: no image in it that can be used{f': {said}' if said else ''}")
        return found

    def _parts(self) -> list[tuple[str, bytes]]:
        found = self.scanned()
        people = found.people or ("",) * len(found.names)
        return [
            (f"{name}\0{person}", found.digests[name] + found.converted.get(name, "").encode())
            for name, person in zip(found.names, people, strict=True)
        ]

    def revision(self) -> str:
        """Over every used image's name, person and bytes, and how faces are cut out."""
        return revision_of([(revision_of(self._parts()), bytes([1 if self.aligned else ALGORITHM]))])

    def known_people(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the people, or the numbers that stand for them."""
        return frozenset(), frozenset(self.scanned().people or ())

    def size(self) -> tuple[int, int]:
        """All are public."""
        return 0, len(self.scanned().rows)

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Public faces only: there is no protocol here."""
        found, pack = self.scanned(), self.open()
        places = [pack.where(row) for row in found.rows]
        source = ImageSource(
            found.names, lambda i: decode(pack.read(found.rows[i]).data, places[i]), revision_of(self._parts()), places
        )
        pixels, seen = align(source, alignment, cache, aligned=self.aligned)
        behind = originals(source, found.digests, cache)
        every = FaceSet(pixels, np.arange(len(found.names)), found.names, found.people, seen, behind)
        none = np.zeros(0, dtype=np.int64)
        return Evaluation(every.subset(none), Pairs(none, none, none.astype(bool), none), every, found.notes)


PackedFaces = _PackedFaces  # under this name alone: a file's public keyword-only dataclass is taken for its plugin


@lru_cache(maxsize=8)
def _scanned(dataset: _PackedFaces, _: tuple[tuple[str, int, int], ...]) -> Scan:
    return scan(dataset.open(), dataset.limit, dataset.images_each)


def matching(path: Path, suffix: str, what: str) -> list[Path]:
    """The file itself, or those of a folder that end so, sorted.

    Raises:
        DataError: there are none.
    """
    if path.is_file():
        return [path]
    found = sorted(p for p in path.glob(f"*{suffix}") if p.is_file() and not p.name.startswith("."))
    if not found:
        raise DataError(f"{path}: no {what} there; set path to the file, or to the folder of {suffix} files")
    return found
