"""A folder of photographs (CelebA, CASIA-WebFace, your own): public faces to train on, no pairs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ALGORITHM, ImageSource, align, revision_of
from bench.datasets.copies import originals
from bench.datasets.decoding import read_image
from bench.datasets.photographs import ELSEWHERE, Photographs, examine, find_photographs
from bench.datasets.trait_labels import labels_revision, read_traits
from bench.errors import DataError


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Photographs in one subfolder per person, or in a single folder if identities are unknown."""

    path: str  #: the folder of photographs
    identities: bool = True  #: one subfolder per person; False: all images below `path`, identities unknown
    limit: int | None = None  #: maximum number of images, in order of their names
    aligned: bool = False  #: the images are already cropped for the recogniser, so only resize them
    traits: str = ""  #: CSV file of people's or photographs' traits, for attacks on these; empty: none

    def __post_init__(self) -> None:
        if (self.limit or 1) < 1:
            raise ValueError("limit must be at least 1")

    def _found(self) -> tuple[Photographs, dict[str, Path]]:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder of images; set path")
        found = find_photographs(root, depth=2 if self.identities else None)
        if not found.files:
            layout = "PERSON/IMAGE.jpg" if self.identities else "images"
            flat = self.identities and ELSEWHERE in found.notes
            hint = "; for a flat folder set identities = false" if flat else ""
            raise DataError(f"{root}: no {layout} in it{found.instead()}{hint}")
        return found, dict(list(found.files.items())[: self.limit])

    def revision(self) -> str:
        """Covers every image's name and bytes, whether identities are known, and the alignment."""
        files = revision_of(examine(self._found()[1]).parts())
        return revision_of([(files, bytes([self.identities, 1 if self.aligned else ALGORITHM]))])

    def traits_revision(self) -> str:
        """Covers the bytes of the table of traits."""
        return labels_revision(self.traits)

    def known_people(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the people's folders."""
        names = self._found()[1] if self.identities else ()
        return frozenset(), frozenset(name.partition("/")[0] for name in names)

    def size(self) -> tuple[int, int]:
        """All images are public."""
        return 0, len(self._found()[1])

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Returns public faces only: this dataset has no verification protocol."""
        found, files = self._found()
        examined = examine(files)
        names, paths = list(files), list(files.values())
        people = tuple(name.partition("/")[0] for name in names) if self.identities else None
        traits, unused = read_traits(self.traits, names, people)
        places = [str(path) for path in paths]
        source = ImageSource(names, lambda i: read_image(paths[i]), revision_of(examined.parts()), places)
        pixels, seen = align(source, alignment, cache, aligned=self.aligned)
        behind = originals(source, examined.digests, cache)
        every = FaceSet(pixels, np.arange(len(names)), tuple(names), people, seen, behind, traits)
        none = np.zeros(0, dtype=np.int64)
        pairs = Pairs(none, none, none.astype(bool), none)
        return Evaluation(every.subset(none), pairs, every, {**found.notes, **examined.converted, **unused})
