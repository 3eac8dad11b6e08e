"""Labeled Faces in the Wild (Huang et al. 2007): an image tree and View 2's `pairs.txt`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ALGORITHM, ImageSource, align, revision_of
from bench.datasets.copies import originals
from bench.datasets.decoding import read_image
from bench.datasets.photographs import AGAIN_FILES, Examined, examine, find_photographs, normal
from bench.datasets.protocols import check_pairs
from bench.datasets.trait_labels import labels_revision, read_traits
from bench.errors import DataError
from bench.storage.files import read_text

_HOW = "set images and pairs of this data set, or VEILBENCH_DATA if they use it"
_PERSON = re.compile(r"[^/\\]+")
_DOUBLE = "second files of one photograph, left out"
_OTHERWISE = "images with another name than NAME_0001.jpg, still used"
# Increment when `load` selects different images from the same files. Since 1, copies of judged photographs and
# photographs without a face are not public.
_POLICY = 1


@dataclass(frozen=True)
class LfwPair:
    """One line of `pairs.txt`: two images, as (person, number)."""

    left: tuple[str, int]
    right: tuple[str, int]
    fold: int
    line: int = field(default=0, repr=False, compare=False)  #: line number; not part of the protocol

    @property
    def genuine(self) -> bool:
        """Whether both images show the same person."""
        return self.left[0] == self.right[0]


def parse_pairs(text: str, where: str) -> list[LfwPair]:
    """Parses a `pairs.txt`: a header "FOLDS N" (or "N" for one fold), then N genuine and N impostor lines per fold.

    Columns are separated by tabs, or by spaces in lines without tabs. Names are normalised to Unicode NFC.

    Raises:
        DataError: a line is malformed; names the file and the line.
    """
    numbered = enumerate(re.split(r"\r\n|\r|\n", text), 1)
    lines = [(number, _words(line)) for number, line in numbered if line.strip()]
    try:
        header = [int(word) for word in lines[0][1]]
        folds, each = header if len(header) == 2 else (1, *header)
        if folds < 1 or each < 1:
            raise ValueError
    except (ValueError, IndexError, TypeError) as error:
        raise DataError(f"{where}:1: expected a header like '10 300' (folds, pairs of each kind per fold)") from error
    if len(lines) - 1 != 2 * folds * each:
        raise DataError(f"{where}: the header announces {2 * folds * each} pairs, but {len(lines) - 1} lines follow")
    pairs = []
    for index, (number, words) in enumerate(lines[1:]):
        fold, within = divmod(index, 2 * each)
        genuine = within < each
        try:
            person, first, *middle, last = words
            other = middle[0] if middle else person
            pair = LfwPair((person, int(first)), (other, int(last)), fold, number)
        except ValueError as error:
            hint = "; a name with a space needs tabs between the columns" if len(words) > (3 if genuine else 4) else ""
            raise DataError(f"{where}:{number}: not a pair: {' '.join(words)!r}{hint}") from error
        if len(words) != (3 if genuine else 4) or pair.genuine != genuine:
            kind = "NAME N M (the same person)" if genuine else "NAME N OTHER M (two people)"
            raise DataError(f"{where}:{number}: expected {kind}, got {' '.join(words)!r}")
        for name in (person, other):
            if not _PERSON.fullmatch(name) or name.startswith("."):
                raise DataError(f"{where}:{number}: {name!r} is not a person's folder")
        pairs.append(pair)
    return pairs


def _words(line: str) -> list[str]:
    """The columns of a line; a name may contain a space if tabs separate the columns."""
    by_tab = [word.strip() for word in line.strip().split("\t")]
    return [normal(word) for word in (by_tab if len(by_tab) > 2 and all(by_tab) else line.split())]


def image_name(image: tuple[str, int]) -> str:
    """Converts ("Ann", 2) to Ann/Ann_0002."""
    person, number = image
    return f"{person}/{person}_{number:04d}"


def _published(name: str, path: Path) -> bool:
    """Whether a file is called as LFW calls this image."""
    return normal(path.name) == f"{name.rpartition('/')[2]}.jpg"


@dataclass(frozen=True)
class _Tree:
    """The images below the folder."""

    files: Mapping[str, Path] = field(repr=False)  #: by name (Ann/Ann_0002), sorted
    doubles: Mapping[str, Path] = field(repr=False)  #: names that a second file also has, and that file
    notes: Mapping[str, Sequence[str]] = field(repr=False)


@dataclass(frozen=True, kw_only=True)
class Lfw(Dataset):
    """LFW, or any set with the same layout. All people who are in no judged pair are public faces."""

    images: str  #: folder of NAME/NAME_0001.jpg; other suffixes and NAME_0001_0 (from some alignment tools) also work
    pairs: str  #: pairs.txt
    pairs_per_fold: int | None = None  #: judge only the first so many genuine and as many impostor pairs of each fold
    traits: str = ""  #: CSV file of people's or photographs' traits, for attacks on these; empty: none

    def __post_init__(self) -> None:
        if self.pairs_per_fold is not None and self.pairs_per_fold < 1:
            raise ValueError("pairs_per_fold must be at least 1")

    def revision(self) -> str:
        """Covers the pairs that are judged and every image's bytes."""
        tree, chosen = self._checked()
        return revision_of([(self._revision(examine(tree.files), chosen), bytes([_POLICY, ALGORITHM]))])

    def traits_revision(self) -> str:
        """Covers the bytes of the table of traits."""
        return labels_revision(self.traits)

    def known_people(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the judged and of all other people."""
        tree, chosen = self._checked()
        judged = frozenset(person for pair in chosen for person, _ in (pair.left, pair.right))
        return judged, frozenset(name.partition("/")[0] for name in tree.files) - judged

    def size(self) -> tuple[int, int]:
        """The number of judged images, and of images of everybody else."""
        tree, chosen = self._checked()
        judged = {image_name(image) for pair in chosen for image in (pair.left, pair.right)}
        people = {name.partition("/")[0] for name in judged}
        return len(judged), sum(name.partition("/")[0] not in people for name in tree.files)

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Returns the distinct test images with their pairs; the images of all other people are public."""
        tree, chosen = self._checked()
        examined = examine(tree.files)
        names, paths = list(tree.files), list(tree.files.values())
        people = tuple(name.partition("/")[0] for name in names)
        traits, unused = read_traits(self.traits, names, people)
        revision = self._revision(examined, chosen)
        source = ImageSource(names, lambda i: read_image(paths[i]), revision, [str(path) for path in paths])
        pixels, found = align(source, alignment, cache)
        behind = originals(source, examined.digests, cache)
        every = FaceSet(pixels, np.arange(len(names)), tuple(names), people, found, behind, traits)
        where = {name: row for row, name in enumerate(names)}
        judged = sorted({where[image_name(image)] for pair in chosen for image in (pair.left, pair.right)})
        test_people = {people[row] for row in judged}
        public = [row for row in range(len(names)) if people[row] not in test_people]
        position = {names[row]: index for index, row in enumerate(judged)}
        notes = {**tree.notes, **examined.converted, **unused}
        return Evaluation(every.subset(judged), _pairs(chosen, position), every.subset(public), notes)

    def _tree(self) -> _Tree:
        """Finds every image by name."""
        root = Path(self.images).expanduser()
        if not root.is_dir():
            raise DataError(f"{root}: no such folder of LFW images; {_HOW}")
        found = find_photographs(root, depth=2)
        if not found.files:
            raise DataError(f"{root}: no NAME/NAME_0001.jpg in it{found.instead()}; {_HOW}")
        candidates: dict[str, list[Path]] = {}
        for name, path in found.files.items():
            person, _, file = name.partition("/")
            stem = file[: -len(path.suffix)]
            number = re.fullmatch(rf"{re.escape(person)}_(\d+)(_\d+)?", stem)
            known = image_name((person, int(number[1]))) if number else f"{person}/{stem}"
            candidates.setdefault(known, []).append(path)
        for known, paths in candidates.items():  # prefer the file with the standard name
            paths.sort(key=lambda path: (normal(path.stem) != known.rpartition("/")[2], path.name))
        names = sorted(candidates, key=lambda name: name.split("/"))
        doubles = {name: candidates[name][1] for name in names if len(candidates[name]) > 1}
        notes = dict(found.notes)
        first = {name: paths[0] for name, paths in candidates.items()}
        otherwise = [f"{path.parent.name}/{path.name}" for name, path in first.items() if not _published(name, path)]
        if otherwise:
            notes[_OTHERWISE] = otherwise
        if doubles:
            notes[_DOUBLE] = [str(path) for path in doubles.values()]
        return _Tree({name: candidates[name][0] for name in names}, doubles, notes)

    def _checked(self) -> tuple[_Tree, list[LfwPair]]:
        """The images and the judged pairs, checked for consistency."""
        tree, chosen = self._tree(), self._pairs()
        for pair in chosen:
            for image in (pair.left, pair.right):
                name, place = image_name(image), f"{Path(self.pairs).name}:{pair.line}"
                if name not in tree.files:
                    beside = [n for n in tree.files if n.startswith(f"{image[0]}/")]
                    there = f"; there are {', '.join(beside[:3])}" if beside else ""
                    if link := next((n for n in tree.notes.get(AGAIN_FILES, ()) if n.startswith(f"{name}.")), ""):
                        there = f"; {link} is a link to a photograph that already has a name"
                    missing = f"{name}.jpg is in {self.pairs} but not here{there} ({place})"
                    raise DataError(f"{self.images}: {missing}; {_HOW}")
                if name in tree.doubles:
                    raise DataError(
                        f"{place}: {name} could be {tree.files[name]} or {tree.doubles[name]}: keep only one of them"
                    )
        position = {name: index for index, name in enumerate(tree.files)}
        doubtful = check_pairs(_pairs(chosen, position), self.pairs, lambda i: f"{self.pairs}:{chosen[i].line}")
        return replace(tree, notes={**tree.notes, **doubtful}), chosen

    def _pairs(self) -> list[LfwPair]:
        path = Path(self.pairs).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such pairs file; {_HOW}")
        pairs = parse_pairs(read_text(path), str(path))
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

    def _revision(self, examined: Examined, chosen: list[LfwPair]) -> str:
        _refuse_same_bytes(chosen, examined, self.pairs)
        return revision_of([("pairs", repr(chosen).encode()), *examined.parts()])


def _pairs(chosen: Sequence[LfwPair], position: Mapping[str, int]) -> Pairs:
    """The pairs as indices into the images."""
    return Pairs(
        left=np.array([position[image_name(pair.left)] for pair in chosen], dtype=np.int64),
        right=np.array([position[image_name(pair.right)] for pair in chosen], dtype=np.int64),
        genuine=np.array([pair.genuine for pair in chosen]),
        fold=np.array([pair.fold for pair in chosen]),
    )


def _refuse_same_bytes(chosen: Sequence[LfwPair], examined: Examined, where: str) -> None:
    """Rejects a pair whose two files have the same bytes."""
    for pair in chosen:
        left, right = image_name(pair.left), image_name(pair.right)
        if examined.digests[left] == examined.digests[right]:
            raise DataError(f"{where}:{pair.line}: {left} and {right} are the same file; remove this pair")
