"""File helpers: atomic writing, hashing, locking, and locating files of the package."""

from __future__ import annotations

import codecs
import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from bench.errors import DataError, UserError

_MARKS = ((codecs.BOM_UTF32_LE, "UTF-32"), (codecs.BOM_UTF32_BE, "UTF-32"), (codecs.BOM_UTF16_LE, "UTF-16"),
          (codecs.BOM_UTF16_BE, "UTF-16"))  # fmt: skip

ROOT = Path(__file__).resolve().parent.parent.parent  #: the folder with the packages `bench`, `defenses` and `attacks`


def shipped(place: str, installed: str) -> Path:
    """A file or folder that is part of the project: in its root, or where an installed copy has it.

    Args:
        place: the path from the project's root.
        installed: the path below `share/veilbench` of the environment.
    """
    beside = ROOT / place
    return beside if beside.exists() else Path(sys.prefix) / "share" / "veilbench" / installed


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Yields a temporary sibling to write; it replaces `path` if the block succeeds, and is deleted otherwise."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=".part")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        temporary.chmod(0o644)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read_text(path: Path) -> str:
    """Reads a user's text file: UTF-8, with or without a byte order mark, and any line endings.

    Raises:
        DataError: it cannot be read or has another encoding; says which, and what to do.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    marked = next((name for mark, name in _MARKS if data.startswith(mark)), "")
    if not marked and b"\0" in data[:1000]:
        marked = "UTF-16 or not text"
    if marked:
        raise DataError(f"{path}: encoded as {marked}; save it as UTF-8")
    try:
        return data.decode("utf-8-sig").replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8 (byte 0x{data[error.start]:02x}); save the file as UTF-8") from error


@contextlib.contextmanager
def locked(path: Path, setting: str, timeout: float = -1) -> Iterator[None]:
    """Holds a lock file, for processes on one machine or one network drive.

    Args:
        setting: the setting that names the folder, for the message.
        timeout: seconds to wait; -1: no limit.

    Raises:
        UserError: the drive does not support locks; names the folder and the setting.
        filelock.Timeout: another process still holds it.
    """
    lock = FileLock(path)
    try:
        lock.acquire(timeout)
    except Timeout:
        raise
    except (OSError, NotImplementedError) as error:
        told = getattr(error, "strerror", None) or error
        raise UserError(
            f"{path.parent}: files cannot be locked here ({told}), as on network drives without a lock service; "
            f"set {setting} to a folder on a local disk"
        ) from error
    try:
        yield
    finally:
        lock.release()


_NAME_LIMIT = 160  #: characters of a name's readable part; the whole name stays within the limits of all file systems


@lru_cache(maxsize=32768)  # a cell is asked for its name many times
def file_name(*parts: str, divider: str = "--") -> str:
    """Makes a file name from some texts: readable, of bounded length, and unique to these texts.

    A hash of the texts is added if characters were replaced or left out, or if the name could be confused with
    another's on a file system that ignores case.
    """
    given = [part for part in parts if part]
    text = divider.join(given)
    readable = "".join(c if c.isascii() and (c.isalnum() or c in "-_.=[],@~") else "_" for c in text)
    ambiguous = any("--" in part or part.startswith("-") or part.endswith("-") for part in given)
    if readable == text and text == text.lower() and len(text) <= _NAME_LIMIT and not ambiguous:
        return text
    digest = hashlib.sha256("\0".join(parts).encode("utf-8", "surrogatepass")).hexdigest()[:12]
    return f"{readable[:_NAME_LIMIT]}-{digest}"


def file_hash(path: Path) -> str:
    """sha256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
