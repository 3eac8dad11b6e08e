"""The output of a run: one JSON record per cell, per-image scores in parquet and a few sample images."""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.errors import DataError, UserError
from bench.labels import is_harness
from bench.storage.files import file_name, replacing

SCHEMA = 1  #: version of the record's schema

Kind = Literal[
    "utility", "reconstruction", "replay", "linkage", "traits", "protection", "crossmatch", "inversion", "picture"
]  # the last four are of keyed defences
Status = Literal["ok", "skipped", "error"]


@dataclass(frozen=True)
class Measure:
    """A figure with its 95 % interval (over identities) and the number of images or pairs behind it.

    `value` is None if the figure is not available; `note` then says why ("unavailable: no LPIPS backbone"). `low` and
    `high` are None if there is no interval ("no interval: one person"); they never coincide.
    """

    value: float | None
    low: float | None = None
    high: float | None = None
    n: int = 0
    note: str = ""


@dataclass(frozen=True)
class Cell:
    """The identity of a cell, by labels that mean the same on every machine."""

    kind: Kind
    dataset: str
    recognizer: str
    #: The label in bench.toml, with a sweep's parameters: advface[epsilon=0.1]. A ~ marks variants of the harness.
    defense: str
    attack: str = ""  #: empty for a utility cell
    level: str = ""  #: the attack's level of knowledge
    leaks: str = ""
    seed: int = 0

    @property
    def probe(self) -> bool:
        """Whether the defence is a control or a canary, and takes no part in rankings."""
        return is_harness(self.defense)

    @property
    def name(self) -> str:
        """A readable and unique file name."""
        return file_name(*self._parts)

    @property
    def former_name(self) -> str:
        """The file name of earlier versions, which was sometimes too long or not unique."""
        text = "--".join(part for part in self._parts if part)
        return "".join(c if c.isalnum() or c in "-_.=[],@~" else "_" for c in text)

    @property
    def _parts(self) -> tuple[str, ...]:
        return self.kind, self.dataset, self.recognizer, self.defense, self.attack, f"seed{self.seed}"


@dataclass(frozen=True)
class Record:
    """The outcome of one cell.

    `metrics` by kind. utility: acc, acc_raw_probe, eer, tar_at_far_* ; reconstruction: ssim, psnr_db, mse, lpips,
    cosine; replay: srra1, srra2; linkage: rank1, tar_at_far_*; traits: trait_accuracy, of the mean and of each trait;
    protection: acc_normal, acc_stolen, ...; crossmatch: link_auc, link_eer; inversion: inverted_cosine, isr1_*, ...;
    picture: picture_ssim, picture_login1_*, ...
    `parameters` holds the defence's and the attack's, `noise` what the harness measured (rms, l2, linf, snr_db ...),
    `info` the training logs, `settings` every metric's variant.
    """

    cell: Cell
    key: str
    status: Status
    reason: str = ""  #: why it was skipped, or the error's message
    traceback: str = ""
    metrics: Mapping[str, Measure] = field(default_factory=dict)
    parameters: Mapping[str, Any] = field(default_factory=dict)
    noise: Mapping[str, float] = field(default_factory=dict)
    flags: tuple[str, ...] = ()
    info: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    provenance: Mapping[str, Any] = field(default_factory=dict)
    #: Its inputs, the same on every machine: hashes of `data`, `recognizer` and the plugins' `code`.
    origin: Mapping[str, str] = field(default_factory=dict)
    artefacts: tuple[str, ...] = ()  #: keys of all artefacts in the store that it was made from
    time_s: float = 0.0  #: wall-clock time of the cell; in one process, with the artefacts that were made for it
    judging_s: float = 0.0  #: processor time of the judging alone
    schema: int = SCHEMA


