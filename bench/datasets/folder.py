"""A folder of photographs (CelebA, CASIA-WebFace, your own): public faces to train on, no pairs."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ImageSource, align, read_image, revision_of
from bench.errors import DataError

_SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp"}


@dataclass(frozen=True, kw_only=True)
class ImageFolder(Dataset):
    """Photographs, one subfolder a person, or all in one folder where nobody knows who they are."""

    path: str
    identities: bool = True  #: one subfolder a person; False: everything below `path`, identities unknown
    limit: int | None = None  #: at most so many images, the first by name
    aligned: bool = False  #: the images are cut out as the recogniser wants them: only resize

    def __post_init__(self) -> None:
        if (self.limit or 1) < 1:
            raise ValueError("limit must be at least 1")

    def _files(self) -> dict[str, Path]:
        root = Path(self.path).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder of images; set path")
        pattern = "*/*" if self.identities else "**/*"
        paths = sorted(p for p in root.glob(pattern) if p.suffix.lower() in _SUFFIXES and p.is_file())
        if not paths:
            layout = "PERSON/IMAGE.jpg" if self.identities else "images"
            hint = "; for a flat folder set identities = false" if self.identities else ""
            raise DataError(f"{root}: no {layout} in it{hint}")
        return {p.relative_to(root).as_posix(): p for p in paths[: self.limit]}

    def revision(self) -> str:
        """Over every image's name and bytes, whether people are known, and how faces are cut out."""
        return revision_of([(self._source(self._files()).revision, bytes([self.identities, self.aligned]))])

    def _source(self, files: dict[str, Path]) -> ImageSource:
        paths = list(files.values())
        parts = [(name, hashlib.sha256(path.read_bytes()).digest()) for name, path in files.items()]
        return ImageSource(list(files), lambda i: read_image(paths[i]), revision_of(parts))

    def size(self) -> tuple[int, int]:
        """All are public."""
        return 0, len(self._files())

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Public faces only, those where a face was found: there is no protocol here whose denominator they are in."""
        files = self._files()
        pixels, found = align(self._source(files), alignment, cache, aligned=self.aligned)
        people = tuple(name.partition("/")[0] for name in files) if self.identities else None
        every = FaceSet(pixels, np.arange(len(files)), tuple(files), people, found)
        none = np.zeros(0, dtype=np.int64)
        return Evaluation(
            every.subset(none), Pairs(none, none, none.astype(bool), none), every.subset(np.flatnonzero(found))
        )
