"""What lies in an artefact's folder: the names, shapes and types of its files, written and read here alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.storage.arrays import Rows, read_array, write_arrays


def write_identity(folder: Path, embeddings: NDArray[Any]) -> None:
    """Embeddings (N, D) of the unprotected pipeline."""
    write_arrays(folder, {"embeddings": embeddings})


def read_identity(folder: Path) -> NDArray[Any]:
    """Embeddings (N, D), memory-mapped."""
    return read_array(folder, "embeddings")


def write_judged(folder: Path, embeddings: NDArray[Any], found: NDArray[np.bool_]) -> None:
    """Embeddings (N, D) of the test images by the judge, and whether a face was found for it (N,)."""
    write_arrays(folder, {"embeddings": embeddings, "found": found})


def read_judged(folder: Path) -> tuple[NDArray[Any], NDArray[np.bool_]]:
    """As `write_judged`."""
    return np.array(read_array(folder, "embeddings")), np.array(read_array(folder, "found"))


def create_templates(folder: Path, dtype: np.dtype[Any], shape: tuple[int, ...]) -> Rows:
    """Room for templates (N, ...) of every test image, or (M, ...) of every presented one."""
    return Rows.create(folder / "templates.npy", dtype, shape)


def read_templates(folder: Path) -> Rows:
    """Templates, read as they are asked for."""
    return Rows(folder / "templates.npy")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """What a server makes of templates, and of unprotected probes: (N, D) each, unit length."""

    stored: NDArray[Any]
    probes: NDArray[Any]

    def write(self, folder: Path) -> None:
        """Into a new artefact."""
        write_arrays(folder, {"stored": self.stored, "probes": self.probes})

    @classmethod
    def read(cls, folder: Path) -> Embeddings:
        """Both, in memory."""
        return cls(np.array(read_array(folder, "stored")), np.array(read_array(folder, "probes")))


def read_stored_embeddings(folder: Path) -> Rows:
    """Those of stored templates alone, read as they are asked for: what an attack on embeddings stole."""
    return Rows(folder / "stored.npy")


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """What an attack rebuilt, in half precision, which keeps 80 dB: the judge sees exactly what is stored."""

    rows: NDArray[np.int64]  #: (M,) which of the test images they are of, ascending
    images: Rows  #: (M, 3, H, W) in [0, 1]

    @classmethod
    def create(cls, folder: Path, rows: NDArray[np.int64], size: tuple[int, int]) -> Reconstructions:
        """Room for them in a new artefact."""
        write_arrays(folder, {"rows": rows})
        return cls(rows, Rows.create(folder / "images.npy", np.dtype(np.float16), (len(rows), 3, *size)))

    @classmethod
    def read(cls, folder: Path) -> Reconstructions:
        """Images are read as they are asked for."""
        return cls(read_array(folder, "rows"), Rows(folder / "images.npy"))


@dataclass(frozen=True, eq=False)
class Linkage:
    """Likeness of each stolen template to each face of a gallery that holds everybody once."""

    scores: NDArray[Any]  #: (T, T); the diagonal is the person's own
    targets: NDArray[np.int64]  #: (T,) which test image each template is of
    gallery: NDArray[np.int64]  #: (T,) which test image each face of the gallery is

    def write(self, folder: Path) -> None:
        """Into a new artefact."""
        write_arrays(folder, {"scores": self.scores, "targets": self.targets, "gallery": self.gallery})

    @classmethod
    def read(cls, folder: Path) -> Linkage:
        """All three, memory-mapped."""
        return cls(*(read_array(folder, name) for name in ("scores", "targets", "gallery")))


def write_rows(folder: Path, rows: NDArray[np.int64]) -> None:
    """Which of the test images a presentation's templates are of."""
    write_arrays(folder, {"rows": rows})


def read_rows(folder: Path) -> NDArray[np.int64]:
    """As `write_rows`."""
    return np.array(read_array(folder, "rows"))


@dataclass(frozen=True, eq=False)
class Login:
    """Embeddings of reconstructions that passed the whole defended pipeline, as a login would."""

    embeddings: NDArray[Any]  #: (N, D) by test image; those that were not presented stay zero
    rows: NDArray[np.int64]  #: (M,) those that were

    def write(self, folder: Path) -> None:
        """Into a new artefact."""
        write_arrays(folder, {"embeddings": self.embeddings, "rows": self.rows})

    @classmethod
    def read(cls, folder: Path) -> Login:
        """Both, memory-mapped."""
        return cls(read_array(folder, "embeddings"), read_array(folder, "rows"))
