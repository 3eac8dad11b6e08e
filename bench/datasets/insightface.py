"""Verification sets as insightface packs them (`lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`): pickled images and labels.

A pickle can run any code, and these files travel from hand to hand: only builtins that hold data and numpy's array
constructors are let through.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ImageSource, align, decode, revision_of
from bench.errors import DataError

_ALLOWED = {
    *(("builtins", name) for name in ("list", "tuple", "bytes", "bytearray", "bool", "int", "float", "complex", "set")),
    *(("__builtin__", name) for name in ("list", "tuple", "bytes", "bytearray", "bool", "int", "long", "float")),
    ("_codecs", "encode"),  # how protocol 2 writes bytes
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
}
_LARGEST = 10_000_000  #: bytes an encoded image may have


class _Refused(Exception):
    """The pickle asked for something that holds more than data."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent object")


def read_bin(data: bytes, where: str) -> tuple[list[bytes], list[bool]]:
    """Encoded images, two a pair in order, and whether each pair is genuine.

    Raises:
        DataError: the pickle asks for more than data, is damaged, or holds something else.
    """
    try:
        loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise DataError(
            f"{where}: refused: the pickle asks for {str(error)!r}, which an image set has no need of; do not trust it"
        ) from error
    except (MemoryError, RecursionError) as error:
        raise DataError(f"{where}: refused: the pickle asks for too much memory") from error
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise DataError(f"{where}: not a readable verification set ({type(error).__name__}); fetch it again") from error
    try:
        images, labels = loaded
        encoded = [_bytes(image) for image in images]
        genuine = [bool(label) for label in labels]
    except (TypeError, ValueError) as error:
        raise DataError(f"{where}: not a verification set: expected (encoded images, pair labels)") from error
    if not genuine or len(encoded) != 2 * len(genuine):
        raise DataError(f"{where}: {len(encoded)} images for {len(genuine)} pairs; expected two a pair")
    return encoded, genuine


def _bytes(image: Any) -> bytes:
    if isinstance(image, np.ndarray) and image.dtype == np.uint8:
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray) or len(image) > _LARGEST:
        raise TypeError("not an encoded image")
    return bytes(image)


def people_of(pairs: list[tuple[int, int]], count: int) -> list[int]:
    """Such a set names nobody: whoever genuine pairs link is one person, and everyone else their own (union-find)."""
    parent = list(range(count))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for left, right in pairs:
        parent[max(root(left), root(right))] = min(root(left), root(right))
    return [root(image) for image in range(count)]


@dataclass(frozen=True, kw_only=True)
class InsightfaceBin(Dataset):
    """A `.bin` verification set. It leaves no public faces: name another set in `[run] public_defender`."""

    path: str
    folds: int = 10  #: consecutive and equally large, as insightface's own protocol
    pairs_per_fold: int | None = None  #: judge the first so many genuine and as many impostor pairs of each fold
    aligned: bool = False  #: the images are cut out as the recogniser wants them: only resize

    def __post_init__(self) -> None:
        if self.folds < 1 or (self.pairs_per_fold or 1) < 1:
            raise ValueError("folds and pairs_per_fold must be at least 1")

    def _read(self) -> tuple[list[bytes], Pairs]:
        """Images, each once, and the pairs that are judged."""
        path = Path(self.path).expanduser()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: no readable verification set ({error.strerror}); set path to the .bin") from error
        encoded, genuine = read_bin(data, str(path))
        if len(genuine) < self.folds:
            raise DataError(f"{path}: {len(genuine)} pairs cannot make {self.folds} folds")
        chosen: list[tuple[int, int]] = []  # (pair, fold)
        taken: dict[tuple[int, bool], int] = {}
        for index, same in enumerate(genuine):
            fold = index * self.folds // len(genuine)
            taken[fold, same] = taken.get((fold, same), 0) + 1
            if self.pairs_per_fold is None or taken[fold, same] <= self.pairs_per_fold:
                chosen.append((index, fold))
        position: dict[bytes, int] = {}
        images: list[bytes] = []
        sides: tuple[list[int], list[int]] = ([], [])
        for index, _ in chosen:
            for side in (0, 1):
                image = encoded[2 * index + side]
                digest = hashlib.sha256(image).digest()
                if digest not in position:
                    position[digest] = len(images)
                    images.append(image)
                sides[side].append(position[digest])
        pairs = Pairs(
            left=np.array(sides[0]),
            right=np.array(sides[1]),
            genuine=np.array([genuine[index] for index, _ in chosen]),
            fold=np.array([fold for _, fold in chosen]),
        )
        return images, pairs

    def revision(self) -> str:
        """Over the images and pairs that are judged, and how they are cut out."""
        return revision_of([(_revision(*self._read()), bytes([self.aligned]))])

    def size(self) -> tuple[int, int]:
        """Judged images; none are public."""
        return len(self._read()[0]), 0

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Test images (each once) with their pairs."""
        images, pairs = self._read()
        names = [f"{Path(self.path).stem}/{hashlib.sha256(image).hexdigest()[:16]}" for image in images]

        def read(index: int) -> Image.Image:
            return decode(images[index], f"{self.path}: image {index}")

        source = ImageSource(names, read, _revision(images, pairs))
        pixels, found = align(source, alignment, cache, aligned=self.aligned)
        linked = list(zip(pairs.left[pairs.genuine].tolist(), pairs.right[pairs.genuine].tolist(), strict=True))
        people = tuple(names[person] for person in people_of(linked, len(images)))
        return Evaluation(FaceSet(pixels, np.arange(len(images)), tuple(names), people, found), pairs, None)


def _revision(images: list[bytes], pairs: Pairs) -> str:
    protocol = np.stack([pairs.left, pairs.right, pairs.genuine, pairs.fold]).astype(np.int64).tobytes()
    return revision_of([("pairs", protocol), *((str(i), hashlib.sha256(d).digest()) for i, d in enumerate(images))])
