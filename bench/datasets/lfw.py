"""Labeled Faces in the Wild (Huang et al. 2007): an image tree and View 2's `pairs.txt`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ImageSource, align, read_image, revision_of
from bench.errors import DataError

_HOW = "set [datasets.lfw] images and pairs, or VEILBENCH_DATA where they begin with it"
_PERSON = re.compile(r"[^\s/\\]+")


@dataclass(frozen=True)
class LfwPair:
    """One line of `pairs.txt`: two images, as (person, number)."""

    left: tuple[str, int]
    right: tuple[str, int]
    fold: int

    @property
    def genuine(self) -> bool:
        """Whether both show the same person."""
        return self.left[0] == self.right[0]


def parse_pairs(text: str, where: str) -> list[LfwPair]:
    """The pairs of a `pairs.txt`: a header "FOLDS N" (or "N" for one fold), then N genuine and N impostor lines a fold.

    Raises:
        DataError: a line is not what it should be; names the file and the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    try:
        header = [int(word) for word in lines[0][1]]
        folds, each = header if len(header) == 2 else (1, *header)
        if folds < 1 or each < 1:
            raise ValueError
    except (ValueError, IndexError, TypeError) as error:
        raise DataError(f"{where}:1: expected a header like '10 300' (folds, pairs of each kind a fold)") from error
    if len(lines) - 1 != 2 * folds * each:
        raise DataError(f"{where}: the header promises {2 * folds * each} pairs, and {len(lines) - 1} lines follow")
    pairs = []
    for index, (number, words) in enumerate(lines[1:]):
        fold, within = divmod(index, 2 * each)
        genuine = within < each
        try:
            person, first, *middle, last = words
            other = middle[0] if middle else person
            pair = LfwPair((person, int(first)), (other, int(last)), fold)
        except ValueError as error:
            raise DataError(f"{where}:{number}: not a pair: {' '.join(words)!r}") from error
        if len(words) != (3 if genuine else 4) or pair.genuine != genuine:
            kind = "NAME N M (the same person)" if genuine else "NAME N OTHER M (two people)"
            raise DataError(f"{where}:{number}: expected {kind}, got {' '.join(words)!r}")
        for name in (person, other):
            if not _PERSON.fullmatch(name) or name.startswith("."):
                raise DataError(f"{where}:{number}: {name!r} is not a person's folder")
        pairs.append(pair)
    return pairs


def image_name(image: tuple[str, int]) -> str:
    """("Ann", 2) as Ann/Ann_0002."""
    person, number = image
    return f"{person}/{person}_{number:04d}"


@dataclass(frozen=True, kw_only=True)
class Lfw(Dataset):
    """LFW, or any set laid out like it. Public faces: everybody who is in no judged pair."""

    images: str  #: folder of NAME/NAME_0001.jpg
    pairs: str  #: pairs.txt
    pairs_per_fold: int | None = None  #: judge the first so many genuine and as many impostor pairs of each fold

    def __post_init__(self) -> None:
        if self.pairs_per_fold is not None and self.pairs_per_fold < 1:
            raise ValueError("pairs_per_fold must be at least 1")

    def revision(self) -> str:
        """Over the pairs that are judged and every image's bytes."""
        return self._source(self._tree()).revision

    def size(self) -> tuple[int, int]:
        """Judged images, and the images of everybody else."""
        judged = {image_name(image) for pair in self._pairs() for image in (pair.left, pair.right)}
        people = {name.partition("/")[0] for name in judged}
        return len(judged), sum(name.partition("/")[0] not in people for name in self._tree())

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Test images (each once) with their pairs; public: the images of all other people."""
        tree = self._tree()
        source = self._source(tree)
        pixels, found = align(source, alignment, cache)
        people = tuple(name.partition("/")[0] for name in tree)
        every = FaceSet(pixels, np.arange(len(tree)), tuple(tree), people, found)
        where = {name: row for row, name in enumerate(tree)}
        chosen = self._pairs()
        for pair in chosen:
            for image in (pair.left, pair.right):
                if image_name(image) not in where:
                    raise DataError(f"{self.images}: {image_name(image)}.jpg is in {self.pairs} and not here; {_HOW}")
        judged = sorted({where[image_name(image)] for pair in chosen for image in (pair.left, pair.right)})
        position = {row: index for index, row in enumerate(judged)}
        test_people = {people[row] for row in judged}
        public = [row for row in range(len(tree)) if people[row] not in test_people]

        def side(images: Sequence[tuple[str, int]]) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
            return np.array([position[where[image_name(image)]] for image in images], dtype=np.int64)

        pairs = Pairs(
            left=side([pair.left for pair in chosen]),
            right=side([pair.right for pair in chosen]),
            genuine=np.array([pair.genuine for pair in chosen]),
            fold=np.array([pair.fold for pair in chosen]),
        )
        return Evaluation(every.subset(judged), pairs, every.subset(public))

    def _tree(self) -> dict[str, Path]:
        """Every image by name, sorted."""
        root = Path(self.images).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder of LFW images; {_HOW}")
        tree = {f"{path.parent.name}/{path.stem}": path for path in sorted(root.glob("*/*.jpg"))}
        if not tree:
            raise DataError(f"{root}: no NAME/NAME_0001.jpg in it; {_HOW}")
        return tree

    def _pairs_file(self) -> Path:
        path = Path(self.pairs).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such pairs file; {_HOW}")
        return path

    def _pairs(self) -> list[LfwPair]:
        path = self._pairs_file()
        try:
            pairs = parse_pairs(path.read_text(encoding="utf-8"), str(path))
        except UnicodeDecodeError as error:
            raise DataError(f"{path}: not a text file") from error
        if self.pairs_per_fold is None:
            return pairs
        taken: dict[tuple[int, bool], int] = {}
        chosen = []
        for pair in pairs:
            kind = (pair.fold, pair.genuine)
            taken[kind] = taken.get(kind, 0) + 1
            if taken[kind] <= self.pairs_per_fold:
                chosen.append(pair)
        return chosen

    def _source(self, tree: dict[str, Path]) -> ImageSource:
        paths = list(tree.values())
        protocol = repr(self._pairs()).encode()
        parts = [(name, hashlib.sha256(path.read_bytes()).digest()) for name, path in tree.items()]
        return ImageSource(list(tree), lambda i: read_image(paths[i]), revision_of([("pairs", protocol), *parts]))
