"""CFP's text files (Sengupta et al. 2016): lists of images, folds of pairs, and the people's names."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from bench.datasets.photographs import normal
from bench.errors import DataError

_IMAGE = re.compile(r"(?:.*/)?([0-9]{1,9})/(frontal|profile)/([0-9]{1,9})\.\w+")


@dataclass(frozen=True)
class CfpPair:
    """One line of a fold: two images by name (001/frontal/01)."""

    left: str
    right: str
    genuine: bool
    fold: int
    place: str = field(default="", repr=False, compare=False)  #: file and line; not part of the protocol


def person_of(image: str) -> str:
    """The number of the person, 001 of 001/frontal/01."""
    return image.partition("/")[0]


def parse_list(text: str, where: str, pose: str) -> dict[int, str]:
    """Images by number, from the lines `NUMBER PATH` of a `Pair_list_F.txt` or `Pair_list_P.txt`.

    Args:
        pose: of all images in the list, `frontal` or `profile`.

    Raises:
        DataError: a line is malformed, or a number occurs twice; names the file and the line.
    """
    images: dict[int, str] = {}
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        index, _, path = line.strip().partition(" ")
        image = image_name(path.strip())
        if not image or not re.fullmatch(r"[0-9]{1,9}", index) or pose_of(image) != pose:
            raise DataError(f"{where}:{number}: expected NUMBER .../NNN/{pose}/NN.jpg, got {line[:80]!r}")
        if int(index) in images:
            raise DataError(f"{where}:{number}: number {index} occurs twice")
        images[int(index)] = image
    if not images:
        raise DataError(f"{where}: no image in it")
    return images


def parse_fold(
    text: str, where: str, left: Mapping[int, str], right: Mapping[int, str], genuine: bool, fold: int
) -> list[CfpPair]:
    """The pairs of a `same.txt` or `diff.txt`: lines `A,B`, numbers in the lists of images.

    Args:
        left: the images by number that A refers to; `right`: those that B refers to.

    Raises:
        DataError: a line is malformed, refers to no image, or contradicts `genuine`; names the file and the line.
    """
    pairs = []
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        place = f"{where}:{number}"
        words = re.fullmatch(r"\s*([0-9]{1,9})\s*,\s*([0-9]{1,9})\s*", line)
        if not words:
            raise DataError(f"{place}: expected two numbers `A,B`, got {line[:80]!r}")
        one, other = left.get(int(words[1])), right.get(int(words[2]))
        if one is None or other is None:
            missing = words[1] if one is None else words[2]
            raise DataError(f"{place}: no image has number {missing} in the list of images")
        if (person_of(one) == person_of(other)) != genuine:
            kind = "of one person" if genuine else "of two people"
            raise DataError(f"{place}: {one} and {other} are listed as a pair {kind}, and are not")
        pairs.append(CfpPair(one, other, genuine, fold, place))
    if not pairs:
        raise DataError(f"{where}: no pair in it")
    return pairs


def parse_names(text: str, where: str) -> tuple[str, ...]:
    """The people's names, in NFC: line N is person N.

    Raises:
        DataError: a line is empty, or a name occurs twice; names the file and the line.
    """
    names = [normal(line.strip()) for line in text.rstrip().split("\n")]
    first: dict[str, int] = {}
    for number, name in enumerate(names, 1):
        if not name:
            raise DataError(f"{where}:{number}: expected a name; line N is person N")
        if first.setdefault(name, number) != number:
            raise DataError(f"{where}:{number}: {name!r} is also the name of line {first[name]}")
    return tuple(names)


def image_name(path: str) -> str:
    """001/frontal/01 of ../Data/Images/001/frontal/01.jpg; empty for another path."""
    found = _IMAGE.fullmatch(path)
    return f"{int(found[1]):03d}/{found[2]}/{int(found[3]):02d}" if found else ""


def pose_of(image: str) -> str:
    """The word frontal or profile of 001/frontal/01."""
    return image.split("/")[1]
