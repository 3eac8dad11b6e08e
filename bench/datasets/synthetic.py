"""Synthetic people (`bench.synthesis`): three verification protocols, public faces, and a set to train recognisers on.

Nobody's face, nothing to download. The protocols mirror the AdvFace paper's sets: `frontal` like LFW, `profile`
(frontal against 60 to 90 degrees of yaw) like CFP-FP, `age` (thirty years between two images) like AgeDB-30.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench import synthesis
from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.face_cache import CHUNK, cached_faces
from bench.seeds import derive_seed
from bench.store import content_key

_GENERATOR = 1  #: raised whenever the same name would give another face
_YEARS = 30  #: between the two images of an `age` pair
_WORTH_PROCESSES = 400  #: faces from which starting processes pays
# Where MTCNN's box with a margin puts the five points of a frontal face, as shares of the crop.
_IN_MARGIN = ((0.31, 0.40), (0.69, 0.40), (0.50, 0.60), (0.345, 0.775), (0.655, 0.775))

Points = tuple[tuple[float, float], ...]


@dataclass(frozen=True)
class _Face:
    """One image to render: whose, which, and how taken."""

    group: str  #: `test`, `public` or `training`: people of different groups are different people
    person: int
    image: int
    pose: Literal["frontal", "profile"] = "frontal"
    young: bool = False  #: shown at 20 to 35 years
    older: int = 0  #: years after the young image

    @property
    def subject(self) -> str:
        return f"{self.group}{self.person:05d}"

    @property
    def name(self) -> str:
        """Unique within a protocol, and the name that its seed comes from."""
        return f"{self.subject}/{self.image:02d}"


def _render(faces: Sequence[_Face], salt: str, size: tuple[int, int], points: Points) -> NDArray[np.uint8]:
    people = [synthesis.sample_person(salt, face.group, face.person) for face in faces]
    shots = []
    for face, person in zip(faces, people, strict=True):
        age = None
        if face.young:
            first = 20 + derive_seed("age", salt, face.subject) % 16
            age = float(first + face.older)
        names = (salt, face.group, face.person, face.image)
        shots.append(synthesis.sample_shot(person, *names, pose=face.pose, age=age))
    return synthesis.render(people, shots, size, points)


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Rendered people, any number of them; no download. `training` has no pairs: it lends faces to train on."""

    protocol: Literal["frontal", "profile", "age", "training"] = "frontal"
    folds: int = 10
    pairs_per_fold: int = 10  #: genuine pairs a fold, each of another person, and as many impostor pairs
    public: int = 600  #: public images, at most; half of their people are the defender's
    images_each: int = 4  #: images of a public person
    salt: str = ""  #: other people altogether

    def __post_init__(self) -> None:
        if min(self.folds, self.images_each) < 1 or self.pairs_per_fold < 2 or self.public < 0:
            raise ValueError("folds and images_each must be at least 1, pairs_per_fold at least 2, public at least 0")

    def revision(self) -> str:
        """Over the parameters and the generator's version."""
        return content_key(generator=_GENERATOR, **asdict(self))

    def size(self) -> tuple[int, int]:
        """Judged and public images."""
        return len(self._test()), len(self._public())

    def _test(self) -> list[_Face]:
        """Two images of each judged person, an enrolled one and a probe."""
        if self.protocol == "training":
            return []
        people = range(self.folds * self.pairs_per_fold)
        aged = self.protocol == "age"
        return [
            _Face(
                f"{self.protocol} test ",
                person,
                image,
                pose="profile" if self.protocol == "profile" and image else "frontal",
                young=aged,
                older=_YEARS * image if aged else 0,
            )
            for person in people
            for image in range(2)
        ]

    def _public(self) -> list[_Face]:
        group = "training " if self.protocol == "training" else f"{self.protocol} public "
        faces = []
        for index in range(self.public):
            person, image = divmod(index, self.images_each)
            kind = self.protocol
            if kind == "training":  # every second image frontal, the others by turns from the side or of another age
                kind = ("frontal", "profile", "frontal", "age")[image % 4]  # type: ignore[assignment]
            faces.append(
                _Face(
                    group,
                    person,
                    image,
                    pose="profile" if kind == "profile" and image % 2 else "frontal",
                    young=kind == "age",
                    older=(0, _YEARS, 15, 22)[(image // 2) % 4] if kind == "age" else 0,
                )
            )
        return faces

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Faces rendered as a detector would have aligned them, with a detector's error; cached."""
        height, width = alignment.size
        points = alignment.points or tuple((x * width, y * height) for x, y in _IN_MARGIN)
        test, public = self._test(), self._public()
        every = self._faces([*test, *public], alignment.size, points, cache)
        held = len(test)
        return Evaluation(every.subset(range(held)), self._pairs(held), every.subset(range(held, len(every))))

    def _faces(self, faces: list[_Face], size: tuple[int, int], points: Points, cache: Path) -> FaceSet:
        salt = self.salt
        folder = cache / content_key(
            generator=_GENERATOR, faces=[asdict(f) for f in faces], salt=salt, size=size, points=points
        )

        def chunks(first: int) -> Iterator[tuple[NDArray[np.uint8], list[bool]]]:
            parts = [faces[start : start + CHUNK] for start in range(first, len(faces), CHUNK)]
            arguments = (parts, [salt] * len(parts), [size] * len(parts), [points] * len(parts))
            if len(faces) - first < _WORTH_PROCESSES:
                made = map(_render, *arguments)
                yield from ((images, [True] * len(images)) for images in made)
                return
            workers = max(1, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
            pool = ProcessPoolExecutor(workers, multiprocessing.get_context("spawn"), _one_thread)
            try:
                yield from ((images, [True] * len(images)) for images in pool.map(_render, *arguments))
            finally:
                pool.shutdown(cancel_futures=True)

        pixels, found = cached_faces(folder, len(faces), size, chunks, "rendering faces (once)")
        names, subjects = tuple(f.name for f in faces), tuple(f.subject for f in faces)
        return FaceSet(pixels, np.arange(len(faces)), names, subjects, found)

    def _pairs(self, images: int) -> Pairs:
        """Each person's enrolled image against the own probe, and against the probe of the next person of the fold."""
        people = np.arange(images // 2)
        fold, within = np.divmod(people, self.pairs_per_fold)
        following = fold * self.pairs_per_fold + (within + 1) % self.pairs_per_fold
        genuine = np.repeat([True, False], len(people))
        return Pairs(
            left=np.tile(2 * people, 2),
            right=np.concatenate((2 * people + 1, 2 * following + 1)),
            genuine=genuine,
            fold=np.tile(fold, 2),
        )
