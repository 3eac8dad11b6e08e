"""Which files below a folder are photographs, and what is said of the others."""

import os
import unicodedata
from pathlib import Path

import pytest
from pictures import encoded, picture, save, tree

from bench.contracts import Alignment
from bench.datasets.folder import ImageFolder
from bench.datasets.lfw import Lfw
from bench.datasets.photographs import (
    AGAIN,
    AGAIN_FILES,
    BROKEN,
    DEEPER,
    ELSEWHERE,
    HIDDEN,
    LINKED,
    LINKED_FILES,
    SPECIAL,
    examine,
    find_photographs,
)
from bench.errors import DataError

SQUARE = Alignment("margin", (20, 20))


def test_hidden_and_system_folders_are_never_data(tmp_path: Path) -> None:
    tree(tmp_path, {"Ann": 2})
    for junk in (".ipynb_checkpoints/Ann_0001.png", "Ann/._Ann_0001.png", "__MACOSX/Ann_0001.png", "@eaDir/a.png",
                 "Ann/.thumbs/Ann_0001.png", ".DS_Store"):  # fmt: skip
        save(tmp_path / junk, picture(1), format="PNG")
    for depth in (2, None):
        found = find_photographs(tmp_path, depth)
        assert list(found.files) == ["Ann/Ann_0001.png", "Ann/Ann_0002.png"]
        assert len(found.notes[HIDDEN]) == 6


def test_every_suffix_that_can_be_read_in_any_case_and_the_rest_is_counted(tmp_path: Path) -> None:
    for name in ("a.JPG", "b.jpeg", "c.PNG", "d.tif", "e.TIFF", "f.bmp", "g.webp", "h.pgm", "i.ppm", "j.gif", "k.jfif"):
        (tmp_path / "Ann").mkdir(exist_ok=True)
        (tmp_path / "Ann" / name).write_bytes(encoded(picture(1)))
    for name in ("Ann/n.HEIC", "Ann/o.heic", "Ann/p.txt", "Ann/q", "r.eps"):
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "flat.png").write_bytes(encoded(picture(2)))
    save(tmp_path / "Ann/deep/er.png", picture(3))
    found = find_photographs(tmp_path, 2)
    assert len(found.files) == 11
    counted = {why.partition(",")[0]: len(names) for why, names in found.notes.items()}
    assert counted == {".heic files": 2, ".txt files": 1, "suffixless files": 1, ".eps files": 1,
                       ELSEWHERE.partition(",")[0]: 1, DEEPER.partition(",")[0]: 1}  # fmt: skip
    assert ".heic files (Ann/n.HEIC)" in found.instead()


