"""Artefacts on disk: content-addressed folders, written aside and renamed, verified when first read."""

from __future__ import annotations

import hashlib
import json
import logging
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file

from bench.contracts import State, UserError
from bench.mirror import MANIFEST, Mirror

log = logging.getLogger("veilbench")

_LOCKS = "locks"


def content_key(**parts: Any) -> str:
    """sha256 over named JSON-able parts (dataclasses included), independent of their order."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"{type(value).__name__} cannot be part of a key")

    text = json.dumps(parts, sort_keys=True, default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def file_hash(path: Path) -> str:
    """sha256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class Store:
    """A folder of artefacts, `KIND/KEY/`, each with a manifest of its files' hashes. Safe against two runs at once."""

    def __init__(self, root: Path, mirror: str = "") -> None:
        """Where artefacts lie.

        Args:
            mirror: an fsspec URL that they are copied to, and taken from where they are not here yet.

        Raises:
            UserError: the folder cannot be written to, or the URL is none.
        """
        self.root = root
        self._mirror = Mirror(mirror) if mirror else None
        self._verified: set[Path] = set()
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise UserError(f"{root}: cannot write here ({error.strerror}); choose another place: run.store") from error

    def folder(self, kind: str, key: str) -> Path:
        """Where an artefact lies, or would."""
        return self.root / kind / key

    def get(self, kind: str, key: str) -> Path | None:
        """The artefact's folder if it is there and whole, or in the mirror; a damaged one is removed, with a word."""
        ready = self._local(kind, key)
        if ready is None and self._mirror is not None:
            with self._locked(kind, key):
                return self._local(kind, key) or self._mirrored(kind, key)
        return ready

    def _local(self, kind: str, key: str) -> Path | None:
        folder = self.folder(kind, key)
        if folder in self._verified:
            return folder
        try:
            manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
            files: dict[str, str] = manifest["files"]
            if manifest["key"] != key:
                raise ValueError("another artefact's manifest")
            damaged = [name for name, digest in files.items() if file_hash(folder / name) != digest]
        except FileNotFoundError:
            if not folder.exists():
                return None
            damaged = ["a file is missing"]
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            damaged = [str(error)]
        if damaged:
            log.warning("%s: damaged (%s); making it again", folder, ", ".join(damaged))
            shutil.rmtree(folder, ignore_errors=True)
            return None
        self._verified.add(folder)
        return folder

    def make(self, kind: str, key: str, write: Callable[[Path], None]) -> Path:
        """The artefact's folder; `write(folder)` fills a new one where it isn't there yet.

        Another process making the same one is waited for, and what it made is used.
        """
        with self._locked(kind, key):
            if (ready := self._local(kind, key) or self._mirrored(kind, key)) is not None:
                return ready
            folder = self.folder(kind, key)
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
            try:
                write(aside)
                files = {str(p.relative_to(aside)): file_hash(p) for p in sorted(aside.rglob("*")) if p.is_file()}
                (aside / MANIFEST).write_text(json.dumps({"kind": kind, "key": key, "files": files}, indent=1))
                aside.chmod(0o755)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            self._verified.add(folder)
            if self._mirror is not None:
                self._mirror.publish(kind, key, folder)
            return folder

    def _mirrored(self, kind: str, key: str) -> Path | None:
        """The artefact's folder, copied from the mirror; None where it isn't there, or came damaged."""
        if self._mirror is None or not self._mirror.has(kind, key):
            return None
        folder = self.folder(kind, key)
        aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
        try:
            self._mirror.fetch(kind, key, aside)
            aside.chmod(0o755)
            aside.rename(folder)
        finally:
            shutil.rmtree(aside, ignore_errors=True)
        return self._local(kind, key)

    @contextmanager
    def _locked(self, kind: str, key: str) -> Iterator[None]:
        locks = self.root / _LOCKS
        for place in (locks, self.root / kind):
            place.mkdir(parents=True, exist_ok=True)
        with FileLock(locks / f"{key}.lock"):
            yield

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """While the block runs, `clean` keeps its hands off: a run's records come after its artefacts."""
        locks = self.root / _LOCKS
        locks.mkdir(exist_ok=True)
        path = locks / f"run-{uuid.uuid4().hex}.lock"
        try:
            with FileLock(path):
                yield
        finally:
            path.unlink(missing_ok=True)

    def clean(self, keep: set[str], dry_run: bool = False) -> tuple[int, int]:
        """Removes artefacts whose key is not in `keep`, and what killed runs left. Returns (how many, bytes).

        Raises:
            UserError: a run is using the store.
        """
        for path in (self.root / _LOCKS).glob("run-*.lock"):
            try:
                with FileLock(path, timeout=0):
                    pass
            except Timeout as error:
                raise UserError(f"{self.root}: a run is using this store; wait for it or stop it first") from error
            path.unlink(missing_ok=True)
        count = size = 0
        for folder in sorted(self.root.glob("*/*")):
            if not folder.is_dir() or folder.name in keep or folder.parent.name == _LOCKS:
                continue
            count += 1
            size += sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
            if not dry_run:
                shutil.rmtree(folder)
                self._verified.discard(folder)
        return count, size


def write_state(folder: Path, state: State | None) -> None:
    """A fitted state as safetensors and JSON; None as an empty account."""
    if state is not None and state.tensors:
        save_file({name: value.contiguous() for name, value in state.tensors.items()}, folder / "state.safetensors")
    info = None if state is None else dict(state.info)
    (folder / "info.json").write_text(json.dumps(info, indent=1, allow_nan=False), encoding="utf-8")


def read_state(folder: Path) -> State | None:
    """What `write_state` wrote."""
    info = json.loads((folder / "info.json").read_text(encoding="utf-8"))
    if info is None:
        return None
    path = folder / "state.safetensors"
    return State(load_file(path) if path.exists() else {}, info)


def write_arrays(folder: Path, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Arrays as one `.npy` each."""
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array, allow_pickle=False)


class Rows:
    """An array on disk of which only the rows in use are in memory.

    Every access maps the file anew and copies: what one long-lived mapping has touched would stay in memory.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    @classmethod
    def create(cls, path: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Rows:
        """A new file, filled with zeros."""
        np.lib.format.open_memmap(path, mode="w+", dtype=dtype, shape=shape)  # type: ignore[no-untyped-call]
        return cls(path)

    def _mapped(self, mode: Literal["r", "r+"]) -> NDArray[Any]:
        array: NDArray[Any] = np.load(self._path, mmap_mode=mode, allow_pickle=False)
        return array

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the whole array."""
        return self._mapped("r").shape

    @property
    def row_bytes(self) -> int:
        """Of one row."""
        whole = self._mapped("r")
        return whole.nbytes // max(1, len(whole))

    def __getitem__(self, rows: Any) -> NDArray[Any]:
        return np.array(self._mapped("r")[rows])

    def __setitem__(self, rows: Any, values: NDArray[Any]) -> None:
        self._mapped("r+")[rows] = values


def read_array(folder: Path, name: str) -> NDArray[Any]:
    """An array, memory-mapped."""
    array: NDArray[Any] = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return array
