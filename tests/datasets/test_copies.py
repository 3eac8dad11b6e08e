"""The same photograph under another name."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import encoded, picture, save, tree
from PIL import Image, ImageEnhance

from bench.contracts import Alignment, FaceSet, Originals
from bench.datasets.align import ImageSource
from bench.datasets.copies import copies, originals, thumbnail
from bench.datasets.decoding import decode
from bench.datasets.folder import ImageFolder
from bench.datasets.lfw import Lfw
from bench.datasets.public_faces import REST, PublicSources, copies_among, refuse_overlap
from bench.errors import UserError

SQUARE = Alignment("margin", (20, 20))


def _known(*files: bytes) -> Originals:
    pictures = [thumbnail(decode(data, "x")) for data in files]
    return Originals(
        tuple(f"file{i}" for i in range(len(files))),
        tuple(str(hash(data)).encode() for data in files),
        np.array(pictures, dtype=np.uint8).reshape(len(files), 16, 16),
    )


@given(st.integers(0, 10**6), st.sampled_from([60, 80, 95]), st.sampled_from([0.5, 1.0, 1.7]), st.booleans())
def test_a_copy_is_known_in_another_encoding_size_and_brightness(n: int, quality: int, scale: float, dim: bool) -> None:
    image = picture(n, (120, 90))
    other = image.resize((int(120 * scale), int(90 * scale)))
    other = ImageEnhance.Brightness(other).enhance(0.8) if dim else other
    assert copies(_known(encoded(image)), _known(encoded(other, "JPEG", quality=quality))) == [(0, 0)]


@given(st.lists(st.integers(0, 10**6), unique=True, min_size=2, max_size=12))
def test_other_pictures_are_no_copies(numbers: list[int]) -> None:
    half = len(numbers) // 2
    one, other = (_known(*(encoded(picture(n)) for n in some)) for some in (numbers[:half], numbers[half:]))
    assert copies(one, other) == []
    assert copies(other, other) == [(i, i) for i in range(len(numbers) - half)]


def test_pictures_that_show_nothing_are_copies_by_their_bytes_alone() -> None:
    grey, darker = (encoded(Image.new("RGB", (30, 30), (v, v, v))) for v in (120, 60))
    assert copies(_known(grey), _known(darker)) == []
    assert copies(_known(grey), _known(grey)) == [(0, 0)]
    assert copies(_known(), _known(grey)) == copies(_known(grey), _known()) == []


def test_thumbnails_are_kept_and_made_again_where_they_are_damaged(tmp_path: Path) -> None:
    reads: list[int] = []

    def read(index: int) -> Image.Image:
        reads.append(index)
        return picture(index)

    source = ImageSource(["a", "b"], read, "revision")
    digests = {"a": b"1", "b": b"2"}
    first = originals(source, digests, tmp_path)
    again = originals(source, digests, tmp_path)
    assert reads == [0, 1] and np.array_equal(first.thumbnails, again.thumbnails)
    next(tmp_path.glob("*.npy")).write_bytes(b"junk")
    assert np.array_equal(originals(source, digests, tmp_path).thumbnails, first.thumbnails)
    assert reads == [0, 1, 0, 1]


@pytest.fixture
def lfw(tmp_path: Path) -> Lfw:
    tree(tmp_path / "images", {"Ann": 2, "Bob": 1, "Cleo": 1, "Dan": 1, "Eve": 2})
    (tmp_path / "pairs.txt").write_text("1 1\nAnn 1 2\nAnn 1 Bob 1\n")
    return Lfw(images=str(tmp_path / "images"), pairs=str(tmp_path / "pairs.txt"))


def _divided(judged: Lfw, source: ImageFolder | None, cache: Path) -> tuple[set[str], dict[str, list[str]]]:
    found = judged.load(SQUARE, cache)
    public = found.public if source is None else source.load(SQUARE, cache).public
    assert public is not None
    seen = FaceSet(
        public.pixels, public.rows, public.names, public.subjects, np.ones(len(public), bool), public.originals
    )
    sides = PublicSources(*[REST if source is None else "other"] * 2).divide(found.test, found.test, lambda _: seen)
    return {*sides.defender.names, *sides.attacker.names}, {what: list(some) for what, some in sides.notes.items()}


def test_a_judged_photograph_among_the_people_in_no_pair_is_left_out_and_both_files_are_named(
    lfw: Lfw, tmp_path: Path
) -> None:
    root = tmp_path / "images"
    clean, notes = _divided(lfw, None, tmp_path / "cache")
    assert clean == {"Cleo/Cleo_0001", "Dan/Dan_0001", "Eve/Eve_0001", "Eve/Eve_0002"} and notes == {}
    save(root / "Zed/Zed_0001.jpg", Image.open(root / "Bob/Bob_0001.png"), quality=60)
    save(root / "Eve/Eve_0003.png", Image.open(root / "Cleo/Cleo_0001.png").resize((80, 80)))
    found, notes = _divided(lfw, None, tmp_path / "cache")
    assert found == clean
    assert notes == {
        "public photographs that are copies of judged ones, left out": [
            "images/Zed/Zed_0001.jpg = images/Bob/Bob_0001.png"
        ],
        "public photographs that are copies of another person's, left out": [
            "images/Eve/Eve_0003.png = images/Cleo/Cleo_0001.png"
        ],
    }


def test_another_set_that_lends_a_judged_photograph_is_refused_by_both_files(lfw: Lfw, tmp_path: Path) -> None:
    other = tree(tmp_path / "other", {"Fay": 1})
    save(other / "Gus/photo.png", picture(77))
    source = ImageFolder(path=str(other), aligned=True)
    save(other / "Fay/Fay_0001.png", picture(78))
    assert _divided(lfw, source, tmp_path / "cache")[0] == {"Fay/Fay_0001.png", "Gus/photo.png"}
    save(other / "Hal/holiday.jpg", Image.open(tmp_path / "images/Ann/Ann_0002.png"), quality=80)
    with pytest.raises(UserError, match="the result would be invalid") as caught:
        _divided(lfw, source, tmp_path / "cache")
    assert str(other / "Hal/holiday.jpg") in str(caught.value)
    assert str(tmp_path / "images/Ann/Ann_0002.png") in str(caught.value)


def test_judged_photographs_that_are_copies_of_one_another_are_said(lfw: Lfw, tmp_path: Path) -> None:
    root = tmp_path / "images"
    save(root / "Bob/Bob_0001.png", Image.open(root / "Ann/Ann_0001.png").resize((90, 90)))
    found = copies_among(lfw.load(SQUARE, tmp_path / "cache").test)
    assert found == {
        "judged photographs that are copies of one another": ["images/Bob/Bob_0001.png = images/Ann/Ann_0001.png"]
    }


def test_sets_that_tell_nothing_of_their_files_are_compared_by_name() -> None:
    plain = [
        FaceSet(np.zeros((1, 2, 2, 3), np.uint8), np.arange(1), (name,), (name,), np.ones(1, bool)) for name in "ab"
    ]
    refuse_overlap(test=plain[0], attacker=plain[1])
    assert copies_among(plain[0]) == {}
