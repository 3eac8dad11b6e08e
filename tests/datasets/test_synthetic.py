"""Synthetic people: the same by name, different from one another, where the protocol says, and faces to a detector."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.contracts import Alignment
from bench.datasets.face_cache import CHUNK, cached_faces
from bench.datasets.synthetic import Synthetic
from bench.synthesis import Photograph, develop, landmarks, render, sample_person, sample_shot

POINTS = ((34.0, 40.0), (62.0, 40.0), (48.0, 56.0), (37.0, 72.4), (59.6, 72.2))
FIVE = Alignment("five-point", (96, 96), points=POINTS)


def _photos(count: int, **how: float) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    people = [sample_person("test", i) for i in range(count)]
    return people, [sample_shot(p, "test", i, **how) for i, p in enumerate(people)]


def test_a_face_depends_on_its_name_and_not_on_its_neighbours() -> None:
    people, shots = _photos(5)
    together = render(people, shots, (64, 48), POINTS)
    assert together.shape == (5, 64, 48, 3) and together.dtype == np.uint8
    alone = render(people[3:4], shots[3:4], (64, 48), POINTS)
    assert np.abs(alone[0].astype(int) - together[3]).max() <= 1
    again = [sample_person("test", i) for i in range(5)]
    assert again == people and people[0] != people[1]
    assert render([], [], (32, 32)).shape == (0, 32, 32, 3)


def test_the_generator_has_not_drifted() -> None:
    """Raise `_GENERATOR` with these numbers: a changed face under an old revision would mix two data sets."""
    image = develop([Photograph("golden", 1, 0)], "", (96, 96), POINTS)[0]
    coarse = image.reshape(4, 24, 4, 24, 3).mean((1, 3, 4))
    assert np.abs(coarse - np.array(GOLDEN)).max() < 3, coarse.round(1).tolist()


GOLDEN = [
    [54.4, 132.4, 163.8, 110.1],
    [52.8, 147.4, 161.7, 141.2],
    [54.3, 141.8, 166.7, 152.6],
    [55.8, 98.6, 162.8, 101.9],
]


def test_true_points_lie_where_the_alignment_wants_them() -> None:
    people, shots = _photos(12, calm=0.0)
    found = landmarks(people, shots, (96, 96), POINTS)
    offset = np.linalg.norm(found - np.array(POINTS), axis=2)
    assert offset.mean() < 3.0, "faces are not all alike, but a similarity brings them near"
    eyes = found[:, 1] - found[:, 0]
    assert (eyes[:, 0] > 15).all(), "the image's left eye comes first"
    photo = landmarks(people, shots, (200, 160))
    assert ((photo > 0) & (photo < [160, 200])).all(), "a photograph holds the whole face"


def test_nuisance_moves_the_face_and_calm_does_not() -> None:
    person = sample_person("test", 1)
    wild = [sample_shot(person, "wild", i) for i in range(8)]
    calm = [sample_shot(person, "calm", i, calm=0.0) for i in range(8)]

    def spread(shots: list[dict[str, float]]) -> float:
        images = render([person] * len(shots), shots, (48, 48), [(x / 2, y / 2) for x, y in POINTS]).astype(float)
        return float(images[:, 12:36, 12:36].std(0).mean())

    assert spread(wild) > 2 * spread(calm)
    sides = [sample_shot(person, "side", i, pose="profile")["yaw"] for i in range(20)]
    assert all(np.pi / 3 <= abs(yaw) <= np.pi / 2 for yaw in sides) and min(sides) < 0 < max(sides)


@settings(max_examples=25, deadline=None)
@given(
    protocol=st.sampled_from(["frontal", "profile", "age"]),
    folds=st.integers(1, 12),
    each=st.integers(2, 9),
    public=st.integers(0, 60),
)
def test_protocols_are_balanced_and_their_folds_share_nobody(protocol: str, folds: int, each: int, public: int) -> None:
    data = Synthetic(protocol=protocol, folds=folds, pairs_per_fold=each, public=public)  # type: ignore[arg-type]
    images, lent = data.size()
    assert (images, lent) == (2 * folds * each, public)
    pairs, test = data._pairs(images), data._test()
    subject = np.array([photo.subject for photo in test])
    assert np.array_equal(subject[pairs.left] == subject[pairs.right], pairs.genuine)
    for fold in range(folds):
        here = pairs.fold == fold
        assert pairs.genuine[here].sum() == (~pairs.genuine[here]).sum() == each
        inside = set(subject[pairs.left[here]]) | set(subject[pairs.right[here]])
        outside = set(subject[pairs.left[~here]]) | set(subject[pairs.right[~here]])
        assert not inside & outside
    lenders = {photo.subject for photo in data._public()}
    assert not lenders & set(subject)
    assert len({photo.name for photo in (*test, *data._public())}) == images + public


def test_age_pairs_are_thirty_years_apart_and_training_people_are_nobody_elses() -> None:
    photos = Synthetic(protocol="age")._test()
    assert {photo.older for photo in photos} == {0, 30} and all(photo.young for photo in photos)
    taught = {photo.subject for photo in Synthetic(protocol="training", public=400)._public()}
    for protocol in ("frontal", "profile", "age"):
        judged = Synthetic(protocol=protocol)  # type: ignore[arg-type]
        assert not taught & {photo.subject for photo in (*judged._test(), *judged._public())}
    assert Synthetic(salt="other").revision() != Synthetic().revision() != Synthetic(public=601).revision()


def test_loading_renders_once_and_gives_what_its_size_says(tmp_path: Path) -> None:
    data = Synthetic(folds=2, pairs_per_fold=2, public=6, images_each=3)
    first = data.load(FIVE, tmp_path)
    assert (len(first.test), len(first.public or ())) == data.size() == (8, 6)
    made = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    again = data.load(FIVE, tmp_path)
    assert made == {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npy")}
    assert np.array_equal(first.test.pixels, again.test.pixels)
    margin = data.load(Alignment("margin", (40, 40), margin=4), tmp_path)
    assert margin.test.image_size == (40, 40)
    assert first.test.batch(slice(0, 2)).std() > 0.05, "a face, not a blank"


def test_a_kill_costs_the_last_chunks_and_not_the_rest(tmp_path: Path) -> None:
    asked: list[int] = []

    def chunks(first: int, stop: int | None) -> Iterator[tuple[NDArray[np.uint8], list[bool]]]:
        asked.append(first)
        for start in range(first, 20 * CHUNK, CHUNK):
            if start == stop:
                raise KeyboardInterrupt
            yield np.full((CHUNK, 2, 2, 3), start // CHUNK, np.uint8), [True] * CHUNK

    with pytest.raises(KeyboardInterrupt):
        cached_faces(tmp_path, 20 * CHUNK, (2, 2), lambda first: chunks(first, 12 * CHUNK), "test")
    pixels, found = cached_faces(tmp_path, 20 * CHUNK, (2, 2), lambda first: chunks(first, None), "test")
    assert asked == [0, 8 * CHUNK]
    assert found.all() and np.array_equal(pixels[::CHUNK, 0, 0, 0], np.arange(20))


def test_a_detector_of_real_faces_finds_them() -> None:
    from facenet_pytorch import MTCNN

    people, shots = _photos(40)
    images, true = render(people, shots, (250, 250)), landmarks(people, shots, (250, 250))
    _, probabilities, points = MTCNN(device="cpu").detect(list(images), landmarks=True)
    found = np.array([p[0] is not None and p[0] >= 0.9 for p in probabilities])
    assert found.mean() >= 0.95
    seen = np.stack([np.asarray(points[i][0], dtype=float) for i in np.flatnonzero(found)])
    between_eyes = np.linalg.norm(true[:, 1] - true[:, 0], axis=1)[found]
    error = np.linalg.norm(seen - true[found], axis=2) / between_eyes[:, None]
    assert np.median(error) < 0.09


def test_a_recogniser_of_real_faces_tells_them_apart(data: Path, tmp_path: Path) -> None:
    from bench.recognizers.mobilefacenet import MobileFaceNet
    from bench.train_recognizer import verification

    judge = MobileFaceNet(weights=str(data / "weights/mobilefacenet_casia_112x96.safetensors"))
    evaluation = Synthetic(folds=4, pairs_per_fold=10, public=0).load(judge.alignment, tmp_path)
    card = verification(judge.load(), evaluation, "synthetic-frontal")
    assert card["acc"] >= 0.9
    assert 0.5 < card["genuine_cosine"] < 0.85
    assert card["impostor_cosine"] < 0.4
