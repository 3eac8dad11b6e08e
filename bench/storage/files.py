"""Files: written aside and renamed, hashed, and found where the package put them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent.parent  #: where the packages `bench`, `defenses` and `attacks` lie


def shipped(place: str, installed: str) -> Path:
    """A file or folder that comes with the project: at its root, or where an installed copy keeps it.

    Args:
        place: the path from the project's root.
        installed: the path below `share/veilbench` of the environment.
    """
    beside = ROOT / place
    return beside if beside.exists() else Path(sys.prefix) / "share" / "veilbench" / installed


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary sibling to write; it takes `path`'s place when the block ends well, and is removed otherwise."""
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


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
