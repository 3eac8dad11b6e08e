"""Celebrities in Frontal-Profile (Sengupta et al. 2016): the official folders, folds and fiducial points."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs
from bench.datasets.align import ALGORITHM, ImageSource, KnownPoints, align, revision_of
from bench.datasets.cfp_lists import CfpPair, image_name, parse_fold, parse_list, parse_names, person_of, pose_of
from bench.datasets.copies import originals
from bench.datasets.decoding import REDUCED, TURNED, read_image, size_of
from bench.datasets.fiducials import RULE, five_points, parse_fiducials
from bench.datasets.photographs import Examined, examine, find_photographs
from bench.datasets.protocols import check_pairs
from bench.datasets.trait_labels import labels_revision, read_traits
from bench.errors import DataError
from bench.storage.files import read_text

_LISTS = ("Protocol/Pair_list_F.txt", "Protocol/Pair_list_P.txt")
_FOLDS = 10  #: folds of either protocol, as published
_GREY = (128, 128, 128)
_POLICY = 1  #: increment when `load` selects other images or frames them otherwise
_HOW = "set path to the folder that holds CFP's Data and Protocol"
_FEWER = "folds of the protocol that are not here"
_STRANGE = "images with another name than NNN/POSE/NN.jpg, left out"
_BY_DETECTOR = "photographs aligned by the points that MTCNN found"
_BY_FIDUCIALS = "photographs aligned by the data set's fiducial points"


@dataclass(frozen=True)
class _Tree:
    """What the folders hold."""

    files: Mapping[str, Path] = field(repr=False)  #: photographs by name (001/frontal/01), sorted
    people: Mapping[str, str] = field(repr=False)  #: the name of each image's person
    pairs: Sequence[CfpPair] = field(repr=False)  #: those to judge
    notes: Mapping[str, Sequence[str]] = field(repr=False)

    def judged(self) -> list[str]:
        """The images of the pairs, sorted."""
        return sorted({image for pair in self.pairs for image in (pair.left, pair.right)})

    def public(self) -> list[str]:
        """All images of people who are in no pair, sorted."""
        people = {person_of(image) for image in self.judged()}
        return [image for image in self.files if person_of(image) not in people]


@dataclass(frozen=True, kw_only=True)
class Cfp(Dataset):
    """CFP in its official layout. People who are in no judged pair are public, all of them without a protocol."""

    path: str  #: the folder with `Data` and `Protocol`
    #: The pairs to judge, of the folds that are there. none: no pairs, so that the set can lend all its faces.
    protocol: Literal["frontal-profile", "frontal-frontal", "none"] = "frontal-profile"
    #: Whose five points align a face: MTCNN's, the set's own (fiducials), or these where MTCNN finds none (fallback).
    alignment: Literal["mtcnn", "fiducials", "fallback"] = "fallback"
    #: Grey border around each photograph, as a share of its shorter side. The faces fill the photographs, and without a
    #: border MTCNN puts the eyes too high.
    border: float = 0.5
    pairs_per_fold: int | None = None  #: judge only the first so many genuine and as many impostor pairs of each fold
    traits: str = ""  #: CSV file of people's or photographs' traits, for attacks on these; empty: none

    def __post_init__(self) -> None:
        if self.pairs_per_fold is not None and self.pairs_per_fold < 1:
            raise ValueError("pairs_per_fold must be at least 1")
        if not 0 <= self.border <= 2:
            raise ValueError("border must be between 0 and 2")

    def revision(self) -> str:
        """Covers the pairs that are judged, every image's bytes and person, and the alignment."""
        tree = self._tree()
        parts = self._framed(tree, examine(tree.files))
        people = "\n".join(tree.people.values()).encode()
        by = f"{self.alignment} {_POLICY} {ALGORITHM}".encode()
        return revision_of([("pairs", repr(list(tree.pairs)).encode()), ("people", people), ("alignment", by), *parts])

    def traits_revision(self) -> str:
        """Covers the bytes of the table of traits."""
        return labels_revision(self.traits)

    def known_people(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names of the judged and of the public people."""
        tree = self._tree()
        judged, public = (frozenset(tree.people[image] for image in some) for some in (tree.judged(), tree.public()))
        return judged, public

    def size(self) -> tuple[int, int]:
        """The number of judged images, and of images of people who are in no judged pair."""
        tree = self._tree()
        return len(tree.judged()), len(tree.public())

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        """Returns the distinct test images with their pairs; the images of all other people are public."""
        tree = self._tree()
        examined = examine(tree.files)
        names, paths = tuple(tree.files), list(tree.files.values())
        places = [str(path) for path in paths]
        people = tuple(tree.people[name] for name in names)
        traits, unused = read_traits(self.traits, names, people)
        plain = ImageSource(names, lambda i: read_image(paths[i]), revision_of(examined.parts()), places)
        behind = originals(plain, examined.digests, cache)
        framed = ImageSource(
            names, lambda i: _bordered(plain.read(i), self.border), revision_of(self._framed(tree, examined)), places
        )
        known = self._known(tree, examined)
        pixels, found = align(framed, alignment, cache, known=known)
        notes = {**tree.notes, **examined.converted, **unused, **self._aligned_by(names, found)}
        seen = found if known is None else np.ones_like(found)
        every = FaceSet(pixels, np.arange(len(names)), names, people, seen, behind, traits)
        row = {name: index for index, name in enumerate(names)}
        judged, public = tree.judged(), tree.public()
        position = {name: index for index, name in enumerate(judged)}
        test, rest = (every.subset([row[name] for name in some]) for some in (judged, public))
        return Evaluation(test, _pairs(tree.pairs, position), rest, notes)

    def _aligned_by(self, names: Sequence[str], found: NDArray[np.bool_]) -> dict[str, Sequence[str]]:
        """Which photographs were aligned by whose points."""
        detected = np.zeros_like(found) if self.alignment == "fiducials" else found
        by_set = ~detected if self.alignment != "mtcnn" else np.zeros_like(found)
        kinds = {_BY_DETECTOR: detected, _BY_FIDUCIALS: by_set}
        return {
            why: [name for name, here in zip(names, some, strict=True) if here]
            for why, some in kinds.items()
            if some.any()
        }

    def _framed(self, tree: _Tree, examined: Examined) -> list[tuple[str, bytes]]:
        """What the aligned pixels depend on, besides the recogniser."""
        own = [] if self.alignment == "mtcnn" else [(f"points {RULE}", self._points(tree).tobytes())]
        return [("border", repr(float(self.border)).encode()), *own, *examined.parts()]

    def _points(self, tree: _Tree) -> NDArray[np.float64]:
        """The five points of every photograph, (N, 5, 2), in pixels of the photograph without a border."""
        root, points = Path(self.path).expanduser() / "Data/Fiducials", []
        for name in tree.files:
            file = root / f"{name}.txt"
            if not file.is_file():
                raise DataError(f'{file}: no such file, which alignment = "{self.alignment}" needs; {_HOW}')
            points.append(five_points(parse_fiducials(read_text(file), str(file)), pose_of(name)))
        return np.array(points)

    def _known(self, tree: _Tree, examined: Examined) -> KnownPoints | None:
        if self.alignment == "mtcnn":
            return None
        for how in (TURNED, REDUCED):
            if moved := examined.converted.get(f"images {how}"):
                raise DataError(
                    f"{tree.files[moved[0]]}: {how}, so that its fiducial points do not fit; use the published files, "
                    'or set alignment = "mtcnn"'
                )
        points = self._points(tree)
        for index, path in enumerate(tree.files.values()):
            points[index] += _width(size_of(path), self.border)
        return KnownPoints(points, detect=self.alignment == "fallback")

    def _tree(self) -> _Tree:
        """Finds photographs, people and pairs, and checks that they fit together.

        Raises:
            DataError: something is missing or malformed.
        """
        root = Path(self.path).expanduser()
        if not (root / "Data/Images").is_dir():
            raise DataError(f"{root}/Data/Images: no such folder; {_HOW}")
        found = find_photographs(root / "Data/Images", depth=3)
        files: dict[str, Path] = {}
        strange = []
        for place, path in found.files.items():
            name = image_name(place)
            if not name:
                strange.append(place)
                continue
            if name in files:
                raise DataError(f"{path}: {files[name]} is the same photograph by its name; keep only one of them")
            files[name] = path
        if not files:
            raise DataError(f"{root}/Data/Images: no NNN/frontal/NN.jpg in it{found.instead()}; {_HOW}")
        files = {name: files[name] for name in sorted(files)}
        notes = {**found.notes, **({_STRANGE: strange} if strange else {})}
        pairs, fewer = self._protocol(root)
        for pair in pairs:
            for name in (pair.left, pair.right):
                if name not in files:
                    raise DataError(f"{root}/Data/Images/{name}.jpg: no such photograph ({pair.place}); {_HOW}")
        position = {name: index for index, name in enumerate(files)}
        doubtful = check_pairs(_pairs(pairs, position), f"{root}/Protocol", lambda i: pairs[i].place)
        return _Tree(files, _people(root, files), pairs, {**notes, **fewer, **doubtful})

    def _protocol(self, root: Path) -> tuple[list[CfpPair], dict[str, Sequence[str]]]:
        """The pairs of the folds that are there, and which folds are not."""
        if self.protocol == "none":
            return [], {}
        lists = {
            pose: parse_list(_read(path), str(path), pose)
            for pose, path in (("frontal", root / _LISTS[0]), ("profile", root / _LISTS[1]))
            if pose in self.protocol
        }
        left, right = (lists[pose] for pose in self.protocol.split("-"))
        folder = root / "Protocol/Split" / ("FP" if self.protocol == "frontal-profile" else "FF")
        folds = sorted((p for p in folder.glob("*") if re.fullmatch(r"[0-9]+", p.name)), key=lambda p: int(p.name))
        if not folds:
            raise DataError(f"{folder}: no folds of the {self.protocol} protocol there; {_HOW}, or choose another one")
        pairs = []
        for fold, place in enumerate(folds):
            for file, genuine in (("same.txt", True), ("diff.txt", False)):
                path = place / file
                listed = parse_fold(_read(path), str(path), left, right, genuine, fold)
                pairs += listed[: self.pairs_per_fold]
        missing = sorted(set(range(1, _FOLDS + 1)) - {int(place.name) for place in folds})
        return pairs, {_FEWER: [f"{folder.name}/{number:02d}" for number in missing]} if missing else {}


def _people(root: Path, files: Mapping[str, Path]) -> dict[str, str]:
    """The name of each image's person."""
    path = root / "Data/list_name.txt"
    names = parse_names(_read(path), str(path))
    for image in files:
        if not 1 <= int(person_of(image)) <= len(names):
            raise DataError(f"{path}: {len(names)} names, so that {files[image]} has none; line N is person N")
    return {image: names[int(person_of(image)) - 1] for image in files}


def _read(path: Path) -> str:
    if not path.is_file():
        raise DataError(f"{path}: no such file; {_HOW}")
    return read_text(path)


def _width(size: tuple[int, int], border: float) -> int:
    """The border's width in pixels."""
    return int(border * min(size))


def _bordered(image: Image.Image, border: float) -> Image.Image:
    width = _width(image.size, border)
    if not width:
        return image
    framed = Image.new("RGB", (image.width + 2 * width, image.height + 2 * width), _GREY)
    framed.paste(image, (width, width))
    return framed


def _pairs(pairs: Sequence[CfpPair], position: Mapping[str, int]) -> Pairs:
    """The pairs as indices into the images."""
    return Pairs(
        left=np.array([position[pair.left] for pair in pairs], dtype=np.int64),
        right=np.array([position[pair.right] for pair in pairs], dtype=np.int64),
        genuine=np.array([pair.genuine for pair in pairs], dtype=bool),
        fold=np.array([pair.fold for pair in pairs], dtype=np.int64),
    )
