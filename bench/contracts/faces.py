"""The contract of datasets: faces, pairs, and how photographs are loaded."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

_SHARE = 8  #: pixels stay on a GPU if they take at most one in so many bytes of its free memory

# --------------------------------------------------------------------------------------------------------- faces


@dataclass(frozen=True)
class Alignment:
    """How a recogniser requires faces to be cropped from photographs.

    `margin`: facenet-pytorch's roughly square crop of the detector's box, `margin` pixels wider at output scale.
    `five-point`: similarity transform (Umeyama) of the eyes, nose and mouth corners onto `points`, (x, y) pixels.
    """

    method: Literal["margin", "five-point"]
    size: tuple[int, int]  #: (height, width) in pixels
    margin: int = 0
    points: tuple[tuple[float, float], ...] = ()


@dataclass(frozen=True, eq=False)
class Originals:
    """The source files of faces, in enough detail to detect copies with another name or encoding."""

    files: tuple[str, ...] = field(repr=False)  #: (N,) their locations, for messages
    digests: tuple[bytes, ...] = field(repr=False)  #: (N,) sha256 of each file's bytes
    thumbnails: NDArray[np.uint8] = field(repr=False)  #: (N, 16, 16) grey thumbnails of the whole pictures

    def subset(self, indices: NDArray[np.int64]) -> Originals:
        """The files at the given positions, in that order."""
        chosen = indices.tolist()
        return Originals(
            tuple(self.files[i] for i in chosen), tuple(self.digests[i] for i in chosen), self.thumbnails[indices]
        )


@dataclass(frozen=True, eq=False)
class FaceSet:
    """Aligned faces. `pixels` may be memory-mapped and larger than the set: `rows` selects from it."""

    pixels: NDArray[np.uint8] = field(repr=False)  #: (M, H, W, 3) uint8 RGB
    rows: NDArray[np.int64] = field(repr=False)  #: (N,) rows of `pixels`
    names: tuple[str, ...] = field(repr=False)  #: (N,) unique and stable: each is used to derive a seed
    subjects: tuple[str, ...] | None = field(repr=False)  #: (N,) the person; None where identities are unknown
    found: NDArray[np.bool_] = field(repr=False)  #: (N,) False where no face was detected
    originals: Originals | None = field(repr=False, default=None)  #: (N,) None if there are no files
    #: By name, the trait of each face, (N,) float32: 0 or 1 (no or yes), or a number such as an age; NaN if unknown.
    traits: Mapping[str, NDArray[np.float32]] = field(repr=False, default_factory=dict)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return int(self.pixels.shape[1]), int(self.pixels.shape[2])

    def batch(self, indices: Sequence[int] | NDArray[np.int64] | slice, device: torch.device | None = None) -> Tensor:
        """Images (B, 3, H, W), float32 in [0, 1], at the given positions in the set."""
        chosen = np.ascontiguousarray(self.pixels[self.rows[indices]])
        return _as_images(torch.from_numpy(chosen).to(device))

    def loader(self, device: torch.device) -> Callable[[NDArray[np.int64]], Tensor]:
        """`batch` on this device, for loops that see every face many times: a GPU keeps the pixels if they fit."""
        size = len(self) * self.pixels[:1].nbytes
        if device.type != "cuda" or size > torch.cuda.mem_get_info(device)[0] // _SHARE:
            return lambda indices: self.batch(indices, device)
        pixels = torch.from_numpy(self.pixels[self.rows]).to(device)
        return lambda indices: _as_images(pixels[torch.from_numpy(indices).to(device)])

    def subset(self, indices: Sequence[int] | NDArray[np.int64]) -> FaceSet:
        """The subset at the given positions, in that order; shares the pixels."""
        chosen = np.asarray(indices, dtype=np.int64)
        subjects = None if self.subjects is None else tuple(self.subjects[i] for i in chosen)
        return replace(
            self,
            rows=self.rows[chosen],
            names=tuple(self.names[i] for i in chosen),
            subjects=subjects,
            found=self.found[chosen],
            originals=None if self.originals is None else self.originals.subset(chosen),
            traits={name: values[chosen] for name, values in self.traits.items()},
        )


def _as_images(pixels: Tensor) -> Tensor:
    return pixels.permute(0, 3, 1, 2).float().div_(255.0)


@dataclass(frozen=True, eq=False)
class Pairs:
    """Verification pairs in identity-disjoint folds; indices refer to the test `FaceSet`."""

    left: NDArray[np.int64]  #: (P,) the enrolled image
    right: NDArray[np.int64]  #: (P,) the probe
    genuine: NDArray[np.bool_]  #: (P,) True if both show the same person
    fold: NDArray[np.int64]  #: (P,) 0, 1, ...

    def __len__(self) -> int:
        return len(self.left)


@dataclass(frozen=True, eq=False)
class Evaluation:
    """The result of loading a dataset: faces to judge with their pairs, and everybody else's as public faces."""

    test: FaceSet
    pairs: Pairs
    public: FaceSet | None
    #: Files that were left out, rotated, converted or doubtful, by reason; shown with the results.
    notes: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, kw_only=True)
class Dataset(ABC):
    """A set of photographs. Loading aligns them once, into the cache folder."""

    @abstractmethod
    def revision(self) -> str:
        """Hash of everything that `load` reads and of every parameter that changes its result; independent of paths.

        Raises:
            DataError: something is missing; says what, where it was looked for, and how to get it.
        """

    def traits_revision(self) -> str:
        """Hash of everything that `FaceSet.traits` depends on; only what uses traits is made again if it changes.

        Default: empty, for a set without traits.

        Raises:
            DataError: the file of labels is missing.
        """
        return ""

    def known_people(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the judged and of the public people, as in `FaceSet.subjects`, without aligning any face.

        Where another set lends the public faces, people whom both sets name are left out of these. Default: none, for a
        set that does not know real people's names.

        Raises:
            DataError: as for `revision`.
        """
        return frozenset(), frozenset()

    @abstractmethod
    def size(self) -> tuple[int, int]:
        """The number of (test, public) images that `load` would return, without aligning any; for estimates.

        Raises:
            DataError: as for `revision`.
        """

    @abstractmethod
    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Aligned faces and pairs. A set without pairs (public faces only) has `pairs` of length 0.

        Raises:
            DataError: a file is missing, damaged or refused.
        """
