"""LFW's protocol file and image tree."""

import shutil
import string
import unicodedata
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import picture, save, tree
from PIL import Image

from bench.contracts import Alignment
from bench.datasets.lfw import Lfw, parse_pairs
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
        ("1 1\nAnn 1 2\n", "the header announces 2 pairs, but 1 lines follow"),
        ("1 1\nAnn 1\nAnn 1 Bob 2\n", "pairs.txt:2: not a pair: 'Ann 1'"),
        ("1 1\nAnn 1 two\nAnn 1 Bob 2\n", "pairs.txt:2: not a pair"),
        ("1 1\nAnn 1 Bob 2\nAnn 1 2\n", "pairs.txt:2: expected NAME N M"),
        ("1 1\nAnn 1 2\nAnn 1 Ann 2\n", "pairs.txt:3: expected NAME N OTHER M"),
        ("1 1\n../etc 1 2\nAnn 1 Bob 2\n", "'../etc' is not a person's folder"),
        ("1 1\n..  1 2\nAnn 1 Bob 2\n", "'..' is not a person's folder"),
        ("1 1\nAnn Lee 1 2\nAnn Lee 1 Bob 2\n", "a name with a space needs tabs between the columns"),
    ],
)
def test_a_bad_line_is_named(text: str, expected: str) -> None:
    with pytest.raises(DataError) as caught:
        parse_pairs(text, "pairs.txt")
    assert expected in str(caught.value)


def test_columns_divided_by_tabs_may_hold_spaces_and_any_line_ends() -> None:
    pairs = parse_pairs("1\t1\r\nAnn Lee\t1\t2\rAnn Lee\t1\tJosé\t2\n", "pairs.txt")
    assert [(p.left, p.right, p.line) for p in pairs] == [
        (("Ann Lee", 1), ("Ann Lee", 2), 2),
        (("Ann Lee", 1), ("José", 2), 3),
    ]


@pytest.fixture
def lfw(tmp_path: Path) -> Lfw:
    tree(tmp_path / "images", {"Ann": 2, "Bob": 2, "Cleo": 2, "Dan": 1, "Eve": 2}, suffix=".jpg")
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
    with pytest.raises(DataError, match="set images and pairs of this data set") as caught:
        lfw.load(Alignment("margin", (16, 16)), tmp_path / "cache")
    assert str(tmp_path) in str(caught.value)


def test_a_truncated_jpeg_is_named(lfw: Lfw, tmp_path: Path) -> None:
    path = tmp_path / "images/Bob/Bob_0002.jpg"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(DataError, match=r"Bob_0002\.jpg: truncated or damaged image"):
        lfw.load(Alignment("margin", (16, 16)), tmp_path / "cache")


def _renamed(root: Path, how: dict[str, str]) -> None:
    for old, new in how.items():
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)


def test_names_of_other_aligners_and_other_suffixes_give_the_same_faces(lfw: Lfw, tmp_path: Path) -> None:
    square = Alignment("margin", (16, 16))
    clean = lfw.load(square, tmp_path / "cache")
    _renamed(
        tmp_path / "images",
        {
            "Ann/Ann_0001.jpg": "Ann/Ann_0001_0.JPG",
            "Bob/Bob_0002.jpg": "Bob/Bob_2.jpeg",
            "Cleo/Cleo_0001.jpg": "Cleo/Cleo_00001.png",
        },
    )
    found = lfw.load(square, tmp_path / "cache")
    assert found.test.names == clean.test.names
    assert np.array_equal(found.test.pixels, clean.test.pixels)
    assert found.notes == {
        "images with another name than NAME_0001.jpg, still used": [
            "Ann/Ann_0001_0.JPG",
            "Bob/Bob_2.jpeg",
            "Cleo/Cleo_00001.png",
        ]
    }


def test_a_judged_image_that_is_a_link_to_another_is_named(lfw: Lfw, tmp_path: Path) -> None:
    root = tmp_path / "images/Ann"
    (root / "Ann_0002.jpg").unlink()
    (root / "Ann_0002.jpg").symlink_to(root / "Ann_0001.jpg")
    with pytest.raises(DataError, match=r"Ann/Ann_0002.jpg is a link to a photograph that already has a name"):
        lfw.size()


def test_a_tree_of_nothing_that_can_be_read_says_what_lies_there(lfw: Lfw, tmp_path: Path) -> None:
    for path in (tmp_path / "images").rglob("*.jpg"):
        path.rename(path.with_suffix(".npy"))
    with pytest.raises(DataError, match=r"no NAME/NAME_0001.jpg in it; it contains 9 \.npy files \(Ann/Ann_0001.npy\)"):
        lfw.revision()


