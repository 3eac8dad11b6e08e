"""Synthetic people (`bench.synthesis`): three verification protocols, public faces and a training set for recognisers.

They show no real person and need no download. The protocols mirror the AdvFace paper's sets: `frontal` like LFW,
`profile` (frontal against 60 to 90 degrees of yaw) like CFP-FP, `age` (thirty years between two images) like AgeDB-30.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.face_cache import CHUNK, cached_faces
from bench.storage.keys import content_key
from bench.synthesis import Photograph, Points, develop_all, visible_traits

_GENERATOR = 2  #: increment when the same name gives a different face
_TRAITS = 1  #: increment when the same photograph gets other traits
_YEARS = 30  #: years between the two images of an `age` pair
# Positions of the five points of a frontal face in MTCNN's box with a margin, as fractions of the crop.
_IN_MARGIN = ((0.31, 0.40), (0.69, 0.40), (0.50, 0.60), (0.345, 0.775), (0.655, 0.775))


@dataclass(frozen=True, kw_only=True)
class Synthetic(Dataset):
    """Any number of rendered people, without a download. `training` has no pairs; it supplies faces to train on."""

    #: How a pair's two photographs differ; training: many people, no pairs.
    protocol: Literal["frontal", "profile", "age", "training"] = "frontal"
    folds: int = 10  #: folds of the verification protocol; no person is in two folds
    pairs_per_fold: int = 10  #: genuine pairs per fold, each of another person, and as many impostor pairs
    public: int = 600  #: maximum number of public images; half of their people are the defender's
    images_each: int = 4  #: images per public person
    salt: str = ""  #: another set of people

    def __post_init__(self) -> None:
        if min(self.folds, self.images_each) < 1 or self.pairs_per_fold < 2 or self.public < 0:
            raise ValueError("folds and images_each must be at least 1, pairs_per_fold at least 2, public at least 0")

    def revision(self) -> str:
        """Covers the parameters and the generator's version."""
        return content_key(generator=_GENERATOR, **asdict(self))

    def traits_revision(self) -> str:
        """The traits follow from the people and photographs; a `training` set has none."""
        return "" if self.protocol == "training" else content_key(traits=_TRAITS, people=self.revision())

    def size(self) -> tuple[int, int]:
        """The number of judged and of public images."""
        return len(self._test()), len(self._public())

    def _test(self) -> list[Photograph]:
        """Returns two images of each judged person: an enrolled one and a probe."""
        if self.protocol == "training":
            return []
        people = range(self.folds * self.pairs_per_fold)
        aged = self.protocol == "age"
        return [
            Photograph(
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

    def _public(self) -> list[Photograph]:
        group = "training " if self.protocol == "training" else f"{self.protocol} public "
        faces = []
        for index in range(self.public):
            person, image = divmod(index, self.images_each)
            kind = self.protocol
            if kind == "training":  # half of the images are frontal, a quarter from the side, a quarter of another age
                kind = ("frontal", "profile", "frontal", "age")[image % 4]  # type: ignore[assignment]
            faces.append(
                Photograph(
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
        """Renders faces as a detector would have aligned them, including its errors; cached."""
        height, width = alignment.size
        points = alignment.points or tuple((x * width, y * height) for x, y in _IN_MARGIN)
        points = tuple((float(x), float(y)) for x, y in points)
        test, public = self._test(), self._public()
        every = self._faces([*test, *public], alignment.size, points, cache)
        held = len(test)
        return Evaluation(every.subset(range(held)), self._pairs(held), every.subset(range(held, len(every))))

    def _faces(self, faces: list[Photograph], size: tuple[int, int], points: Points, cache: Path) -> FaceSet:
        salt = self.salt
        folder = cache / content_key(
            generator=_GENERATOR, faces=[asdict(f) for f in faces], salt=salt, size=size, points=points
        )

        def chunks(first: int) -> Iterator[tuple[NDArray[np.uint8], list[bool]]]:
            parts = [faces[start : start + CHUNK] for start in range(first, len(faces), CHUNK)]
            yield from ((images, [True] * len(images)) for images in develop_all(parts, salt, size, points))

        pixels, found = cached_faces(folder, len(faces), size, chunks, "rendering faces (once)")
        names, subjects = tuple(f.name for f in faces), tuple(f.subject for f in faces)
        # People to train a recogniser on are many, and nobody asks for their traits.
        traits = {} if self.protocol == "training" else visible_traits(faces, salt)
        return FaceSet(pixels, np.arange(len(faces)), names, subjects, found, traits=traits)

    def _pairs(self, images: int) -> Pairs:
        """Pairs each person's enrolled image with their own probe and with that of the next person in the fold."""
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
