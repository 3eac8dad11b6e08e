"""Verification sets in insightface's format (`lfw.bin`, `cfp_fp.bin`, `agedb_30.bin`): pickled images and labels.

A pickle can run any code, and these files come from many places. The reader only allows builtins that hold data, and
numpy's array constructors.
"""

from __future__ import annotations

import hashlib
import io
import pickle
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ALGORITHM, ImageSource, align, revision_of
from bench.datasets.copies import originals
from bench.datasets.decoding import decode
from bench.datasets.photographs import Examined, examine
from bench.datasets.protocols import balanced_folds, check_pairs
from bench.errors import DataError

_ALLOWED = {
    *(("builtins", name) for name in ("list", "tuple", "bytes", "bytearray", "bool", "int", "float", "complex", "set")),
    *(("__builtin__", name) for name in ("list", "tuple", "bytes", "bytearray", "bool", "int", "long", "float")),
    ("_codecs", "encode"),  # how protocol 2 stores bytes
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    *(
        (module, name)
        for module in ("numpy.core.multiarray", "numpy._core.multiarray")
        for name in ("_reconstruct", "scalar")
    ),
    *((module, "_frombuffer") for module in ("numpy.core.numeric", "numpy._core.numeric")),
}
_LARGEST = 10_000_000  #: maximum size of an encoded image, in bytes


class _Refused(Exception):
    """The pickle requests something other than data."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise _Refused(f"{module}.{name}")
        return super().find_class(module, name)

    def persistent_load(self, pid: Any) -> Any:
        raise _Refused("a persistent object")


def read_bin(data: bytes, where: str) -> tuple[list[bytes], list[bool]]:
    """Reads the encoded images, two per pair in order, and whether each pair is genuine.

    Raises:
        DataError: the pickle requests anything but data, is damaged, or holds something else.
    """
    try:
        loaded = _Unpickler(io.BytesIO(data), encoding="bytes").load()
    except _Refused as error:
        raise DataError(
            f"{where}: refused: the pickle asks for {str(error)!r}, which an image set does not need; do not trust it"
        ) from error
    except (MemoryError, RecursionError) as error:
        raise DataError(f"{where}: refused: the pickle asks for too much memory") from error
    except Exception as error:  # a damaged pickle can raise nearly any exception
        raise DataError(f"{where}: not a readable verification set ({type(error).__name__}); fetch it again") from error
    try:
        images, labels = loaded
        encoded = [_bytes(image) for image in images]
        genuine = [_label(label) for label in labels]
    except (TypeError, ValueError) as error:
        told = f": {error}" if isinstance(error, _InvalidItem) else ""
        raise DataError(f"{where}: not a verification set: expected (encoded images, pair labels){told}") from error
    if not genuine or len(encoded) != 2 * len(genuine):
        raise DataError(f"{where}: {len(encoded)} images for {len(genuine)} pairs; expected two per pair")
    return encoded, genuine


class _InvalidItem(ValueError):
    """Describes an item in the set that is neither an image nor a label."""


def _bytes(image: Any) -> bytes:
    """Returns a file's bytes; a decoded array is encoded in a lossless format."""
    if isinstance(image, np.ndarray):
        if image.dtype != np.uint8 or image.ndim not in (1, 2, 3) or (image.ndim == 3 and image.shape[2] != 3):
            wanted = "encoded files, or uint8 arrays of (H, W, 3) or (H, W)"
            raise _InvalidItem(f"an array of {image.dtype} {image.shape} among the images, which are {wanted}")
        if image.ndim > 1:
            kind = "P6" if image.ndim == 3 else "P5"
            return f"{kind}\n{image.shape[1]} {image.shape[0]}\n255\n".encode() + image.tobytes()
        image = image.tobytes()
    if not isinstance(image, bytes | bytearray):
        raise _InvalidItem(f"a {type(image).__name__} among the images")
    if len(image) > _LARGEST:
        raise _InvalidItem(f"an image of {len(image)} bytes; the limit is {_LARGEST}")
    return bytes(image)


_LABELS = {"1": True, "true": True, "0": False, "false": False}


def _label(label: Any) -> bool:
    """Whether a pair is genuine: 1 or 0, True or False, as a number or text."""
    if isinstance(label, bytes):
        label = label.decode("latin-1")
    if isinstance(label, np.ndarray) and label.size == 1:
        label = label.item()
    if isinstance(label, str):
        word = label.strip().lower()
        if word in _LABELS:
            return _LABELS[word]
    elif isinstance(label, bool | int | float | np.bool_ | np.number) and label in (0, 1):
        return bool(label)
    raise _InvalidItem(f"{label!r} among the labels, which are 1 (genuine) and 0 (impostor)")


