"""Detects and crops faces once, into a memory-mapped cache."""

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

ALGORITHM = 2  #: increment when the output pixels change; part of a dataset's revision
_PROBABILITY = 0.9  #: MTCNN detections below this probability do not count as faces
_MTCNN_SMALLEST = 20  #: pixels; MTCNN's image pyramid fails on smaller images
_SMALLEST = 0.2  #: of the image's shorter side; smaller faces are bystanders, and searching for them takes longest


@dataclass(frozen=True)
class ImageSource:
    """The images to align."""

    names: Sequence[str] = field(repr=False)
    read: Callable[[int], Image.Image] = field(repr=False)  #: returns the i-th image as RGB; raises DataError
    revision: str  #: a hash of all images
    files: Sequence[str] = field(
        repr=False, default=()
    )  #: the location of each image, for messages; empty: use its name

    def where(self, index: int) -> str:
        """The location of the i-th image, for a message."""
        return self.files[index] if self.files else self.names[index]


def align(
    source: ImageSource, alignment: Alignment, cache: Path, *, aligned: bool = False
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Returns the aligned faces (N, H, W, 3), memory-mapped, and whether a face was found in each image.

    For an image without a face, returns its centre. An interrupted call resumes where it stopped; concurrent runs share
    the work.

    Args:
        aligned: the images are already cropped, so only resize them.

    Raises:
        DataError: an image cannot be read, or the detector fails on it; names the image.
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


#: Maps an image and its location to its face and whether one was found.
_Cut = Callable[[Image.Image, str], tuple[NDArray[np.uint8], bool]]


def _resizer(alignment: Alignment) -> _Cut:
    return lambda image, _: (_resized(image, alignment.size), True)


def _resized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The centre of an image, at the required shape and size."""
    height, width = size
    scale = min(image.height / height, image.width / width)
    left, top = (image.width - width * scale) / 2, (image.height - height * scale) / 2
    box = (left, top, left + width * scale, top + height * scale)
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


@cache
def _mtcnn(smallest: int) -> Any:
    """The detector, with its weights loaded once."""
    from facenet_pytorch import MTCNN

    return MTCNN(min_face_size=smallest, keep_all=True, device="cpu")


class _Detector:
    """facenet-pytorch's MTCNN (Zhang et al. 2016)."""

    def __init__(self, alignment: Alignment) -> None:
        self._alignment = alignment

    def cut(self, image: Image.Image, where: str) -> tuple[NDArray[np.uint8], bool]:
        """Returns the image's face, and whether there was one.

        Processes one image at a time, because MTCNN may choose another box in a batch. It is just as fast.
        """
        try:
            face = self._detect(image)
            return (_resized(image, self._alignment.size), False) if face is None else (self._crop(image, *face), True)
        except Exception as error:  # any error: the user needs to know which file caused it
            said = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{where}: the face detector fails on this image ({said}); replace it or remove it"
            ) from error

    def _detect(self, image: Image.Image) -> tuple[NDArray[Any], NDArray[Any]] | None:
        """Box and five points of the face nearest to the centre."""
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

            # PIL expects the inverse map, from output pixel to photograph.
            transform = SimilarityTransform.from_estimate(np.array(self._alignment.points), points)
            matrix = tuple(np.asarray(transform.params)[:2].ravel())
            return np.asarray(
                image.transform((width, height), Image.Transform.AFFINE, matrix, Image.Resampling.BILINEAR)
            )
        # The margin is in output pixels, so it scales with the box (like facenet-pytorch's own crop).
        sides = box[2:] - box[:2]
        spread = self._alignment.margin * sides / (np.array([width, height]) - self._alignment.margin) / 2
        low = np.maximum(box[:2] - spread, 0)
        high = np.minimum(box[2:] + spread, np.array(image.size))
        return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=(*low, *high)))


def revision_of(parts: Sequence[tuple[str, bytes]]) -> str:
    """sha256 over the (name, digest) of everything that a dataset reads."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()
