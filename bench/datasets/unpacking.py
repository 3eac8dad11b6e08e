"""Unpacks the archives of data sets, without trusting them."""

from __future__ import annotations

import tarfile
import tempfile
from pathlib import Path

from bench.errors import DataError


def _inside(tar: tarfile.TarFile, folder: Path) -> list[tarfile.TarInfo]:
    """The members; raises TarError if one is no file or folder inside `folder`."""
    for member in (members := tar.getmembers()):
        inside = (folder / member.name).resolve().is_relative_to(folder.resolve())
        if not inside or not (member.isfile() or member.isdir()):
            raise tarfile.TarError(f"{member.name} is no file or folder inside the archive")
    return members


def unpack(archive: Path, target: Path) -> None:
    """Unpacks the archive's one folder as `target`, completely or not at all.

    Raises:
        DataError: it is no archive, has more than one folder, or something that would be written elsewhere.
    """
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".unpack-") as temporary:
        try:
            with tarfile.open(archive) as tar:
                if hasattr(tarfile, "data_filter"):
                    tar.extractall(temporary, filter="data")  # rejects members that would be written elsewhere
                else:  # Python 3.11.0 to 3.11.3
                    tar.extractall(temporary, members=_inside(tar, Path(temporary)))
        except (tarfile.TarError, OSError, EOFError) as error:
            raise DataError(f"{archive}: not a readable archive ({error})") from error
        inside = list(Path(temporary).iterdir())
        if len(inside) != 1 or not inside[0].is_dir():
            raise DataError(f"{archive}: expected one folder in it, found {len(inside)} entries")
        inside[0].rename(target)