class Run:
    """A run's folder: `records/NAME.json`, `.parquet` and `.npz`, and the reports made from these."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._records = folder / "records"

    def prepare(self) -> None:
        """Creates the folder and checks that it is writable.

        Raises:
            UserError: it is not.
        """
        try:
            self._records.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self._records):
                pass
        except OSError as error:
            raise UserError(f"{self.folder}: cannot write here ({error.strerror}); choose another --output") from error

    @contextmanager
    def timed(self, workers: int = 0) -> Iterator[None]:
        """Appends the duration of the block to `time.json`, however it ends."""
        began, clock = datetime.now(UTC), time.perf_counter()
        try:
            yield
        finally:
            call = {
                "began": began.isoformat(timespec="seconds"),
                "wall_s": round(time.perf_counter() - clock, 1),
                "workers": workers,
            }
            with replacing(self.folder / "time.json") as path:
                path.write_text(json.dumps([*self.times(), call], indent=1), encoding="utf-8")

    def times(self) -> list[dict[str, Any]]:
        """The calls that judged cells here: `began` (UTC), `wall_s`, `workers`; empty if none were noted."""
        try:
            noted = json.loads((self.folder / "time.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        whole = isinstance(noted, list) and all(
            isinstance(c, dict) and isinstance(c.get("wall_s"), float | int) for c in noted
        )
        return noted if whole else []

    def note_costs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Stores what artefacts took to make in `costs.json`, a row each with its `key`; earlier rows stay."""
        if not rows:
            return
        known = {row["key"]: row for row in (*self.costs(), *rows)}
        with replacing(self.folder / "costs.json") as path:
            path.write_text(json.dumps(list(known.values()), indent=1), encoding="utf-8")

    def costs(self) -> list[dict[str, Any]]:
        """The rows of `note_costs`; empty if there are none, or the file is damaged."""
        try:
            noted = json.loads((self.folder / "costs.json").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return []
        whole = isinstance(noted, list) and all(isinstance(row, dict) and "key" in row for row in noted)
        return noted if whole else []

    def artefacts(self, name: str) -> tuple[str, ...]:
        """Keys of the artefacts behind a record; empty if it is damaged."""
        try:
            record = self.read(name)
        except DataError:
            return ()
        return record.artefacts if record else ()

    def names(self) -> list[str]:
        """Sorted names of the cells that have a record."""
        return sorted(path.stem for path in self._records.glob("*.json"))

    def state(self) -> tuple[tuple[str, int, int], ...]:
        """Changes when a record does: the name, the time of writing (ns) and the size of each."""
        about = ((path.stem, path.stat()) for path in sorted(self._records.glob("*.json")))
        return tuple((name, found.st_mtime_ns, found.st_size) for name, found in about)

    def read(self, name: str) -> Record | None:
        """The record with this name; None if there is none.

        Raises:
            DataError: the file is damaged or of another schema.
        """
        path = self._records / f"{name}.json"
        try:
            raw = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: not a readable record ({error}); delete it and run again") from error
        if not isinstance(raw, dict) or raw.get("schema") != SCHEMA:
            raise DataError(f"{path}: not a record of schema {SCHEMA}; delete it and run again")
        try:
            known = {f.name for f in fields(Record)}
            raw = {k: v for k, v in raw.items() if k in known}
            raw["cell"] = Cell(**raw["cell"])
            raw["metrics"] = {k: Measure(**v) for k, v in raw["metrics"].items()}
            raw["flags"] = tuple(raw["flags"])
            raw["artefacts"] = tuple(raw["artefacts"])
            return Record(**raw)
        except (KeyError, TypeError, AttributeError) as error:
            raise DataError(f"{path}: a damaged record ({error}); delete it and run again") from error

    def find(self, cell: Cell) -> Record | None:
        """The record of a cell, under its current name or an earlier version's.

        Raises:
            DataError: as for `read`.
        """
        for name in dict.fromkeys((cell.name, cell.former_name)):
            try:
                record = self.read(name)
            except DataError:
                if name == cell.name:
                    raise
                continue
            if record is not None and record.cell == cell:
                return record
        return None

    def path(self, cell: Cell, suffix: str) -> Path:
        """The path of a cell's `.json`, `.parquet` or `.npz`."""
        now = self._records / f"{cell.name}{suffix}"
        if cell.former_name == cell.name or (self._records / f"{cell.name}.json").exists():
            return now
        return self._records / f"{cell.former_name}{suffix}" if self.find(cell) is not None else now

    def records(self) -> list[Record]:
        """Every record; if a cell has two, the one under its current name.

        Raises:
            DataError: the folder has no records, or one is damaged.
        """
        read = [(name, record) for name in self.names() if (record := self.read(name)) is not None]
        current = {record.cell for name, record in read if name == record.cell.name}
        found = [record for name, record in read if name == record.cell.name or record.cell not in current]
        if not found:
            raise DataError(
                f"{self.folder}: no records here; name the folder of a finished run, or start one: veilbench run"
            )
        return found

    def scores(self, cell: Cell) -> pd.DataFrame:
        """Per-image (reconstruction: name, subject, ssim, psnr_db, mse, lpips, cosine) or per-pair scores of a cell."""
        path = self.path(cell, ".parquet")
        try:
            return pd.read_parquet(path)
        except (OSError, ValueError) as error:
            raise DataError(f"{path}: no readable scores ({error}); delete the cell's record and run again") from error

    def samples(self, cell: Cell) -> dict[str, NDArray[Any]]:
        """`original` and `reconstruction` (K, H, W, 3) uint8 and their `name`s; empty if none were stored."""
        path = self.path(cell, ".npz")
        if not path.exists():
            return {}
        with np.load(path, allow_pickle=False) as arrays:
            return {name: arrays[name] for name in arrays.files}

    def write(
        self, record: Record, scores: pd.DataFrame | None = None, samples: Mapping[str, NDArray[Any]] | None = None
    ) -> None:
        """Writes a cell's files, the record last, so that an existing record has its scores."""
        base = self._records / record.cell.name
        former = self.path(record.cell, ".json")
        if scores is not None:
            with replacing(base.with_name(base.name + ".parquet")) as path:
                scores.to_parquet(path, index=False)
        if samples is not None:
            with replacing(base.with_name(base.name + ".npz")) as path, path.open("wb") as file:
                np.savez_compressed(file, allow_pickle=False, **samples)
        with replacing(base.with_name(base.name + ".json")) as path:
            path.write_text(json.dumps(asdict(record), indent=1, sort_keys=True, allow_nan=False), encoding="utf-8")
        if former.stem != base.name:
            for suffix in (".json", ".parquet", ".npz"):
                former.with_name(former.name.removesuffix(".json") + suffix).unlink(missing_ok=True)
