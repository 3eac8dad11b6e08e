"""Mirrors artefacts at an fsspec URL (s3://, gs://, memory://, ...), for machines without a shared file system."""

from __future__ import annotations

import logging
from pathlib import Path, PurePosixPath
from typing import Any

from bench.errors import UserError

log = logging.getLogger("veilbench")

MANIFEST = "manifest.json"


class Mirror:
    """A copy of the store at a URL, `KIND/KEY/...`. The manifest is written last, so an artefact with one is complete.

    Its content is not trusted: the store checks every file against the manifest, and the manifest's own key.
    """

    def __init__(self, url: str) -> None:
        """Connects to the URL.

        Raises:
            UserError: fsspec or the protocol's package is missing, or the protocol is unknown.
        """
        try:
            from fsspec.core import url_to_fs
        except ImportError as error:
            raise UserError("run.mirror needs fsspec: pip install 'veilbench[cluster]'") from error
        try:
            self._files, self._root = url_to_fs(url)
        except (ImportError, ValueError) as error:
            raise UserError(f"run.mirror = {url!r}: {error}") from error
        self.url = url

    def _place(self, kind: str, key: str, name: str = "") -> str:
        return str(PurePosixPath(self._root, kind, key, name))

    def has(self, kind: str, key: str) -> bool:
        """Whether a complete artefact exists."""
        return bool(self._reached(self._files.exists, self._place(kind, key, MANIFEST)))

    def fetch(self, kind: str, key: str, folder: Path) -> None:
        """Copies an artefact's files into an empty folder."""
        origin = self._place(kind, key)
        for found in self._reached(self._files.find, origin):
            name = PurePosixPath(found).relative_to(PurePosixPath(origin))
            if ".." in name.parts or name.is_absolute():
                raise UserError(f"{self.url}: {found}: the name leads out of its folder")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            self._reached(self._files.get_file, found, str(target))

    def publish(self, kind: str, key: str, folder: Path) -> None:
        """Uploads a finished artefact, its manifest last."""
        paths = sorted((p for p in folder.rglob("*") if p.is_file()), key=lambda p: p.name == MANIFEST)
        for path in paths:
            target = self._place(kind, key, path.relative_to(folder).as_posix())
            self._reached(self._files.makedirs, str(PurePosixPath(target).parent), True)
            self._reached(self._files.put_file, str(path), target)

    def _reached(self, call: Any, *arguments: Any) -> Any:
        try:
            return call(*arguments)
        except Exception as error:  # each kind of file system has its own exceptions
            raise UserError(f"run.mirror = {self.url!r}: {type(error).__name__}: {error}") from error
