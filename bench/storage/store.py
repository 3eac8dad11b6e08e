"""Stores artefacts in content-addressed folders, written atomically and verified when first read."""

from __future__ import annotations

import json
import logging
import shutil
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from filelock import Timeout

from bench.errors import UserError
from bench.storage.files import file_hash, locked
from bench.storage.mirror import MANIFEST, Mirror

log = logging.getLogger("veilbench")

_LOCKS = "locks"


class Store:
    """A folder of artefacts, `KIND/KEY/`, each with a manifest of its files' hashes. Safe for concurrent runs."""

    def __init__(self, root: Path, mirror: str = "") -> None:
        """Opens or creates the store.

        Args:
            mirror: an fsspec URL to which artefacts are copied, and from which missing ones are fetched.

        Raises:
            UserError: the folder is not writable, or the URL is invalid.
        """
        self.root = root
        self._mirror = Mirror(mirror) if mirror else None
        self._verified: set[Path] = set()
        self._own_lock: Path | None = None
        try:
            root.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=root):
                pass
        except OSError as error:
            raise UserError(
                f"{root}: cannot write here ({error.strerror}); choose another folder with run.store"
            ) from error

    def folder(self, kind: str, key: str) -> Path:
        """The path of an artefact, existing or not."""
        return self.root / kind / key

    def get(self, kind: str, key: str) -> Path | None:
        """The artefact's folder if it is intact, here or in the mirror; a damaged one is removed with a warning."""
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
            log.warning("%s: damaged (%s); computing it again", folder, ", ".join(damaged))
            shutil.rmtree(folder, ignore_errors=True)
            return None
        self._verified.add(folder)
        return folder

    def make(self, kind: str, key: str, write: Callable[[Path], None]) -> Path:
        """The artefact's folder; `write(folder)` fills a new one if it does not exist.

        If another process is making the same artefact, waits for it and uses the result.
        """
        with self._locked(kind, key):
            if (ready := self._local(kind, key) or self._mirrored(kind, key)) is not None:
                return ready
            folder = self.folder(kind, key)
            aside = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".part-"))
            try:
                clocks = time.perf_counter(), time.process_time()
                write(aside)
                took = {
                    "wall_s": round(time.perf_counter() - clocks[0], 3),
                    "processor_s": round(time.process_time() - clocks[1], 3),
                }
                files = {str(p.relative_to(aside)): file_hash(p) for p in sorted(aside.rglob("*")) if p.is_file()}
                (aside / MANIFEST).write_text(
                    json.dumps({"kind": kind, "key": key, "files": files, "took": took}, indent=1)
                )
                aside.chmod(0o755)
                aside.rename(folder)
            finally:
                shutil.rmtree(aside, ignore_errors=True)
            self._verified.add(folder)
            if self._mirror is not None:
                self._mirror.publish(kind, key, folder)
            return folder

    def took(self, kind: str, key: str) -> Mapping[str, float] | None:
        """`wall_s` and `processor_s` of the process that made an artefact; None if it is missing or nobody noted it."""
        try:
            noted = json.loads((self.folder(kind, key) / MANIFEST).read_text(encoding="utf-8"))["took"]
            return {name: float(noted[name]) for name in ("wall_s", "processor_s")}
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def _mirrored(self, kind: str, key: str) -> Path | None:
        """The artefact's folder, copied from the mirror; None if the mirror does not have it, or it arrives damaged."""
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
        with locked(locks / f"{key}.lock", "run.store"):
            yield

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Within the block, `clean` removes nothing, because a run writes its records after its artefacts."""
        locks = self.root / _LOCKS
        locks.mkdir(exist_ok=True)
        path = self._own_lock = locks / f"run-{uuid.uuid4().hex}.lock"
        try:
            with locked(path, "run.store"):
                yield
        finally:
            path.unlink(missing_ok=True)
            self._own_lock = None

    def used_alone(self) -> bool:
        """Whether no other run uses the store; removes the locks of killed ones."""
        for path in (self.root / _LOCKS).glob("run-*.lock"):
            if path != self._own_lock:
                try:
                    with locked(path, "run.store", timeout=0):
                        pass
                except Timeout:
                    return False
                path.unlink(missing_ok=True)
        return True

    def free(self, kind: str, key: str) -> None:
        """Removes an artefact from this store; a mirror keeps its copy."""
        folder = self.folder(kind, key)
        with self._locked(kind, key):
            self._verified.discard(folder)
            aside = folder.with_name(f".part-{uuid.uuid4().hex}")  # a kill from now on leaves no half of an artefact
            folder.rename(aside)
            shutil.rmtree(aside)

    def clean(self, keep: set[str], dry_run: bool = False) -> tuple[int, int]:
        """Removes artefacts whose key is not in `keep`, and leftovers of killed runs. Returns (number, bytes).

        Raises:
            UserError: a run is using the store.
        """
        if not self.used_alone():
            raise UserError(f"{self.root}: a run is using this store; wait for it or stop it first")
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