def test_links_are_followed_once_and_never_in_circles(tmp_path: Path) -> None:
    outside = tree(tmp_path / "outside", {"Zoe": 2})
    root = tree(tmp_path / "set", {"Ann": 1})
    (root / "Zoe").symlink_to(outside / "Zoe")
    (root / "Again").symlink_to(outside / "Zoe")
    (root / "Also Ann").symlink_to(root / "Ann")
    (root / "Ann" / "up").symlink_to(root)
    (root / "Ann" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    save(tmp_path / "lies elsewhere.png", picture(9))
    for name, target in (("2", tmp_path / "lies elsewhere.png"), ("3", root / "Ann/Ann_0001.png"),
                         ("4", tmp_path / "lies elsewhere.png"), ("5", outside / "Zoe/Zoe_0001.png")):  # fmt: skip
        (root / f"Ann/Ann_000{name}.png").symlink_to(target)
    found = find_photographs(root)
    assert list(found.files) == ["Again/Zoe_0001.png", "Again/Zoe_0002.png", "Ann/Ann_0001.png", "Ann/Ann_0002.png"]
    assert sorted(found.notes[AGAIN]) == ["Also Ann", "Ann/up", "Zoe"]
    assert found.notes[LINKED] == ["Again"]
    assert found.notes[BROKEN] == ["Ann/gone.png"]
    assert found.notes[LINKED_FILES] == ["Ann/Ann_0002.png"]
    assert found.notes[AGAIN_FILES] == ["Ann/Ann_0003.png", "Ann/Ann_0004.png", "Ann/Ann_0005.png"]
    assert "followed" not in found.instead()


def test_links_in_a_circle_and_what_is_no_file_stop_nothing(tmp_path: Path) -> None:
    tree(tmp_path, {"Ann": 1})
    (tmp_path / "Ann/self.png").symlink_to("self.png")
    (tmp_path / "Ann/one.png").symlink_to("other.png")
    (tmp_path / "Ann/other.png").symlink_to("one.png")
    os.mkfifo(tmp_path / "Ann/pipe.png")
    found = find_photographs(tmp_path, 2)
    assert list(found.files) == ["Ann/Ann_0001.png"]
    assert found.notes[BROKEN] == ["Ann/one.png", "Ann/other.png", "Ann/self.png"]
    assert found.notes[SPECIAL] == ["Ann/pipe.png"]


def test_a_linked_folder_whose_files_lie_hidden_below_is_seen(tmp_path: Path) -> None:
    tree(tmp_path / ".annex", {"Ann": 2})
    (tmp_path / "Ann").symlink_to(tmp_path / ".annex/Ann")
    assert list(find_photographs(tmp_path, 2).files) == ["Ann/Ann_0001.png", "Ann/Ann_0002.png"]


def test_names_are_one_in_both_unicode_forms_and_may_not_stand_side_by_side(tmp_path: Path) -> None:
    apart = unicodedata.normalize("NFD", "José")
    save(tmp_path / apart / f"{apart}_0001.png", picture(1))
    assert list(find_photographs(tmp_path, 2).files) == ["José/José_0001.png"]
    save(tmp_path / apart / "José_0001.png", picture(2))
    with pytest.raises(DataError, match="beside it, in another Unicode form"):
        find_photographs(tmp_path, 2)


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_folder_that_may_not_be_read_is_named(tmp_path: Path) -> None:
    tree(tmp_path, {"Ann": 1})
    (tmp_path / "Ann").chmod(0)
    with pytest.raises(DataError, match="Ann: cannot be read"):
        find_photographs(tmp_path)


def test_all_loaders_see_the_same_and_say_what_they_left_out(tmp_path: Path) -> None:
    root = tree(tmp_path / "set", {"Ann": 2, "Bob": 1, "Cleo": 1}, suffix=".JPG")
    save(root / "Cleo" / "._Cleo_0001.JPG", picture(9), format="PNG")
    save(root / "Cleo" / "Cleo_0002.png", picture(10).convert("RGBA"))
    (tmp_path / "pairs.txt").write_text("1 1\nAnn 1 2\nAnn 1 Bob 1\n")
    lfw = Lfw(images=str(root), pairs=str(tmp_path / "pairs.txt"))
    known, flat = ImageFolder(path=str(root)), ImageFolder(path=str(root), identities=False)
    assert lfw.size() == (3, 2)
    assert known.size() == flat.size() == (0, 5)
    for dataset in (lfw, known, flat):
        notes = dataset.load(SQUARE, tmp_path / "cache").notes
        assert notes[HIDDEN] == ["Cleo/._Cleo_0001.JPG"]
        alpha = next(names for what, names in notes.items() if "alpha channel" in what)
        assert [name.removesuffix(".png") for name in alpha] == ["Cleo/Cleo_0002"]


def test_a_converted_file_changes_the_revision_and_no_other_does(tmp_path: Path) -> None:
    plain = save(tmp_path / "a.png", picture(1))
    parts = examine({"a": plain}).parts()
    assert parts == [("a", parts[0][1])] and len(parts[0][1]) == 32, "as it was before there were conversions"
    save(plain, picture(1).convert("RGBA"))
    assert len(examine({"a": plain}).parts()[0][1]) > 32
