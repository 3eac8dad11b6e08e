"""Exports a run as a small archive for a public leaderboard (records and scores, no faces), and verifies archives.

An archive has `manifest.json`, `records/*.json` and `*.parquet`, `settings.json` (what the run was told), and, if the
submitter adds them, the sources of own plugins in `plugins/*.py`. Nothing here executes these.
"""

from __future__ import annotations

import hashlib
import json
import math
import tempfile
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path, PurePosixPath

import pandas as pd

from bench import __version__
from bench.errors import DataError, UserError
from bench.metrics.catalogue import PSNR_CAP_DB
from bench.storage.command import FILE as SETTINGS
from bench.storage.command import read_command
from bench.storage.files import replacing
from bench.storage.records import SCHEMA, Record, Run

PLUGINS = "plugins"  #: the folder of own plugins' sources in an archive
_MANIFEST = "manifest.json"
_FORMAT = 1
_LARGEST = 200_000_000  #: maximum unpacked size of a member, in bytes
_MEMBERS = 50_000
_EPOCH = (2000, 1, 1, 0, 0, 0)  #: timestamp of every member, so that the same run gives the same bytes
_CLOSE = 1e-6


def export(run: Run, output: Path, plugins: Sequence[Path] = ()) -> Path:
    """Writes the archive: records, per-image scores, settings, and a manifest with hashes; no images of faces.

    Args:
        plugins: files of own defences and attacks, so that others can repeat the run.

    Raises:
        DataError: there are no records, or damaged ones.
        UserError: a record has no scores, or a plugin is not a file of Python.
    """
    members = {f"{PLUGINS}/{path.name}": _source(path) for path in plugins}
    if (told := run.folder / SETTINGS).exists():
        members[SETTINGS] = told.read_bytes()
    for record in run.records():
        for suffix in (".json", ".parquet"):
            path = run.path(record.cell, suffix)
            if path.exists():
                members[f"records/{path.name}"] = path.read_bytes()
            elif record.status == "ok":
                raise UserError(f"{path}: missing beside its record; run the cell again")
    hashes = {name: hashlib.sha256(data).hexdigest() for name, data in sorted(members.items())}
    manifest = {"format": _FORMAT, "schema": SCHEMA, "veilbench": __version__, "files": hashes}
    with replacing(output) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in ((_MANIFEST, json.dumps(manifest, indent=1).encode()), *sorted(members.items())):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
            archive.writestr(info, data)
    return output


def _source(path: Path) -> bytes:
    if path.suffix != ".py" or not path.is_file():
        raise UserError(f"--plugin {path}: not a file of Python; name the .py file of the defence or attack")
    return path.read_bytes()


@contextmanager
def unpacked(path: Path) -> Iterator[Run]:
    """The run in an archive or folder; an archive's content is checked before anything is written.

    Raises:
        DataError: it is not an archive of a run, or was changed after it was made.
    """
    if not path.is_file():
        yield Run(path)
        return
    with tempfile.TemporaryDirectory() as folder:
        for name, data in _members(path).items():
            place = Path(folder) / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
        yield Run(Path(folder))


def _members(path: Path) -> dict[str, bytes]:
    """The members by name. All must be in the manifest with their hash, under a name that `export` writes."""
    try:
        with zipfile.ZipFile(path) as archive:
            infos = archive.infolist()
            if len(infos) > _MEMBERS or any(info.file_size > _LARGEST for info in infos):
                raise DataError(f"{path}: has too many or too large members to be a run's archive")
            found = {info.filename: archive.read(info) for info in infos}
    except (OSError, zipfile.BadZipFile, EOFError, RuntimeError, NotImplementedError) as error:
        raise DataError(f"{path}: not a readable archive ({error}); make one: veilbench export RUN") from error
    try:
        manifest = json.loads(found.pop(_MANIFEST))
        hashes = dict(manifest["files"])
        version = (manifest["format"], manifest["schema"])
    except (KeyError, ValueError, TypeError) as error:
        raise DataError(f"{path}: no readable {_MANIFEST} ({error!r})") from error
    if version != (_FORMAT, SCHEMA):
        raise DataError(f"{path}: format and schema {version}; this version reads {(_FORMAT, SCHEMA)}")
    if set(hashes) != set(found):
        odd = sorted(set(hashes) ^ set(found))[0]
        raise DataError(f"{path}: {odd!r} is in the archive or in its manifest, but not in both")
    for name, data in found.items():
        if not _belongs(PurePosixPath(name)):
            raise DataError(f"{path}: {name!r} does not belong in a run's archive")
        if hashlib.sha256(data).hexdigest() != hashes[name]:
            raise DataError(f"{path}: {name!r} differs from its manifest; it was changed or damaged")
    return found


def _belongs(name: PurePosixPath) -> bool:
    """Whether a member's name is one that `export` writes."""
    if str(name) == SETTINGS:
        return True
    suffixes = {"records": (".json", ".parquet"), PLUGINS: (".py",)}.get(name.parts[0], ())
    return len(name.parts) == 2 and name.suffix in suffixes and not name.name.startswith(".")


def verify(path: Path) -> list[str]:
    """The problems of an archive or a run's folder; empty if its figures are consistent with its scores.

    Raises:
        DataError: it cannot be read, or was changed after it was made.
    """
    with unpacked(path) as run:
        read_command(run.folder)
        return [problem for record in run.records() for problem in _problems(run, record)]


def _problems(run: Run, record: Record) -> Iterator[str]:
    """Figures that do not follow from the scores, or that contradict each other."""
    name = record.cell.name
    for metric, figure in record.metrics.items():
        if figure.value is None:
            continue
        if not math.isfinite(figure.value):
            yield f"{name}: {metric} is not finite"
        if figure.low is not None and figure.high is not None and figure.low > figure.high:
            yield f"{name}: {metric}: the interval's limits are in the wrong order"
    if record.status != "ok":
        return
    try:
        scores = run.scores(record.cell)
    except DataError as error:
        yield f"{name}: {error}"
        return
    yield from _unborne(name, record, scores)
    mse, psnr = (record.metrics[m].value if m in record.metrics else None for m in ("mse", "psnr_db"))
    if mse and psnr is not None and psnr < min(-10 * math.log10(mse), PSNR_CAP_DB) - _CLOSE:
        yield f"{name}: mean PSNR is below that of the mean error, which is impossible"


def _unborne(name: str, record: Record, scores: pd.DataFrame) -> Iterator[str]:
    for metric, figure in record.metrics.items():
        if metric not in scores or figure.value is None:
            continue
        mean = float(scores[metric].astype("float64").mean())
        if not abs(mean - figure.value) <= _CLOSE:
            yield f"{name}: {metric} is {figure.value:.6f}, but its scores' mean is {mean:.6f}"
        if figure.n != len(scores):
            yield f"{name}: {metric} is of {figure.n} scores, but there are {len(scores)}"
