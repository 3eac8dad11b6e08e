"""Finds and cuts out faces, once, into a memory-mapped cache."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from bench.contracts import Alignment
from bench.datasets.face_cache import CHUNK, cached_faces
from bench.errors import DataError
from bench.storage.keys import content_key

ALGORITHM = 2  #: raised whenever other pixels would come out; part of a dataset's revision
_PROBABILITY = 0.9  #: below this, what MTCNN shows is taken for no face
_MTCNN_SMALLEST = 20  #: pixels; below, its pyramid has no floor
_SMALLEST = 0.2  #: of the image's shorter side: smaller faces are bystanders, and searching for them takes most time


@dataclass(frozen=True)
class ImageSource:
    """Images to align."""

    names: Sequence[str] = field(repr=False)
    read: Callable[[int], Image.Image] = field(repr=False)  #: the i-th, RGB; raises DataError
    revision: str  #: hash of all of them
    files: Sequence[str] = field(repr=False, default=())  #: where each lies, for messages; empty: its name says it

    def where(self, index: int) -> str:
        """The i-th, for a message."""
        return self.files[index] if self.files else self.names[index]


def align(
    source: ImageSource, alignment: Alignment, cache: Path, *, aligned: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """The faces (N, H, W, 3), memory-mapped, and whether one was found in each image.

    An image without a face gives its centre. Work done before a kill is not done again; two runs at once share it.

    Args:
        aligned: the images are cut out already: only resize them.

    Raises:
        DataError: an image cannot be read, or the detector fails on it; names it.
    """
    parts = {
        "revision": source.revision,
        "alignment": asdict(alignment),
        "aligned": aligned,
        "algorithm": 1 if aligned else ALGORITHM,
    }
    folder = cache / content_key(**parts, detector=version("facenet-pytorch"))
    cut = _resizer(alignment) if aligned else _Detector(alignment).cut
    count = len(source.names)

    def chunks(first: int) -> Iterator[tuple[list[NDArray[np.uint8]], list[bool]]]:
        for start in range(first, count, CHUNK):
            cuts = [cut(source.read(i), source.where(i)) for i in range(start, min(start + CHUNK, count))]
            yield [face for face, _ in cuts], [seen for _, seen in cuts]

    return cached_faces(folder, count, alignment.size, chunks, "aligning faces (once)")


#: An image and where it lies to its face, and whether there was one.
_Cut = Callable[[Image.Image, str], tuple[NDArray[np.uint8], bool]]


def _resizer(alignment: Alignment) -> _Cut:
    return lambda image, _: (_resized(image, alignment.size), True)


def _resized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The middle of an image, at the wanted shape and size."""
    height, width = size
    scale = min(image.height / height, image.width / width)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


@cache
def _mtcnn(smallest: int) -> Any:
    """The detector, its weights loaded once."""
    from facenet_pytorch import MTCNN

    return MTCNN(min_face_size=smallest, keep_all=True, device="cpu")


class _Detector:
    """facenet-pytorch's MTCNN (Zhang et al. 2016)."""

    def __init__(self, alignment: Alignment) -> None:
        self._alignment = alignment

    def cut(self, image: Image.Image, where: str) -> tuple[NDArray[np.uint8], bool]:
        """The image's face, and whether there was one.

        One image at a time: among others, MTCNN may choose another box. It takes no longer.
        """
        try:
            face = self._detect(image)
            return (_resized(image, self._alignment.size), False) if face is None else (self._crop(image, *face), True)
        except Exception as error:  # whatever it is, the user wants to know of which file
            said = f"{type(error).__name__}: {error}"
            raise DataError(f"{where}: the face detector fails on it ({said}); replace it or remove it") from error

    def _detect(self, image: Image.Image) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Box and five points of the face nearest the centre."""
        if min(image.size) < _MTCNN_SMALLEST:
            return None
        detector = _mtcnn(max(_MTCNN_SMALLEST, int(_SMALLEST * min(image.size))))
        with torch.inference_mode():
            boxes, probabilities, points = (found[0] for found in detector.detect([image], landmarks=True))
        if boxes is None:
            return None
        sure = np.array([p is not None and p >= _PROBABILITY for p in probabilities])
        if not sure.any():
            return None
        box, point = np.asarray(boxes, dtype=float)[sure], np.asarray(points, dtype=float)[sure]
        centre = np.array(image.size) / 2
        nearest = int(np.linalg.norm((box[:, :2] + box[:, 2:]) / 2 - centre, axis=1).argmin())
        return box[nearest], point[nearest]

    def _crop(self, image: Image.Image, box: NDArray[Any], points: NDArray[Any]) -> NDArray[np.uint8]:
        height, width = self._alignment.size
        if self._alignment.method == "five-point":
            from skimage.transform import SimilarityTransform

            # PIL wants, for each output pixel, where it comes from: the transform from template to photograph.
            transform = SimilarityTransform.from_estimate(np.array(self._alignment.points), points)
            matrix = tuple(np.asarray(transform.params)[:2].ravel())
            return np.asarray(
                image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            )
        # The margin is in output pixels, so it grows with the box (as facenet-pytorch's own crop does).
        sides = box[2:] - box[:2]
        spread = self._alignment.margin * sides / (np.array([width, height]) - self._alignment.margin) / 2
        low = np.maximum(box[:2] - spread, 0)
        high = np.minimum(box[2:] + spread, np.array(image.size))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=(*low, *high)))


def revision_of(parts: Sequence[tuple[str, bytes]]) -> str:
    """sha256 over (name, digest) of everything that a dataset reads."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()
