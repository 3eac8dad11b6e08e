"""Detections: once per photograph, whatever the crop; never trusted if damaged; never in the way."""

import logging
import sqlite3
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from bench.contracts import Alignment
from bench.datasets.align import ImageSource, align
from bench.datasets.align import _Cutter as Cutter
from bench.datasets.detections import Detections, Face
from bench.synthesis import render, sample_person, sample_shot

FACE = (np.array([1.5, 2.25, 30.0, 41.1]), np.arange(10, dtype=np.float64).reshape(5, 2) / 3)


class Detector:
    """Counts how often it is asked."""

    def __init__(self, face: Face | None = FACE) -> None:
        self.asked, self._face = 0, face

    def __call__(self) -> Face | None:
        self.asked += 1
        return self._face


def _photograph(shade: int, size: tuple[int, int] = (8, 6)) -> Image.Image:
    return Image.new("RGB", size, (shade, 0, 0))


def test_every_photograph_is_looked_at_once(tmp_path: Path) -> None:
    seen, nobody = Detector(), Detector(None)
    for known in (Detections(tmp_path / "new" / "file", "one"), Detections(tmp_path / "new" / "file", "one")):
        for _ in range(2):
            found = known.face(_photograph(1), seen)
            assert found is not None
            assert all(np.array_equal(one, other) for one, other in zip(found, FACE, strict=True))
            assert known.face(_photograph(2), nobody) is None
    assert (seen.asked, nobody.asked) == (1, 1)
    other = Detector()
    known.face(_photograph(1, (6, 8)), other)
    Detections(tmp_path / "new" / "file", "another detector").face(_photograph(1), other)
    assert other.asked == 2


def test_a_damaged_entry_is_made_again(tmp_path: Path) -> None:
    path, seen = tmp_path / "file", Detector()
    Detections(path, "one").face(_photograph(1), seen)
    with sqlite3.connect(path) as file:
        (face,) = file.execute("SELECT face FROM faces").fetchone()
        file.execute("UPDATE faces SET face = ?", (face[:-1] + bytes([face[-1] ^ 1]),))
    file.close()
    found = Detections(path, "one").face(_photograph(1), seen)
    assert seen.asked == 2 and found is not None and np.array_equal(found[1], FACE[1])


@pytest.mark.parametrize("broken", ["not a database", "folder"])
def test_a_file_that_cannot_be_used_is_said_and_costs_only_time(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, broken: str
) -> None:
    path, seen = tmp_path / "file", Detector()
    path.mkdir() if broken == "folder" else path.write_text("no database " * 1000)
    with caplog.at_level(logging.WARNING, "veilbench"):
        known = Detections(path, "one")
        for _ in range(2):
            assert known.face(_photograph(1), seen) is FACE
    assert seen.asked == 2 and caplog.text.count("faces are detected anew") == 1


def test_another_crop_of_the_same_photographs_detects_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    person = sample_person("somebody")
    image = Image.fromarray(render([person], [sample_shot(person, "once")], (200, 160))[0])
    source = ImageSource(["a"], lambda _: image, "revision")
    asked: list[int] = []
    detect = Cutter._detect

    def counted(self: Cutter, image: Image.Image) -> Face | None:
        asked.append(1)
        return detect(self, image)

    monkeypatch.setattr(Cutter, "_detect", counted)
    align(source, Alignment("margin", (40, 40)), tmp_path / "cache")
    small, found = align(source, Alignment("margin", (20, 20)), tmp_path / "cache")
    assert len(asked) == 1
    fresh, again = align(source, Alignment("margin", (20, 20)), tmp_path / "fresh")
    assert len(asked) == 2 and np.array_equal(small, fresh) and found.tolist() == again.tolist()
