"""The file format of artefacts: names, shapes and types of the files in their folders, read and written only here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.storage.arrays import Rows, read_array, write_arrays


def write_identity(folder: Path, embeddings: NDArray[Any]) -> None:
    """Writes embeddings (N, D) of the unprotected pipeline."""
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
    """Allocates templates (N, ...) of every test image, or (M, ...) of every presented one."""
    return Rows.create(folder / "templates.npy", dtype, shape)


def read_templates(folder: Path) -> Rows:
    """Templates, read on demand."""
    return Rows(folder / "templates.npy")


@dataclass(frozen=True, eq=False)
class Embeddings:
    """The server's embeddings of templates and of unprotected probes: (N, D) each, unit length."""

    stored: NDArray[Any]
    probes: NDArray[Any]

    def write(self, folder: Path) -> None:
        """Writes both into a new artefact."""
        write_arrays(folder, {"stored": self.stored, "probes": self.probes})

    @classmethod
    def read(cls, folder: Path) -> Embeddings:
        """Reads both into memory."""
        return cls(np.array(read_array(folder, "stored")), np.array(read_array(folder, "probes")))


def read_stored_embeddings(folder: Path) -> Rows:
    """The embeddings of stored templates only, read on demand: the input of an attack on embeddings."""
    return Rows(folder / "stored.npy")


@dataclass(frozen=True, eq=False)
class Reconstructions:
    """Reconstructed images in half precision (accurate to 80 dB); judging uses exactly the stored values."""

    rows: NDArray[np.int64]  #: (M,) indices of the test images, ascending
    images: Rows  #: (M, 3, H, W) in [0, 1]

    @classmethod
    def create(cls, folder: Path, rows: NDArray[np.int64], size: tuple[int, int]) -> Reconstructions:
        """Allocates them in a new artefact."""
        write_arrays(folder, {"rows": rows})
        return cls(rows, Rows.create(folder / "images.npy", np.dtype(np.float16), (len(rows), 3, *size)))

    @classmethod
    def read(cls, folder: Path) -> Reconstructions:
        """Opens them; images are read on demand."""
        return cls(read_array(folder, "rows"), Rows(folder / "images.npy"))


@dataclass(frozen=True, eq=False)
class Linkage:
    """Similarity of each stolen template to each face of a gallery with one image per person."""

    scores: NDArray[Any]  #: (T, T); the diagonal compares images of the same person
    targets: NDArray[np.int64]  #: (T,) index of the test image behind each template
    gallery: NDArray[np.int64]  #: (T,) index of the test image behind each face of the gallery

    def write(self, folder: Path) -> None:
        """Writes all three into a new artefact."""
        write_arrays(folder, {"scores": self.scores, "targets": self.targets, "gallery": self.gallery})

    @classmethod
    def read(cls, folder: Path) -> Linkage:
        """Opens all three, memory-mapped."""
        return cls(*(read_array(folder, name) for name in ("scores", "targets", "gallery")))


def write_traits(folder: Path, probabilities: Mapping[str, NDArray[Any]]) -> None:
    """Writes probabilities (N,) of yes by trait; the state beside them lists the names, in order."""
    write_arrays(folder, {"probabilities": np.stack(list(probabilities.values()))})


def read_traits(folder: Path, names: Sequence[str]) -> dict[str, NDArray[Any]]:
    """As `write_traits`."""
    return dict(zip(names, np.array(read_array(folder, "probabilities")), strict=True))


def write_rows(folder: Path, rows: NDArray[np.int64]) -> None:
    """The indices of the test images behind a presentation's templates."""
    write_arrays(folder, {"rows": rows})


def read_rows(folder: Path) -> NDArray[np.int64]:
    """Like `write_rows`."""
    return np.array(read_array(folder, "rows"))


@dataclass(frozen=True, eq=False)
class Login:
    """Embeddings of reconstructions that passed through the whole defended pipeline, as in a login."""

    embeddings: NDArray[Any]  #: (N, D) by test image; zero for images that were not presented
    rows: NDArray[np.int64]  #: (M,) indices of the presented images

    def write(self, folder: Path) -> None:
        """Writes both into a new artefact."""
        write_arrays(folder, {"embeddings": self.embeddings, "rows": self.rows})

    @classmethod
    def read(cls, folder: Path) -> Login:
        """Opens both, memory-mapped."""
        return cls(read_array(folder, "embeddings"), read_array(folder, "rows"))


