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
from bench.datasets.detections import Detections, Face
from bench.datasets.face_cache import CHUNK, cached_faces
from bench.errors import DataError
from bench.storage.keys import content_key

ALGORITHM = 2  #: increment when the output pixels change; part of a dataset's revision
_PROBABILITY = 0.9  #: MTCNN detections below this probability do not count as faces
_MTCNN_SMALLEST = 20  #: pixels; MTCNN's image pyramid fails on smaller images
# MTCNN's box, in units of the distance between the eyes' and the mouth corners' midpoints: medians on the photographs
# of CFP, where boxes made so have a median IoU of .86 with MTCNN's.
_BOX_SIZE = (1.95, 2.6)  #: (width, height)
_BOX_DOWN = 0.37  #: its centre, on the way from the eyes to the mouth
_BOX_BACK = 1.2  #: its centre, in multiples of the nose tip's distance from that line, on the other side
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


@dataclass(frozen=True, eq=False)
class KnownPoints:
    """Points that a data set states for its photographs, to use with the detector's or in their place."""

    #: (N, 5, 2) (x, y) pixels: the eyes, the nose tip and the mouth corners; of the eyes and of the corners, first the
    #: one on the image's left.
    points: NDArray[np.float64] = field(repr=False)
    detect: bool  #: True: detect faces, and use the points only where none is found; False: detect nothing

    def identity(self) -> dict[str, Any]:
        """What aligned faces depend on, as part of a key."""
        points = np.ascontiguousarray(self.points, dtype="<f8")
        return {"sha256": hashlib.sha256(points.tobytes()).hexdigest(), "detect": self.detect}


def align(
    source: ImageSource,
    alignment: Alignment,
    cache: Path,
    *,
    aligned: bool = False,
    known: KnownPoints | None = None,
) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """Returns the aligned faces (N, H, W, 3), memory-mapped, and whether a face was found in each image.

    For an image without a face, returns its centre, or the face at its known points. An interrupted call resumes where
    it stopped; concurrent runs share the work.

    Args:
        aligned: the images are already cropped, so only resize them.
        known: points of every image. Where they replace the detector, every image has a face; where they only help out,
            an image counts as found if the detector found its face.

    Raises:
        DataError: an image cannot be read, the detector fails on it, or its known points cannot be used; names the
            image.
    """
    parts = {
        "revision": source.revision,
        "alignment": asdict(alignment),
        "aligned": aligned,
        "algorithm": 1 if aligned else ALGORITHM,
    }
    if known is not None:
        parts["known"] = known.identity()
    folder = cache / content_key(**parts, detector=version("facenet-pytorch"))
    cut = _resizer(alignment) if aligned else _Cutter(alignment, known, cache).cut
    count = len(source.names)

    def chunks(first: int) -> Iterator[tuple[list[NDArray[np.uint8]], list[bool]]]:
        for start in range(first, count, CHUNK):
            cuts = [cut(i, source.read(i), source.where(i)) for i in range(start, min(start + CHUNK, count))]
            yield [face for face, _ in cuts], [seen for _, seen in cuts]

    return cached_faces(folder, count, alignment.size, chunks, "aligning faces (once)")


#: Maps an image's index, the image and its location to its face and whether one was found.
_Cut = Callable[[int, Image.Image, str], tuple[NDArray[np.uint8], bool]]


def _resizer(alignment: Alignment) -> _Cut:
    return lambda _, image, __: (_resized(image, alignment.size), True)


def _resized(image: Image.Image, size: tuple[int, int]) -> NDArray[np.uint8]:
    """The centre of an image, at the required shape and size."""
    height, width = size
    scale = min(image.height / height, image.width / width)
    left, top = max(0.0, (image.width - width * scale) / 2), max(0.0, (image.height - height * scale) / 2)
    box = (left, top, min(left + width * scale, image.width), min(top + height * scale, image.height))  # rounding
    return np.asarray(image.resize((width, height), Image.Resampling.BILINEAR, box=box))


@cache
def _mtcnn(smallest: int) -> Any:
    """The detector, with its weights loaded once."""
    from facenet_pytorch import MTCNN

    return MTCNN(min_face_size=smallest, keep_all=True, device="cpu")


class _Cutter:
    """Cuts faces out, by facenet-pytorch's MTCNN (Zhang et al. 2016) or by known points."""

    def __init__(self, alignment: Alignment, known: KnownPoints | None, cache: Path) -> None:
        self._alignment, self._known = alignment, known
        detector = f"MTCNN {version('facenet-pytorch')} {ALGORITHM}"
        self._detections = Detections(cache / "detections.sqlite", detector) if not known or known.detect else None

    def cut(self, index: int, image: Image.Image, where: str) -> tuple[NDArray[np.uint8], bool]:
        """Returns the image's face, and whether there was one.

        Processes one image at a time, because MTCNN may choose another box in a batch. It is just as fast.
        """
        known = self._known
        if known is not None and self._detections is None:
            return self._by_points(image, known.points[index], where), True
        try:
            face = self._detections.face(image, lambda: self._detect(image)) if self._detections else None
            if face is not None:
                return self._crop(image, *face), True
        except Exception as error:  # any error: the user needs to know which file caused it
            said = f"{type(error).__name__}: {error}"
            raise DataError(
                f"{where}: the face detector fails on this image ({said}); replace it or remove it"
            ) from error
        if known is not None:
            return self._by_points(image, known.points[index], where), False
        return _resized(image, self._alignment.size), False

    def _by_points(self, image: Image.Image, points: NDArray[np.float64], where: str) -> NDArray[np.uint8]:
        height = np.linalg.norm(points[:2].mean(0) - points[3:].mean(0))
        outside = np.maximum(-points, points - np.array(image.size)).max()
        if height < 1 or outside > max(image.size):
            raise DataError(f"{where}: the points that the data set states for it do not fit this photograph")
        return self._crop(image, box_of(points), points)

    def _detect(self, image: Image.Image) -> Face | None:
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


def box_of(points: NDArray[np.float64]) -> NDArray[np.float64]:
    """The box (left, top, right, bottom) that MTCNN would draw around the face with these five points, (5, 2).

    Its size follows from the distance between the eyes and the mouth, which hardly changes as a head turns; it reaches
    back from the eyes and mouth by as much as the nose points away.
    """
    eyes, nose, mouth = points[:2].mean(0), points[2], points[3:].mean(0)
    down = mouth - eyes
    unit = float(np.linalg.norm(down))
    across = (nose - eyes) - ((nose - eyes) @ down) / unit**2 * down
    centre = eyes + _BOX_DOWN * down - _BOX_BACK * across
    half = np.array(_BOX_SIZE) * unit / 2
    return np.concatenate([centre - half, centre + half])


def revision_of(parts: Sequence[tuple[str, bytes]]) -> str:
    """sha256 over the (name, digest) of everything that a dataset reads."""
    digest = hashlib.sha256()
    for name, content in parts:
        digest.update(name.encode() + b"\0" + content)
    return digest.hexdigest()