def people_of(pairs: list[tuple[int, int]], count: int) -> list[int]:
    """Infers people from genuine pairs (union-find), since the set has no names; any other image is its own person."""
    parent = list(range(count))

    def root(image: int) -> int:
        while parent[image] != image:
            parent[image] = parent[parent[image]]
            image = parent[image]
        return image

    for left, right in pairs:
        parent[max(root(left), root(right))] = min(root(left), root(right))
    return [root(image) for image in range(count)]


_DEALT = "folds assigned again, because consecutive folds had pairs of one kind only"


@dataclass(frozen=True)
class _Read:
    """The content of a file: its distinct images, and the pairs to judge."""

    images: list[bytes] = field(repr=False)
    pairs: Pairs
    notes: Mapping[str, Sequence[str]]


@dataclass(frozen=True, kw_only=True)
class InsightfaceBin(Dataset):
    """A `.bin` verification set. It has no public faces: name another set in `[run] public_defender`."""

    path: str  #: the `.bin` file
    #: Consecutive and of equal size, as in insightface's protocol; assigned by kind if a fold would have one kind of
    #: pair.
    folds: int = 10
    pairs_per_fold: int | None = None  #: judge only the first so many genuine and as many impostor pairs of each fold
    aligned: bool = False  #: the images are already cropped for the recogniser, so only resize them

    def __post_init__(self) -> None:
        if self.folds < 1 or (self.pairs_per_fold or 1) < 1:
            raise ValueError("folds and pairs_per_fold must be at least 1")

    def _read(self) -> _Read:
        path = Path(self.path).expanduser()
        try:
            data = path.read_bytes()
        except OSError as error:
            raise DataError(f"{path}: no readable verification set ({error.strerror}); set path to the .bin") from error
        encoded, genuine = read_bin(data, str(path))
        folds, dealt = balanced_folds(genuine, self.folds, str(path))
        chosen: list[tuple[int, int]] = []  # (pair, fold)
        taken: dict[tuple[int, bool], int] = {}
        for index, (same, fold) in enumerate(zip(genuine, folds.tolist(), strict=True)):
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
        notes = dict(check_pairs(pairs, str(path), lambda i: f"{path}: pair {chosen[i][0] + 1}"))
        if dealt:
            notes[_DEALT] = [path.name]
        return _Read(images, pairs, notes)

    def revision(self) -> str:
        """Covers the images and pairs that are judged, and the alignment."""
        read = self._read()
        return revision_of([(_revision(read, self._examined(read)), bytes([1 if self.aligned else ALGORITHM]))])

    def size(self) -> tuple[int, int]:
        """The number of judged images; none are public."""
        return len(self._read().images), 0

    def _examined(self, read: _Read) -> Examined:
        return examine({f"{Path(self.path).name}: image {i}": image for i, image in enumerate(read.images)})

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """The distinct test images, with their pairs."""
        read = self._read()
        images, pairs, examined = read.images, read.pairs, self._examined(read)
        names = [f"{Path(self.path).stem}/{digest.hex()[:16]}" for digest in examined.digests.values()]
        places = [f"{self.path}: image {index}" for index in range(len(images))]
        source = ImageSource(names, lambda i: decode(images[i], places[i]), _revision(read, examined), places)
        pixels, found = align(source, alignment, cache, aligned=self.aligned)
        linked = list(zip(pairs.left[pairs.genuine].tolist(), pairs.right[pairs.genuine].tolist(), strict=True))
        people = tuple(names[person] for person in people_of(linked, len(images)))
        behind = originals(source, dict(zip(names, examined.digests.values(), strict=True)), cache)
        test = FaceSet(pixels, np.arange(len(images)), tuple(names), people, found, behind)
        return Evaluation(test, pairs, None, {**read.notes, **examined.converted})


def _revision(read: _Read, examined: Examined) -> str:
    pairs = read.pairs
    protocol = np.stack([pairs.left, pairs.right, pairs.genuine, pairs.fold]).astype(np.int64).tobytes()
    parts = [(str(i), content) for i, (_, content) in enumerate(examined.parts())]
    return revision_of([("pairs", protocol), *parts])
