"""CFP's official layout: lists, folds, fiducial points, and which points align a face."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from cfp_tree import HALF, NAMES, official, written
from hypothesis import given
from hypothesis import strategies as st
from pictures import picture, save
from PIL import Image

from bench.checks.others import check_dataset
from bench.contracts import Alignment
from bench.datasets import align as aligning
from bench.datasets.align import ImageSource, KnownPoints, align, box_of
from bench.datasets.cfp import Cfp
from bench.datasets.cfp_lists import image_name, parse_fold, parse_list
from bench.datasets.fiducials import five_points, parse_fiducials
from bench.datasets.inspection import inspect
from bench.errors import DataError
from bench.recognizers.mobilefacenet import MobileFaceNet

SQUARE = Alignment("margin", (16, 16))


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return official(tmp_path / "cfp")


# ------------------------------------------------------------------------------------------------------- parsers


@given(st.dictionaries(st.integers(0, 10**6), st.tuples(st.integers(0, 999), st.integers(0, 99)), min_size=1))
def test_a_list_is_read_as_it_was_written(images: dict[int, tuple[int, int]]) -> None:
    text = "\n".join(f"{n} ../Data/Images/{p:03d}/frontal/{i:02d}.jpg" for n, (p, i) in images.items())
    expected = {n: f"{p:03d}/frontal/{i:02d}" for n, (p, i) in images.items()}
    assert parse_list(text, "list", "frontal") == expected


@given(st.lists(st.tuples(st.integers(1, 9), st.integers(1, 9)), min_size=1, max_size=20))
def test_a_fold_is_read_as_it_was_written(numbers: list[tuple[int, int]]) -> None:
    left = {n: f"{n:03d}/frontal/01" for n in range(1, 10)}
    right = {n: f"{n + 100:03d}/profile/01" for n in range(1, 10)}
    pairs = parse_fold("\n".join(f"{a},{b}" for a, b in numbers), "diff.txt", left, right, genuine=False, fold=3)
    assert [(p.left, p.right) for p in pairs] == [(left[a], right[b]) for a, b in numbers]
    assert {(p.genuine, p.fold) for p in pairs} == {(False, 3)}
    assert pairs[-1].place == f"diff.txt:{len(numbers)}"


@given(st.lists(st.tuples(*[st.floats(-1e4, 1e4)] * 2), min_size=30, max_size=30))
def test_fiducials_are_read_as_they_were_written(points: list[tuple[float, float]]) -> None:
    text = "\n".join(f"{x!r},{y!r}" for x, y in points) + "\n"
    assert np.array_equal(parse_fiducials(text, "x.txt"), np.array(points))


@given(st.text(max_size=80))
def test_nonsense_is_refused_by_file_and_never_crashes(text: str) -> None:
    images = {1: "001/frontal/01", 2: "002/frontal/01"}
    for parse in (
        lambda: parse_list(text, "x.txt", "profile"),
        lambda: parse_fold(text, "x.txt", images, images, genuine=False, fold=0),
        lambda: parse_fiducials(text, "x.txt"),
    ):
        try:
            assert parse()
        except DataError as error:
            assert str(error).startswith("x.txt:")


def test_a_path_gives_only_person_pose_and_number() -> None:
    assert image_name("../../../etc/001/frontal/2.jpg") == "001/frontal/02"
    assert image_name("C:\\001\\frontal\\02.jpg") == image_name("001/side/02.jpg") == image_name("/etc/passwd") == ""


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("Protocol/Pair_list_F.txt", "1 ../Data/Images/001/profile/01.jpg", r"_F.txt:1: expected NUMBER .*/frontal/"),
        ("Protocol/Pair_list_P.txt", "1 001/profile/01.jpg\n1 002/profile/01.jpg", r"_P.txt:2: number 1 occurs twice"),
        ("Protocol/Pair_list_P.txt", "\n", r"Pair_list_P.txt: no image in it"),
        ("Protocol/Split/FP/02/same.txt", "5,3\n5;3", r"02/same.txt:2: expected two numbers `A,B`, got '5;3'"),
        ("Protocol/Split/FP/02/same.txt", "5,77", r"02/same.txt:1: no image has number 77"),
        ("Protocol/Split/FP/02/same.txt", "5,4", r"02/same.txt:1: 003/frontal/01 and 004/profile/01 .* of one person"),
        ("Protocol/Split/FP/01/diff.txt", "\n1,1", r"01/diff.txt:2: .* listed as a pair of two people, and are not"),
        ("Protocol/Split/FP/01/diff.txt", "", r"01/diff.txt: no pair in it"),
        ("Data/list_name.txt", "Ann\n\nBob\nCleo\nDan", r"list_name.txt:2: expected a name"),
        ("Data/list_name.txt", "Ann\nBob\nAnn\nDan\nEve", r"list_name.txt:3: 'Ann' is also the name of line 1"),
        ("Data/list_name.txt", "Ann\nBob", r"list_name.txt: 2 names, so that .*003/frontal/01.jpg has none"),
        ("Data/Fiducials/002/profile/01.txt", written(HALF[:29]), r"002/profile/01.txt: 29 points; expected 30"),
        ("Data/Fiducials/002/profile/01.txt", "1,2\n3,nan", r"002/profile/01.txt:2: expected a point `x,y`"),
    ],
)  # fmt: skip
def test_a_malformed_file_is_named_with_its_line(root: Path, file: str, text: str, said: str) -> None:
    (root / file).write_text(text)
    with pytest.raises(DataError, match=said):
        Cfp(path=str(root)).revision()


@pytest.mark.parametrize(
    "missing",
    ["Data/Images", "Data/list_name.txt", "Protocol/Pair_list_F.txt", "Protocol/Split/FP",
     "Protocol/Split/FP/01/same.txt", "Data/Fiducials/001/frontal/01.txt"],
)  # fmt: skip
def test_what_is_missing_is_named_with_what_to_do(root: Path, tmp_path: Path, missing: str) -> None:
    (root / missing).rename(tmp_path / "gone")
    with pytest.raises(DataError, match="set path to the folder that holds CFP's Data and Protocol") as caught:
        Cfp(path=str(root)).revision()
    assert str(root / missing) in str(caught.value)


def test_a_missing_photograph_is_named_with_the_pair_that_needs_it(root: Path) -> None:
    (root / "Data/Images/003/profile/01.jpg").unlink()
    with pytest.raises(DataError, match=r"003/profile/01.jpg: no such photograph \(.*FP/02/same.txt:1\)"):
        Cfp(path=str(root)).size()
    with pytest.raises(DataError, match=r"fiducial|alignment|profile/01"):
        Cfp(path=str(root), alignment="fiducials").revision()


# ------------------------------------------------------------------------------------------------------- loading


def test_pairs_people_and_public_faces(root: Path, tmp_path: Path) -> None:
    cfp = Cfp(path=str(root), alignment="fiducials")
    found = cfp.load(SQUARE, tmp_path / "cache")
    assert found.test.subjects is not None and found.public is not None
    assert set(found.test.subjects) == set(NAMES[:4]) and set(found.public.subjects or ()) == {"Eve Fox"}
    assert cfp.size() == (len(found.test), len(found.public)) == (8, 3)
    assert cfp.known_people() == (frozenset(NAMES[:4]), frozenset({"Eve Fox"}))
    sides = [
        (found.test.names[a], found.test.names[b]) for a, b in zip(found.pairs.left, found.pairs.right, strict=True)
    ]
    assert sides[:4] == [
        ("001/frontal/01", "001/profile/01"), ("002/frontal/02", "002/profile/01"),
        ("001/frontal/01", "002/profile/01"), ("002/frontal/02", "001/profile/01"),
    ]  # fmt: skip
    assert found.pairs.genuine.tolist() == [True, True, False, False] * 2
    assert found.pairs.fold.tolist() == [0] * 4 + [1] * 4
    for (left, right), genuine in zip(sides, found.pairs.genuine, strict=True):
        assert (left[:3] == right[:3]) == genuine
    missing = found.notes["folds of the protocol that are not here"]
    assert missing == [f"FP/{fold:02d}" for fold in range(3, 11)]


def test_the_frontal_protocol_pairs_frontal_photographs(root: Path) -> None:
    tree = Cfp(path=str(root), protocol="frontal-frontal")._tree()
    assert {image.split("/")[1] for image in tree.judged()} == {"frontal"}
    assert [(p.left, p.right) for p in tree.pairs[:2]] == [
        ("001/frontal/01", "001/frontal/02"), ("001/frontal/02", "002/frontal/02"),
    ]  # fmt: skip


def test_without_a_protocol_everybody_is_public_and_no_list_of_pairs_is_needed(root: Path, tmp_path: Path) -> None:
    (root / "Protocol").rename(tmp_path / "gone")
    cfp = Cfp(path=str(root), protocol="none", alignment="fiducials")
    assert cfp.size() == (0, 15) and cfp.known_people() == (frozenset(), frozenset(NAMES))
    found = cfp.load(SQUARE, tmp_path / "cache")
    assert len(found.pairs) == len(found.test) == 0 and len(found.public or ()) == 15


def test_fewer_pairs_leave_more_people_public(root: Path) -> None:
    (root / "Protocol/Split/FP/02/same.txt").write_text("5,3\n7,4")
    (root / "Protocol/Split/FP/02/diff.txt").write_text("5,4\n9,3")
    assert Cfp(path=str(root)).known_people()[1] == frozenset()
    fewer = Cfp(path=str(root), pairs_per_fold=1)
    assert len(fewer._tree().pairs) == 4 and fewer.known_people()[1] == {"Eve Fox"}


def test_revision_covers_bytes_protocol_alignment_and_points_but_no_path(root: Path, tmp_path: Path) -> None:
    variants = [
        Cfp(path=str(root)), Cfp(path=str(root), protocol="frontal-frontal"), Cfp(path=str(root), protocol="none"),
        Cfp(path=str(root), alignment="mtcnn"), Cfp(path=str(root), alignment="fiducials"),
        Cfp(path=str(root), border=0.0), Cfp(path=str(root), pairs_per_fold=1),
    ]  # fmt: skip
    revisions = [cfp.revision() for cfp in variants]
    assert len(set(revisions)) == len(variants)
    moved = root.rename(tmp_path / "elsewhere")
    assert Cfp(path=str(moved)).revision() == revisions[0]
    (moved / "Data/Fiducials/001/frontal/01.txt").write_text(written(HALF + 1))
    assert Cfp(path=str(moved)).revision() != revisions[0]
    assert Cfp(path=str(moved), alignment="mtcnn").revision() == revisions[3], "it reads no fiducial points"
    save(moved / "Data/Images/005/frontal/01.jpg", picture(999, (200, 240)))
    assert Cfp(path=str(moved), alignment="mtcnn").revision() != revisions[3]


def test_strange_and_second_files(root: Path) -> None:
    save(root / "Data/Images/001/frontal/portrait.jpg", picture(70))
    notes = Cfp(path=str(root))._tree().notes
    assert notes["images with another name than NNN/POSE/NN.jpg, left out"] == ["001/frontal/portrait.jpg"]
    save(root / "Data/Images/001/frontal/1.png", picture(71))
    with pytest.raises(DataError, match="is the same photograph by its name; keep only one"):
        Cfp(path=str(root)).size()


def test_it_keeps_the_contract_of_datasets(root: Path) -> None:
    assert {verdict.status for verdict in check_dataset(Cfp(path=str(root)))} == {"passed"}

    @dataclass(frozen=True, kw_only=True)
    class Forgetful(Cfp):
        """Names one person too few."""

        def known_people(self) -> tuple[frozenset[str], frozenset[str]]:
            judged, public = super().known_people()
            return judged - {"Ann Lee"}, public

    wrong = [verdict for verdict in check_dataset(Forgetful(path=str(root))) if verdict.status == "failed"]
    assert len(wrong) == 1 and "'Ann Lee' in one" in str(wrong[0])


def test_inspect_knows_the_layout(root: Path) -> None:
    found = inspect(root)
    assert (found.people, found.images, found.sizes) == (5, 15, {"240 x 200": 15})
    assert found.section.splitlines()[:2] == ["[datasets.cfp]", 'plugin = "cfp"']


# ----------------------------------------------------------------------------------------------------- alignment


def test_the_half_face_gives_five_points_on_both_sides() -> None:
    expected = np.array([(56, 50), (144, 50), (100, 110), (65, 150), (135, 150)])
    assert np.allclose(five_points(HALF, "frontal"), expected)
    mirrored = np.stack([200 - HALF[:, 0], HALF[:, 1]], axis=1)  # the other half is the one that was marked
    assert np.allclose(five_points(mirrored, "frontal"), expected)


@given(st.floats(-40, 40), st.floats(0.2, 5), st.booleans())
def test_points_turn_and_grow_with_the_face(degrees: float, scale: float, mirrored: bool) -> None:
    turn = np.radians(degrees)
    matrix = scale * np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    half = np.stack([-HALF[:, 0], HALF[:, 1]], axis=1) if mirrored else HALF
    for pose in ("frontal", "profile"):
        assert np.allclose(five_points(half @ matrix.T, pose), five_points(half, pose) @ matrix.T, atol=1e-6)


def test_on_a_profile_the_hidden_half_lies_just_beyond_the_silhouette() -> None:
    eye, hidden, _, corner, hidden_corner = five_points(HALF, "profile")
    assert 100 < hidden[0] < 120 and 100 < hidden_corner[0] < 120
    assert np.allclose(eye, (56, 50)) and np.allclose(corner, (65, 150))


def test_a_box_by_points_surrounds_them_and_reaches_back_from_a_turned_nose() -> None:
    left, top, right, bottom = box_of(five_points(HALF, "frontal"))
    assert left < 30 and right > 170 and top < 25 and bottom > 180
    assert right - left == pytest.approx(195) and bottom - top == pytest.approx(260)
    assert box_of(five_points(HALF, "profile"))[[0, 2]].mean() < 85, "towards the ear"


def test_faces_by_known_points_have_their_eyes_in_place(tmp_path: Path) -> None:
    target = MobileFaceNet().alignment
    points = five_points(HALF, "frontal")
    image = Image.new("RGB", (220, 260), (60, 60, 60))
    for x, y in points[[0, 1, 3, 4]].astype(int):
        image.paste((255, 255, 255), (x - 4, y - 4, x + 4, y + 4))
    source = ImageSource(["a"], lambda _: image, "dots")
    pixels, found = align(source, target, tmp_path, known=KnownPoints(points[None], detect=False))
    assert found.tolist() == [True]
    bright = np.argwhere(pixels[0].min(axis=-1) > 200)[:, ::-1]
    wanted = np.array(target.points)[[0, 1, 3, 4]]
    nearest = np.linalg.norm(bright[:, None] - wanted[None], axis=2)
    assert nearest.min(axis=1).max() < 8 and nearest.min(axis=0).max() < 4


def test_known_points_help_out_where_no_face_is_found_and_have_a_cache_of_their_own(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class EverySecond:
        calls = 0

        def detect(self, images: list[Image.Image], landmarks: bool) -> object:
            EverySecond.calls += 1
            if EverySecond.calls % 2:
                return [None], [None], [None]
            return [np.array([[60.0, 60, 160, 190]])], [np.array([1.0])], [np.array([five_points(HALF, "frontal")])]

    monkeypatch.setattr(aligning, "_mtcnn", lambda smallest: EverySecond())
    cache = tmp_path / "cache"
    loaded = Cfp(path=str(root)).load(SQUARE, cache)
    detected, by_set = (
        loaded.notes[f"photographs aligned by {whose}"]
        for whose in ("the points that MTCNN found", "the data set's fiducial points")
    )
    assert len(detected) == 7 and len(by_set) == 8 and loaded.test.found.all()
    own = Cfp(path=str(root), alignment="fiducials").load(SQUARE, cache)
    row = {name: index for index, name in enumerate(Cfp(path=str(root))._tree().files)}
    for name in by_set:
        assert np.array_equal(loaded.test.pixels[row[name]], own.test.pixels[row[name]])
    EverySecond.calls = 0
    alone = Cfp(path=str(root), alignment="mtcnn").load(SQUARE, cache)
    seen = [name for name, found in zip(alone.test.names, alone.test.found, strict=True) if found]
    assert seen == [name for name in alone.test.names if name in detected]
    assert "photographs aligned by the data set's fiducial points" not in alone.notes


def test_points_of_another_photograph_are_refused_by_name(root: Path, tmp_path: Path) -> None:
    (root / "Data/Fiducials/002/profile/01.txt").write_text(written(HALF * 50))
    with pytest.raises(DataError, match=r"002/profile/01.jpg: the points .* do not fit this photograph"):
        Cfp(path=str(root), alignment="fiducials").load(SQUARE, tmp_path / "cache")


def test_a_photograph_that_is_turned_when_read_cannot_have_fiducials(root: Path, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    save(root / "Data/Images/002/profile/01.jpg", picture(5, (200, 240)), exif=exif)
    with pytest.raises(DataError, match=r"002/profile/01.jpg: turned upright.* do not fit"):
        Cfp(path=str(root)).load(SQUARE, tmp_path / "cache")
    Cfp(path=str(root), alignment="mtcnn").load(SQUARE, tmp_path / "cache")


@pytest.mark.parametrize("size", [(178, 218), (333, 417), (222, 295), (101, 97)])
def test_the_centre_of_any_size_of_picture_can_be_cut_out(tmp_path: Path, size: tuple[int, int]) -> None:
    for shape in ((112, 96), (112, 112), (160, 160), (13, 7)):
        alignment = Alignment("margin", shape)
        pixels, _ = align(ImageSource(["a"], lambda _: picture(1, size), f"{size}"), alignment, tmp_path, aligned=True)
        assert pixels.shape == (1, *shape, 3)


# ---------------------------------------------------------------------------------------------------- real data


def test_the_real_folds_and_the_agreement_of_both_kinds_of_points(data: Path, tmp_path: Path) -> None:
    real = Cfp(path=str(data / "cfp"))
    assert real.size() == (1753, 0)
    tree = real._tree()
    assert len(tree.pairs) == 2100 and len(set(tree.people.values())) == 150
    assert tree.notes["folds of the protocol that are not here"] == [f"FP/{fold:02d}" for fold in range(4, 11)]
    names = [name for name in tree.files if name.startswith("001/")][:10]
    points = np.array(
        [
            five_points(
                parse_fiducials((data / f"cfp/Data/Fiducials/{name}.txt").read_text(), name), name.split("/")[1]
            )
            for name in names
        ]
    )
    assert np.linalg.norm(points[:, :2].mean(1) - points[:, 3:].mean(1), axis=1).min() > 15
    with pytest.raises(DataError, match="no folds of the frontal-frontal protocol there"):
        Cfp(path=str(data / "cfp"), protocol="frontal-frontal").size()
    from facenet_pytorch import MTCNN

    detector = MTCNN(min_face_size=40, device="cpu")
    for name, own in zip(names[:3], points[:3], strict=True):
        width = 100
        photograph = Image.open(tree.files[name]).convert("RGB")
        framed = Image.new("RGB", (photograph.width + 2 * width, photograph.height + 2 * width), (128, 128, 128))
        framed.paste(photograph, (width, width))
        _, _, seen = detector.detect(framed, landmarks=True)
        unit = np.linalg.norm(own[:2].mean(0) - own[3:].mean(0))
        assert np.linalg.norm(np.asarray(seen[0], dtype=float) - width - own, axis=1).mean() < 0.2 * unit
