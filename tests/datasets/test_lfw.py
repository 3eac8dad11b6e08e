"""LFW's protocol file and image tree."""

import string
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from bench.contracts import Alignment
from bench.datasets.lfw import Lfw, image_name, parse_pairs
from bench.errors import DataError

name = st.text(string.ascii_letters + "_-'", min_size=1, max_size=8)
number = st.integers(1, 9999)


@given(st.data(), st.integers(1, 3), st.integers(1, 4))
def test_what_is_written_is_read(data: st.DataObject, folds: int, each: int) -> None:
    lines, expected = [f"{folds}\t{each}"], []
    for fold in range(folds):
        for _ in range(each):
            person, a, b = data.draw(st.tuples(name, number, number))
            lines.append(f"{person}\t{a}\t{b}")
            expected.append(((person, a), (person, b), fold, True))
        for _ in range(each):
            one, other = data.draw(st.tuples(name, name).filter(lambda pair: pair[0] != pair[1]))
            a, b = data.draw(st.tuples(number, number))
            lines.append(f"{one}\t{a}\t{other}\t{b}")
            expected.append(((one, a), (other, b), fold, False))
    pairs = parse_pairs("\n".join(lines), "pairs.txt")
    assert [(p.left, p.right, p.fold, p.genuine) for p in pairs] == expected


@given(st.text(max_size=60))
def test_nonsense_is_refused_and_never_crashes(text: str) -> None:
    try:
        pairs = parse_pairs(text, "pairs.txt")
    except DataError as error:
        assert str(error).startswith("pairs.txt")
    else:
        assert pairs


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", "pairs.txt:1: expected a header"),
        ("10 many\n", "pairs.txt:1: expected a header"),
        ("1 1\nAnn 1 2\n", "the header promises 2 pairs, and 1 lines follow"),
        ("1 1\nAnn 1\nAnn 1 Bob 2\n", "pairs.txt:2: not a pair: 'Ann 1'"),
        ("1 1\nAnn 1 two\nAnn 1 Bob 2\n", "pairs.txt:2: not a pair"),
        ("1 1\nAnn 1 Bob 2\nAnn 1 2\n", "pairs.txt:2: expected NAME N M"),
        ("1 1\nAnn 1 2\nAnn 1 Ann 2\n", "pairs.txt:3: expected NAME N OTHER M"),
        ("1 1\n../etc 1 2\nAnn 1 Bob 2\n", "'../etc' is not a person's folder"),
        ("1 1\n..  1 2\nAnn 1 Bob 2\n", "'..' is not a person's folder"),
    ],
)
def test_a_bad_line_is_named(text: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_pairs(text, "pairs.txt")
    assert expected in str(caught.value)


def _tree(root: Path, people: dict[str, int]) -> None:
    for index, (person, images) in enumerate(people.items()):
        for image in range(1, images + 1):
            path = root / f"{image_name((person, image))}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (60, 60), (index * 40, image * 40, 90)).save(path)


@pytest.fixture
def lfw(tmp_path: Path) -> Lfw:
    _tree(tmp_path / "images", {"Ann": 2, "Bob": 2, "Cleo": 2, "Dan": 1, "Eve": 2})
    (tmp_path / "pairs.txt").write_text("2 1\nAnn 1 2\nAnn 1 Bob 2\nCleo 1 2\nCleo 2 Dan 1\n")
    return Lfw(images=str(tmp_path / "images"), pairs=str(tmp_path / "pairs.txt"))


def test_everybody_who_is_not_judged_is_public(lfw: Lfw, tmp_path: Path) -> None:
    found = lfw.load(Alignment("margin", (16, 16)), tmp_path / "cache")
    assert set(found.test.names) == {
        "Ann/Ann_0001",
        "Ann/Ann_0002",
        "Bob/Bob_0002",
        "Cleo/Cleo_0001",
        "Cleo/Cleo_0002",
        "Dan/Dan_0001",
    }
    assert found.public is not None
    assert set(found.public.names) == {"Eve/Eve_0001", "Eve/Eve_0002"}, "Bob's other image shows a judged person"
    assert found.test.subjects is not None
    for left, right, genuine in zip(found.pairs.left, found.pairs.right, found.pairs.genuine, strict=True):
        assert (found.test.subjects[left] == found.test.subjects[right]) == genuine
    assert found.pairs.fold.tolist() == [0, 0, 1, 1]
    assert not found.test.found.any(), "plain colours are no faces, and stay in the protocol all the same"
    assert lfw.size() == (6, 2)


def test_revision_follows_contents_and_protocol_not_places(lfw: Lfw, tmp_path: Path) -> None:
    first = lfw.revision()
    moved = tmp_path / "elsewhere"
    (tmp_path / "images").rename(moved)
    again = Lfw(images=str(moved), pairs=lfw.pairs)
    assert again.revision() == first
    Image.new("RGB", (60, 60)).save(moved / "Eve/Eve_0001.jpg")
    assert again.revision() != first


@pytest.mark.parametrize("missing", ["images", "pairs.txt", "images/Ann"])
def test_what_is_missing_is_named_with_what_to_do(lfw: Lfw, tmp_path: Path, missing: str) -> None:
    (tmp_path / missing).rename(tmp_path / "gone")
    with pytest.raises(DataError, match=r"set \[datasets.lfw\] images and pairs") as caught:
        lfw.load(Alignment("margin", (16, 16)), tmp_path / "cache")
    assert str(tmp_path) in str(caught.value)


def test_a_truncated_jpeg_is_named(lfw: Lfw, tmp_path: Path) -> None:
    path = tmp_path / "images/Bob/Bob_0002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"Bob_0002\.jpg: truncated or damaged image"):
        lfw.load(Alignment("margin", (16, 16)), tmp_path / "cache")


def test_the_projects_protocol_on_real_faces(data: Path) -> None:
    real = Lfw(images=str(data / "lfw/images"), pairs=str(data / "lfw/pairs.txt"), pairs_per_fold=100)
    assert real.size() == (874, 3530)
    pairs = real._pairs()
    assert len(pairs) == 600
    assert len({side[0] for pair in pairs for side in (pair.left, pair.right)}) == 528
    folds = [{s[0] for p in pairs if p.fold == f for s in (p.left, p.right)} for f in range(3)]
    assert not (folds[0] & folds[1] or folds[0] & folds[2] or folds[1] & folds[2])
    assert np.mean([pair.genuine for pair in pairs]) == 0.5
