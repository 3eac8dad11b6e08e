"""Alignment: once, resumable, shared, verified."""

import json
import logging
import multiprocessing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from pictures import picture
from PIL import Image

from bench.contracts import Alignment
from bench.datasets import align as module
from bench.datasets import face_cache
from bench.datasets.align import ImageSource, align
from bench.datasets.decoding import read_image
from bench.datasets.folder import ImageFolder
from bench.datasets.lfw import Lfw
from bench.errors import DataError
from bench.recognizers.mobilefacenet import MobileFaceNet
from bench.synthesis import render, sample_person, sample_shot

SQUARE = Alignment("margin", (20, 20))


def _source(count: int, reads: list[int], fail_at: int | None = None) -> ImageSource:
    def read(index: int) -> Image.Image:
        if index == fail_at:
            raise DataError(f"image {index}: truncated")
        reads.append(index)
        return Image.new("RGB", (40, 30), (index, 0, 0))

    return ImageSource([str(i) for i in range(count)], read, "revision")


def test_work_done_before_a_failure_is_not_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(face_cache, "_KEPT", 1)
    reads: list[int] = []
    with pytest.raises(DataError, match="image 70"):
        align(_source(100, reads, fail_at=70), SQUARE, tmp_path, aligned=True)
    assert set(range(64)) <= set(reads)
    again: list[int] = []
    pixels, found = align(_source(100, again), SQUARE, tmp_path, aligned=True)
    assert min(again) == 64
    assert found.all()
    assert pixels.shape == (100, 20, 20, 3)
    assert pixels[:, 10, 10, 0].tolist() == list(range(100))
    third: list[int] = []
    align(_source(100, third), SQUARE, tmp_path, aligned=True)
    assert third == []


def test_a_damaged_cache_is_said_and_made_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    pixels, _ = align(_source(5, []), SQUARE, tmp_path, aligned=True)
    expected = np.array(pixels)
    del pixels
    path = next(tmp_path.glob("*/faces.npy"))
    content = bytearray(path.read_bytes())
    content[-1] ^= 255
    path.write_bytes(content)
    with caplog.at_level(logging.WARNING, "veilbench"):
        again, _ = align(_source(5, []), SQUARE, tmp_path, aligned=True)
    assert "damaged" in caplog.text
    assert np.array_equal(again, expected)


def _both(cache: str, log: str) -> None:
    reads: list[int] = []
    align(_source(64, reads), SQUARE, Path(cache), aligned=True)
    with open(log, "a") as file:
        file.write(f"{len(reads)}\n")


def test_two_runs_at_once_share_the_work(tmp_path: Path) -> None:
    log = tmp_path / "log"
    context = multiprocessing.get_context("spawn")
    runs = [context.Process(target=_both, args=(str(tmp_path / "cache"), str(log))) for _ in range(2)]
    for run in runs:
        run.start()
    for run in runs:
        run.join(120)
        assert run.exitcode == 0
    assert sorted(map(int, log.read_text().split())) == [0, 64]


def test_an_image_without_a_face_gives_its_centre_and_says_so(tmp_path: Path) -> None:
    picture = Image.new("RGB", (200, 100), (0, 0, 255))
    picture.paste((255, 0, 0), (50, 0, 150, 100))
    pixels, found = align(ImageSource(["a"], lambda i: picture, "x"), SQUARE, tmp_path)
    assert found.tolist() == [False]
    assert (pixels[0, :, 2:-2] == [255, 0, 0]).all()


def test_a_picture_too_small_for_the_detector_shows_no_face(tmp_path: Path) -> None:
    sizes = [(15, 15), (250, 18), (1, 1), (19, 400), (20, 20), (60, 60), (2000, 21)]
    pictures = [picture(i, size) for i, size in enumerate(sizes)]
    source = ImageSource([str(i) for i in range(len(sizes))], pictures.__getitem__, "sizes")
    pixels, found = align(source, SQUARE, tmp_path)
    assert pixels.shape == (7, 20, 20, 3) and not found.any()


