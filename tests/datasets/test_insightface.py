"""Pickled verification sets: read what is data, refuse what is not."""

import io
import os
import pickle
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pictures import picture
from PIL import Image

from bench.contracts import Alignment
from bench.datasets.insightface import InsightfaceBin, people_of, read_bin
from bench.errors import DataError


def _jpeg(colour: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (112, 112), (colour * 37 % 256, colour * 91 % 256, 5 * colour)).save(buffer, "JPEG")
    return buffer.getvalue()


def _set(path: Path, genuine: list[bool], *, arrays: bool = False, protocol: int = 4) -> Path:
    images: list[object] = []
    for index in range(len(genuine)):
        images += [_jpeg(2 * index), _jpeg(2 * index + 1)]
    if arrays:
        images = [np.frombuffer(image, dtype=np.uint8) for image in images]  # type: ignore[arg-type]
    path.write_bytes(pickle.dumps((images, genuine), protocol=protocol))
    return path


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
@pytest.mark.parametrize("arrays", [False, True])
def test_every_way_that_such_sets_are_written(tmp_path: Path, arrays: bool, protocol: int) -> None:
    path = _set(tmp_path / "set.bin", [True, False] * 10, arrays=arrays, protocol=protocol)
    found = InsightfaceBin(path=str(path), folds=5, aligned=True).load(
        Alignment("margin", (32, 32)), tmp_path / "cache"
    )
    assert len(found.pairs) == 20
    assert found.pairs.fold.tolist() == [i // 4 for i in range(20)]
    assert found.public is None
    assert len(set(found.test.names)) == len(found.test)
    assert found.test.found.all()
    assert found.test.subjects is not None
    for left, right, genuine in zip(found.pairs.left, found.pairs.right, found.pairs.genuine, strict=True):
        assert (found.test.subjects[left] == found.test.subjects[right]) == genuine


def test_limits_take_the_first_pairs_of_each_kind_and_change_the_revision(tmp_path: Path) -> None:
    path = _set(tmp_path / "set.bin", [True, False] * 10)
    whole, some = InsightfaceBin(path=str(path), folds=2), InsightfaceBin(path=str(path), folds=2, pairs_per_fold=3)
    pairs = some._read().pairs
    assert pairs.genuine.sum() == 6
    assert len(pairs) == 12
    assert whole.revision() != some.revision()


@pytest.mark.parametrize("labels", [["1", "0"], [b"1", b"0"], ["True", "false"], [1, 0], np.array([1.0, 0.0])])
def test_labels_are_read_as_they_were_meant(tmp_path: Path, labels: Sequence[object]) -> None:
    images = [_jpeg(i) for i in range(4)]
    assert read_bin(pickle.dumps((images, labels)), "x.bin")[1] == [True, False]


@pytest.mark.parametrize("label", ["yes", 2, -1, None, 0.5, b"\xff", [1]])
def test_what_is_no_label_is_refused_by_its_name(label: object) -> None:
    with pytest.raises(DataError, match=r"x.bin: not a verification set: .* among the labels, which are 1"):
        read_bin(pickle.dumps(([_jpeg(i) for i in range(4)], [True, label])), "x.bin")


def test_decoded_arrays_are_images_too(tmp_path: Path) -> None:
    arrays = [np.asarray(picture(i, (112, 112))) for i in range(3)]
    grey = np.asarray(picture(3, (112, 112)).convert("L"))
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([*arrays, grey], [True, False])))
    found = InsightfaceBin(path=str(path), folds=1, aligned=True).load(Alignment("margin", (112, 112)), tmp_path / "c")
    assert np.array_equal(found.test.pixels[:3], np.stack(arrays))
    assert np.array_equal(found.test.pixels[3, ..., 0], grey)
    for wrong in (arrays[0].astype(np.float32), arrays[0].transpose(2, 0, 1)):
        with pytest.raises(DataError, match=r"among the images, which are encoded files, or uint8 arrays"):
            read_bin(pickle.dumps(([wrong] * 2, [True])), "x.bin")


def test_folds_of_one_kind_are_dealt_out_anew_and_that_is_said(tmp_path: Path) -> None:
    path = _set(tmp_path / "set.bin", [True] * 10 + [False] * 10)
    found = InsightfaceBin(path=str(path), folds=5, aligned=True).load(Alignment("margin", (32, 32)), tmp_path / "c")
    for fold in range(5):
        assert sorted(found.pairs.genuine[found.pairs.fold == fold]) == [False, False, True, True]
    assert any("folds assigned again" in what for what in found.notes)


