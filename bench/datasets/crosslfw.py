"""CALFW and CPLFW (Zheng, Deng, Hu 2017; Zheng, Deng 2018): LFW's people across ages and poses."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ALGORITHM, ImageSource, align, revision_of
from bench.datasets.copies import originals
from bench.datasets.decoding import read_image
from bench.datasets.photographs import examine, find_photographs, normal
from bench.datasets.protocols import balanced_folds, check_pairs
from bench.datasets.trait_labels import labels_revision, read_traits
from bench.errors import DataError
from bench.storage.files import read_text

_NAMED = re.compile(r"(.+?)_(\d+)(?:\.\w+)?")


def parse_pair_list(text: str, where: str) -> list[tuple[str, str, bool]]:
    """(image, image, genuine) of a `pairs_CALFW.txt`: two lines a pair, `NAME_0001.jpg FLAG`, flag 0 for impostors.

    Raises:
        DataError: a line is not what it should be, or a flag contradicts the names; names the file and the line.
    """
    lines = [(number, line.split()) for number, line in enumerate(text.splitlines(), 1) if line.strip()]
    images: list[tuple[int, str, bool]] = []
    for number, words in lines:
        if len(words) != 2 or not re.fullmatch(r"-?\d+", words[1]) or not _NAMED.fullmatch(words[0]):
            raise DataError(f"{where}:{number}: expected NAME_0001.jpg FLAG, got {' '.join(words)[:80]!r}")
        images.append((number, normal(words[0]), int(words[1]) != 0))
    if len(images) % 2 or not images:
        raise DataError(f"{where}: {len(images)} lines; two make a pair")
    pairs = []
    for (number, left, genuine), (_, right, other) in zip(images[::2], images[1::2], strict=True):
        if genuine != other:
            raise DataError(f"{where}:{number}: the two lines of a pair have flags that contradict each other")
        if genuine != (person_of(left) == person_of(right)):
            called = "genuine" if genuine else "an impostor pair"
            raise DataError(f"{where}:{number}: {left} and {right} are called {called}, which their names contradict")
        pairs.append((left, right, genuine))
    return pairs


def person_of(image: str) -> str:
    """Ann_Lee of Ann_Lee_0002.jpg."""
    named = _NAMED.fullmatch(image)
    return named[1] if named else image


@dataclass(frozen=True, kw_only=True)
class CrossLfw(Dataset):
    """CALFW or CPLFW: photographs in one folder, and their list of pairs. It leaves hardly any public faces."""

    images: str  #: the folder of NAME_0001.jpg, or one above it
    pairs: str  #: pairs_CALFW.txt or pairs_CPLFW.txt
    folds: int = 10  #: consecutive and equally large; dealt out anew where that leaves one kind of pair
    pairs_per_fold: int | None = None  #: judge the first so many genuine and as many impostor pairs of each fold
    aligned: bool = False  #: the images are cut out as the recogniser wants them: only resize, or use as they are
    traits: str = ""  #: CSV file of people's or photographs' traits, for attacks on these; empty: none

    def __post_init__(self) -> None:
        if self.folds < 1 or (self.pairs_per_fold or 1) < 1:
            raise ValueError("folds and pairs_per_fold must be at least 1")

    def _files(self) -> tuple[dict[str, Path], Mapping[str, object]]:
        root = Path(self.images).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder of images; set images")
        found = find_photographs(root)
        files: dict[str, Path] = {}
        for path in found.files.values():
            name = normal(path.name)
            if name in files:
                raise DataError(f"{path}: {files[name]} has the same name; set images to one folder of them")
            files[name] = path
        if not files:
            raise DataError(f"{root}: no NAME_0001.jpg in it{found.instead()}; set images")
        return files, found.notes

    def _chosen(self, files: Mapping[str, Path]) -> tuple[list[str], Pairs]:
        """The judged images in order, and their pairs."""
        path = Path(self.pairs).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such list of pairs; set pairs")
        listed = parse_pair_list(read_text(path), str(path))
        folds, _ = balanced_folds([genuine for *_, genuine in listed], self.folds, str(path))
        taken: dict[tuple[int, bool], int] = {}
        chosen = []
        for index, ((left, right, genuine), fold) in enumerate(zip(listed, folds.tolist(), strict=True)):
            taken[fold, genuine] = taken.get((fold, genuine), 0) + 1
            if self.pairs_per_fold is None or taken[fold, genuine] <= self.pairs_per_fold:
                chosen.append((left, right, genuine, fold, index))
        for left, right, *_, index in chosen:
            for image in (left, right):
                if image not in files:
                    raise DataError(f"{self.images}: {image} is in {path} (pair {index + 1}) and not here; set images")
        names = sorted({image for left, right, *_ in chosen for image in (left, right)})
        at = {name: place for place, name in enumerate(names)}
        pairs = Pairs(
            left=np.array([at[left] for left, *_ in chosen], dtype=np.int64),
            right=np.array([at[right] for _, right, *_ in chosen], dtype=np.int64),
            genuine=np.array([genuine for *_, genuine, _, _ in chosen]),
            fold=np.array([fold for *_, fold, _ in chosen], dtype=np.int64),
        )
        check_pairs(pairs, str(path), lambda i: f"{path}: pair {chosen[i][-1] + 1}")
        return names, pairs

    def revision(self) -> str:
        """Over the pairs that are judged and every image's bytes."""
        files, _ = self._files()
        names, pairs = self._chosen(files)
        protocol = np.stack([pairs.left, pairs.right, pairs.genuine, pairs.fold]).astype(np.int64).tobytes()
        images = revision_of(examine(files).parts())
        return revision_of([(images, protocol), ("\n".join(names), bytes([1 if self.aligned else ALGORITHM]))])

    def traits_revision(self) -> str:
        """Covers the bytes of the table of traits."""
        return labels_revision(self.traits)

    def known_people(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the judged and of all other people."""
        files, _ = self._files()
        judged = frozenset(person_of(name) for name in self._chosen(files)[0])
        return judged, frozenset(person_of(name) for name in files) - judged

    def size(self) -> tuple[int, int]:
        """Judged images, and the images of people who are in no pair."""
        files, _ = self._files()
        names, _ = self._chosen(files)
        people = {person_of(name) for name in names}
        return len(names), sum(person_of(name) not in people for name in files)

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Test images (each once) with their pairs; public: the images of all other people."""
        files, notes = self._files()
        names, pairs = self._chosen(files)
        judged = {person_of(name) for name in names}
        every = [*names, *sorted(name for name in files if person_of(name) not in judged)]
        own = {name: files[name] for name in every}
        examined = examine(own)
        paths = list(own.values())
        people = tuple(person_of(name) for name in every)
        traits, unused = read_traits(self.traits, every, people)
        source = ImageSource(
            every, lambda i: read_image(paths[i]), revision_of(examined.parts()), [str(path) for path in paths]
        )
        pixels, found = align(source, alignment, cache, aligned=self.aligned)
        behind = originals(source, examined.digests, cache)
        whole = FaceSet(pixels, np.arange(len(every)), tuple(every), people, found, behind, traits)
        test, public = whole.subset(range(len(names))), whole.subset(range(len(names), len(every)))
        return Evaluation(test, pairs, public, {**notes, **examined.converted, **unused})  # type: ignore[dict-item]