def test_whatever_the_detector_raises_carries_the_files_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Failing:
        def detect(self, images: list[Image.Image], landmarks: bool) -> object:
            if any(image.getpixel((0, 0)) == (3, 0, 0) for image in images):
                raise RuntimeError("torch.cat(): expected a non-empty list of Tensors")
            return [None] * len(images), [None] * len(images), [None] * len(images)

    monkeypatch.setattr(module, "_mtcnn", lambda smallest: Failing())
    source = _source(6, [])
    with pytest.raises(DataError, match=r"^3: the face detector fails on this image \(RuntimeError: torch.cat"):
        align(source, SQUARE, tmp_path)
    with pytest.raises(DataError, match=r"^photos/3.jpg: the face detector fails"):
        align(replace(source, files=[f"photos/{i}.jpg" for i in range(6)]), SQUARE, tmp_path)


def test_a_face_does_not_depend_on_those_beside_it(tmp_path: Path) -> None:
    people = [sample_person("beside", i) for i in range(4)]
    shots = [sample_shot(person, "beside", i, calm=0.0) for i, person in enumerate(people)]
    pictures = [Image.fromarray(face) for face in render(people, shots, (200, 160))]
    order = [3, 0, 2]
    margin = Alignment("margin", (40, 40), margin=4)
    every, found = align(ImageSource(list("abcd"), pictures.__getitem__, "all"), margin, tmp_path)
    some, seen = align(ImageSource(list("dac"), lambda i: pictures[order[i]], "some"), margin, tmp_path)
    assert found.any() and np.array_equal(found[order], seen)
    assert np.array_equal(every[order], some)


def test_folders_with_and_without_identities(tmp_path: Path) -> None:
    for name in ("ann/1.png", "ann/2.jpg", "bob/1.png", "bob/notes.txt"):
        path = tmp_path / "set" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".txt":
            path.write_text("not an image")
        else:
            Image.new("RGB", (30, 30)).save(path)
    known = ImageFolder(path=str(tmp_path / "set"), aligned=True)
    public = known.load(SQUARE, tmp_path / "cache").public
    assert public is not None
    assert public.names == ("ann/1.png", "ann/2.jpg", "bob/1.png")
    assert public.subjects == ("ann", "ann", "bob")
    assert known.size() == (0, 3)
    assert known.revision() != ImageFolder(path=known.path, aligned=False).revision()
    assert known.revision() != ImageFolder(path=known.path, aligned=True, identities=False).revision()
    flat = ImageFolder(path=str(tmp_path / "set"), identities=False, limit=2, aligned=True)
    public = flat.load(SQUARE, tmp_path / "cache").public
    assert public is not None
    assert public.subjects is None
    assert len(public) == 2
    with pytest.raises(DataError, match="set identities = false"):
        ImageFolder(path=str(tmp_path / "set" / "ann")).revision()
    with pytest.raises(DataError, match="no such folder"):
        ImageFolder(path=str(tmp_path / "nowhere")).revision()


def test_real_faces_are_found_and_their_eyes_brought_into_place(data: Path, tmp_path: Path) -> None:
    from facenet_pytorch import MTCNN

    lfw = Lfw(images=str(data / "lfw/images"), pairs=str(data / "lfw/pairs.txt"))
    paths = list(lfw._tree().files.values())[:200:20]
    source = ImageSource([p.stem for p in paths], lambda i: read_image(paths[i]), "some")
    pixels, found = align(source, MobileFaceNet().alignment, tmp_path)
    assert found.all()
    # MTCNN wants some room around a face.
    framed = [Image.fromarray(np.pad(p, ((40, 40), (40, 40), (0, 0)), mode="edge")) for p in pixels]
    _, _, points = MTCNN(min_face_size=40).detect(framed, landmarks=True)
    seen = np.array([p[0] for p in points if p is not None]) - 40
    assert len(seen) >= 8
    target = np.array(MobileFaceNet().alignment.points)
    assert np.abs(seen.mean(0) - target).max() < 4
    margin, found = align(source, Alignment("margin", (160, 160), margin=14), tmp_path)
    assert found.all()
    assert margin.shape == (10, 160, 160, 3)
    manifest = json.loads(next(tmp_path.glob("*/manifest.json")).read_text())
    assert manifest["found"] == [True] * 10