@pytest.mark.parametrize(
    ("genuine", "folds", "said"),
    [
        ([True] * 4, 2, r"set.bin: genuine pairs only; a threshold needs both kinds"),
        ([False] * 4, 2, r"set.bin: impostor pairs only"),
        ([True] * 4 + [False], 2, r"set.bin: 1 impostor pairs cannot make 2 folds; set folds to 1 or less"),
    ],
)
def test_protocols_without_a_threshold_are_refused_before_any_work(
    tmp_path: Path, genuine: list[bool], folds: int, said: str
) -> None:
    dataset = InsightfaceBin(path=str(_set(tmp_path / "set.bin", genuine)), folds=folds)
    for look in (dataset.revision, dataset.size):
        with pytest.raises(DataError, match=said):
            look()


def test_an_image_against_itself_is_refused_by_its_pair(tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([_jpeg(1), _jpeg(2), _jpeg(3), _jpeg(4), _jpeg(5), _jpeg(5)], [True, False, True])))
    with pytest.raises(DataError, match=r"set.bin: pair 3: the pair compares an image with itself"):
        InsightfaceBin(path=str(path), folds=1).revision()


class _Hostile:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, (f"touch {self.marker}",)


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_hostile_pickle_is_refused_and_not_run(tmp_path: Path, protocol: int) -> None:
    marker = tmp_path / "owned"
    hostile = pickle.dumps(([_Hostile(marker)], [True]), protocol=protocol)
    with pytest.raises(DataError, match=r"evil\.bin: refused: the pickle asks for '(posix|os)\.system'"):
        read_bin(hostile, "evil.bin")
    assert not marker.exists()


@pytest.mark.parametrize(
    "code",
    [
        b"cbuiltins\neval\n(S'1'\ntR.",
        b"cbuiltins\ngetattr\n(cbuiltins\nlist\nS'append'\ntR.",
        b"cnumpy\nload\n(S'x'\ntR.",
        b"cnumpy.core.multiarray\nfromfile\n(S'x'\ntR.",
        b"\x80\x04\x8c\x08builtins\x8c\x0dlist.__class__\x93.",
    ],
)
def test_roads_round_the_list_are_closed(code: bytes) -> None:
    with pytest.raises(DataError):
        read_bin(code, "evil.bin")


@given(st.binary(max_size=200))
def test_random_bytes_are_refused_politely(data: bytes) -> None:
    with pytest.raises(DataError, match=r"^x\.bin"):
        read_bin(data, "x.bin")


@pytest.mark.parametrize(
    "content", [1, [1], ([b"a"], [True]), ([b"a", "b"], [True]), ([b"a", None], [True]), ([], []), {"a": 1}]
)
def test_other_data_is_not_taken_for_a_set(content: object) -> None:
    with pytest.raises(DataError):
        read_bin(pickle.dumps(content), "x.bin")


def test_arrays_of_objects_do_not_pass(tmp_path: Path) -> None:
    with pytest.raises(DataError):
        read_bin(pickle.dumps(([np.array([b"a"], dtype=object)] * 2, [True])), "x.bin")


def test_a_damaged_image_and_a_missing_file_are_named(tmp_path: Path) -> None:
    path = tmp_path / "set.bin"
    path.write_bytes(pickle.dumps(([_jpeg(1), _jpeg(2)[:80], _jpeg(3), _jpeg(4)], [False, True])))
    with pytest.raises(DataError, match=r"set\.bin: image 1: truncated or damaged"):
        InsightfaceBin(path=str(path), folds=1).load(Alignment("margin", (32, 32)), tmp_path / "cache")
    with pytest.raises(DataError, match=r"none\.bin: no readable verification set"):
        InsightfaceBin(path=str(tmp_path / "none.bin")).revision()


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), max_size=12))
def test_people_are_what_genuine_pairs_connect(pairs: list[tuple[int, int]]) -> None:
    people = people_of(pairs, 10)
    assert all(people[a] == people[b] for a, b in pairs)
    reached = {frozenset({i}) for i in range(10)}
    for a, b in pairs:
        one = next(g for g in reached if a in g)
        other = next(g for g in reached if b in g)
        reached = (reached - {one, other}) | {one | other}
    assert len(set(people)) == len(reached)
