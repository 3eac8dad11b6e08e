"""The only module that decides which files below a folder are photographs; it records which files it left out."""

from __future__ import annotations

import hashlib
import os
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.datasets.decoding import conversions, read_bytes, suffixes
from bench.errors import DataError

#: System folders among a user's files that hold thumbnails or copies.
_SYSTEM = {"__MACOSX", "@eaDir", "#recycle", "$RECYCLE.BIN", "System Volume Information", "lost+found", "__pycache__"}

HIDDEN = "hidden or system files and folders, left out"
BROKEN = "broken links, left out"
SPECIAL = "pipes, sockets and devices, left out"
LINKED = "links to folders, followed"
AGAIN = "links to folders that were already read, left out"
LINKED_FILES = "links to files, followed"
AGAIN_FILES = "links to files that were already read, left out"
ELSEWHERE = "images outside the people's folders, left out"
DEEPER = "folders inside the people's folders, left out"


def normal(name: str) -> str:
    """Normalises a name to Unicode NFC: macOS writes `é` as two characters, lists of pairs as one."""
    return unicodedata.normalize("NFC", name)


@dataclass(frozen=True)
class Photographs:
    """The photographs below a folder."""

    root: Path
    files: Mapping[str, Path] = field(repr=False)  #: by path below `root`, in NFC; sorted
    notes: Mapping[str, Sequence[str]] = field(repr=False)  #: what was left out or unusual: the reason, and the paths

    def instead(self) -> str:
        """Describes the files that are not photographs, for an error message; empty if there are none."""
        found = [
            f"{len(names)} {why.partition(',')[0]} ({names[0]})"
            for why, names in self.notes.items()
            if why not in (LINKED, LINKED_FILES)
        ]
        return f"; it contains {', '.join(found)}" if found else ""


def find_photographs(root: Path, depth: int | None = None) -> Photographs:
    """Finds every photograph below a folder; follows links, and counts what they lead to once.

    Ignores hidden files and system folders; otherwise the suffix decides, in any case. Counts what it leaves out.

    Args:
        depth: the level at which photographs lie (2: PERSON/IMAGE); None: any level.

    Raises:
        DataError: a folder cannot be read, or two file names differ only in their Unicode form.
    """
    walk = _Walk(depth)
    walk.folder(root, ())
    while walk.links:
        links, walk.links = walk.links, []
        for path, parts in sorted(links):
            walk.folder(path, parts, linked=True)
    walk.follow_files()
    names = sorted(walk.files, key=lambda name: name.split("/"))
    return Photographs(root, {name: walk.files[name] for name in names}, dict(sorted(walk.notes.items())))


class _Walk:
    def __init__(self, depth: int | None) -> None:
        self.depth = depth
        self.files: dict[str, Path] = {}
        self.notes: dict[str, list[str]] = {}
        self.links: list[tuple[Path, tuple[str, ...]]] = []  #: linked folders, visited after the real ones
        self._seen: set[Path] = set()
        self._linked_files: list[tuple[Path, tuple[str, ...]]] = []
        self._photographs: set[Path] = set()  #: where those that count lie, links resolved

    def folder(self, path: Path, parts: tuple[str, ...], linked: bool = False) -> None:
        real = path.resolve()
        if real in self._seen:
            if linked:
                self._note(AGAIN, parts)
            return
        self._seen.add(real)
        if linked:
            self._note(LINKED, parts)
        try:
            entries = sorted(os.scandir(path), key=lambda entry: normal(entry.name))
        except OSError as error:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from error
        for entry in entries:
            self._entry(entry, real, (*parts, normal(entry.name)))

    def follow_files(self) -> None:
        """Takes what linked files lead to, once: a second name makes no second photograph."""
        for path, parts in sorted(self._linked_files):
            real = path.resolve()
            self._note(AGAIN_FILES if real in self._photographs else LINKED_FILES, parts)
            if real not in self._photographs:
                self._take(path, real, parts)

    def _entry(self, entry: os.DirEntry[str], folder: Path, parts: tuple[str, ...]) -> None:
        path = Path(entry.path)
        if entry.name.startswith(".") or entry.name in _SYSTEM:
            self._note(HIDDEN, parts)
        elif entry.is_symlink() and not path.exists():  # or leads to itself: is_dir() would raise
            self._note(BROKEN, parts)
        elif entry.is_dir():
            if self.depth is not None and len(parts) >= self.depth:
                self._note(DEEPER, parts)
            elif entry.is_symlink():
                self.links.append((path, parts))
            else:
                self.folder(path, parts)
        elif not entry.is_file():  # reading one could wait for ever
            self._note(SPECIAL, parts)
        elif path.suffix.lower() not in suffixes():
            self._note(f"{path.suffix.lower() or 'suffixless'} files, left out", parts)
        elif self.depth is not None and len(parts) != self.depth:
            self._note(ELSEWHERE, parts)
        elif entry.is_symlink():
            self._linked_files.append((path, parts))
        else:
            self._take(path, folder / entry.name, parts)

    def _take(self, path: Path, real: Path, parts: tuple[str, ...]) -> None:
        name = "/".join(parts)
        if name in self.files:
            raise DataError(
                f"{path}: has the same name as {self.files[name].name!r} beside it, in another Unicode form"
            )
        self.files[name] = path
        self._photographs.add(real)

    def _note(self, why: str, parts: tuple[str, ...]) -> None:
        self.notes.setdefault(why, []).append("/".join(parts))


@dataclass(frozen=True)
class Examined:
    """What is known about the files before any is decoded."""

    digests: Mapping[str, bytes] = field(repr=False)  #: sha256 of each file, by name
    converted: Mapping[str, Sequence[str]] = field(
        repr=False
    )  #: the conversions that `decode` applies, and the files that they affect

    def parts(self) -> list[tuple[str, bytes]]:
        """Parts of a revision: a converted file counts as changed if the conversion was not applied before."""
        told: dict[str, str] = {}
        for how, names in self.converted.items():
            for name in names:
                told[name] = told.get(name, "") + how
        return [(name, digest + told.get(name, "").encode()) for name, digest in self.digests.items()]


def examine(files: Mapping[str, Path | bytes]) -> Examined:
    """Hashes every file and reads its header for conversions.

    Raises:
        DataError: a file cannot be read.
    """
    digests: dict[str, bytes] = {}
    converted: dict[str, list[str]] = {}
    for name, file in files.items():
        data = file if isinstance(file, bytes) else read_bytes(file)
        digests[name] = hashlib.sha256(data).digest()
        for how in conversions(data):
            converted.setdefault(f"images {how}", []).append(name)
    return Examined(digests, converted)