def test_two_files_for_one_judged_image_are_refused_and_for_another_said(lfw: Lfw, tmp_path: Path) -> None:
    root = tmp_path / "images"
    save(root / "Eve/Eve_0001.png", picture(70))
    found = lfw.load(Alignment("margin", (16, 16)), tmp_path / "cache")
    assert found.notes["second files of one photograph, left out"] == [str(root / "Eve/Eve_0001.png")]
    save(root / "Ann/Ann_0001_0.png", picture(71))
    with pytest.raises(DataError, match=r"pairs.txt:2: Ann/Ann_0001 could be .*Ann_0001.jpg or .*Ann_0001_0.png"):
        lfw.revision()


def test_names_match_in_either_unicode_form(tmp_path: Path) -> None:
    tree(tmp_path / "images", {unicodedata.normalize("NFD", "José"): 2, "Bob": 1})
    (tmp_path / "pairs.txt").write_text("1 1\nJosé 1 2\nJosé 1 Bob 1\n")
    lfw = Lfw(images=str(tmp_path / "images"), pairs=str(tmp_path / "pairs.txt"))
    assert lfw.size() == (3, 0)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("1 1\nAnn 1 1\nAnn 1 Bob 2\n", r"pairs.txt:2: the pair compares an image with itself"),
        ("1 1\nAnn 1 2\nAnn 7 Bob 2\n", r"Ann/Ann_0007.jpg is in .*; there are Ann/Ann_0001, .*pairs.txt:3"),
        ("1 1\nAnn 1 3\nAnn 1 Bob 2\n", r"pairs.txt:2: Ann/Ann_0001 and Ann/Ann_0003 are the same file"),
    ],
)
def test_pairs_that_cannot_be_judged_are_refused_by_line_before_any_work(
    lfw: Lfw, tmp_path: Path, text: str, said: str
) -> None:
    (tmp_path / "pairs.txt").write_text(text)
    shutil.copy(tmp_path / "images/Ann/Ann_0001.jpg", tmp_path / "images/Ann/Ann_0003.jpg")
    with pytest.raises(DataError, match=said):
        lfw.revision()


def test_a_pair_that_stands_twice_is_said(lfw: Lfw, tmp_path: Path) -> None:
    (tmp_path / "pairs.txt").write_text("1 2\nAnn 1 2\nAnn 2 1\nAnn 1 Bob 2\nBob 1 Cleo 2\n")
    notes = lfw.load(Alignment("margin", (16, 16)), tmp_path / "cache").notes
    assert notes == {"pairs that occur twice in the list": [f"{tmp_path}/pairs.txt:3"]}


@pytest.mark.parametrize(
    ("encoding", "said"),
    [("utf-8-sig", ""), ("utf-16", "encoded as UTF-16; save it as UTF-8"), ("utf-16-le", "UTF-16 or not text"),
     ("utf-32", "UTF-32"), ("latin-1", r"pairs.txt:2: not UTF-8 \(byte 0xe9\)")],
)  # fmt: skip
def test_encodings_of_the_list(tmp_path: Path, encoding: str, said: str) -> None:
    tree(tmp_path / "images", {"José": 2, "Bob": 1})
    (tmp_path / "pairs.txt").write_bytes("1 1\nJosé 1 2\nJosé 1 Bob 1\n".encode(encoding))
    lfw = Lfw(images=str(tmp_path / "images"), pairs=str(tmp_path / "pairs.txt"))
    if not said:
        assert lfw.size() == (3, 0)
        return
    with pytest.raises(DataError, match=said):
        lfw.size()


def test_the_projects_protocol_on_real_faces(data: Path) -> None:
    real = Lfw(images=str(data / "lfw/images"), pairs=str(data / "lfw/pairs.txt"), pairs_per_fold=100)
    assert real.size() == (874, 3530)
    pairs = real._pairs()
    assert len(pairs) == 600
    assert len({side[0] for pair in pairs for side in (pair.left, pair.right)}) == 528
    folds = [{s[0] for p in pairs if p.fold == f for s in (p.left, p.right)} for f in range(3)]
    assert not (folds[0] & folds[1] or folds[0] & folds[2] or folds[1] & folds[2])
    assert np.mean([pair.genuine for pair in pairs]) == 0.5