@dataclass(frozen=True, eq=False)
class Protected:
    """Keyed templates of two applications, and the scores of comparisons in the first one."""

    first: NDArray[Any]  #: (T, ...) templates, one per person
    second: NDArray[Any]  #: (T, ...) of another image of each, under the second application's keys
    targets: NDArray[np.int64]  #: (T,) index of the test image behind each template of the first
    gallery: NDArray[np.int64]  #: (T,) and of the second
    #: By name: `normal`, `stolen`, `plain` (T, T), of target i with gallery image j; NAME_pairs (P,), of the protocol;
    #: `replay` (T,), of each template of the first application with itself, sent in place of a protected probe.
    scores: Mapping[str, NDArray[Any]]
    #: (T, ...) what is stored beside the templates of the first and of the second, by the names in `BESIDE`; or empty.
    auxiliary: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def write(self, folder: Path) -> None:
        """Writes everything into a new artefact."""
        arrays = {name: getattr(self, name) for name in ("first", "second", "targets", "gallery")}
        write_arrays(folder, {**arrays, **{name: self.scores[name] for name in _COMPARED}, **self.auxiliary})

    @classmethod
    def read(cls, folder: Path) -> Protected:
        """Opens everything, memory-mapped."""
        first, second, targets, gallery = (read_array(folder, n) for n in ("first", "second", "targets", "gallery"))
        beside = {name: read_array(folder, name) for name in BESIDE if (folder / f"{name}.npy").is_file()}
        return cls(first, second, targets, gallery, {name: read_array(folder, name) for name in _COMPARED}, beside)


BESIDE = ("first_auxiliary", "second_auxiliary")
_COMPARED = ("normal", "normal_pairs", "stolen", "stolen_pairs", "plain", "plain_pairs", "replay")


def write_inversion(folder: Path, embeddings: NDArray[Any], shown: NDArray[Any]) -> None:
    """Recovered embeddings (T, D), and their scores (3, T) as probes.

    With the stolen template, with that of the other image under the same key, and with the second application's.
    """
    write_arrays(folder, {"embeddings": embeddings, "shown": shown})


def read_inversion(folder: Path) -> tuple[NDArray[Any], NDArray[Any]]:
    """As `write_inversion`."""
    return np.array(read_array(folder, "embeddings")), np.array(read_array(folder, "shown"))


@dataclass(frozen=True, eq=False)
class Pictures:
    """Faces made of recovered embeddings, or of true ones, in the order of the stolen templates."""

    images: Rows | NDArray[Any]  #: (T, 3, H, W) in [0, 1], in half precision
    embeddings: NDArray[Any]  #: (T, D) of these, unprotected
    shown: NDArray[Any]  #: (3, T), as in `write_inversion`; (3, 0) for true embeddings

    @classmethod
    def read(cls, folder: Path) -> Pictures:
        """Opens them; images are read on demand."""
        embeddings, shown = (np.array(read_array(folder, name)) for name in ("embeddings", "shown"))
        return cls(Rows(folder / "images.npy"), embeddings, shown)

    @classmethod
    def floor(cls, folder: Path, count: int) -> Pictures:
        """The mean face beside the pictures of true embeddings, as the picture of each of `count` people."""
        face, embedding = (np.array(read_array(folder, name)) for name in ("mean_face", "mean_face_embedding"))
        return cls(
            np.broadcast_to(face, (count, *face.shape)), np.broadcast_to(embedding, (count, *embedding.shape)), _NEVER
        )


_NEVER = np.zeros((3, 0))  #: presented to no protected system


def write_mean_face(folder: Path, face: NDArray[Any], embedding: NDArray[Any]) -> None:
    """The mean (3, H, W) of the attacker's faces and its embedding (D,), for `Pictures.floor`."""
    write_arrays(folder, {"mean_face": face, "mean_face_embedding": embedding})


def create_pictures(folder: Path, shape: tuple[int, ...]) -> Rows:
    """Allocates the images of `Pictures`."""
    return Rows.create(folder / "images.npy", np.dtype(np.float16), shape)


def write_pictures(folder: Path, embeddings: NDArray[Any], shown: NDArray[Any]) -> None:
    """The rest of `Pictures`."""
    write_arrays(folder, {"embeddings": embeddings, "shown": shown})
