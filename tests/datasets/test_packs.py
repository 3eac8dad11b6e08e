"""Faces in RecordIO, parquet and tar shards: read by index, the same faces as a folder gives, damage named."""

from __future__ import annotations

import io
import json
import struct
import tarfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support import Cli
from toys.blobs import draw

from bench.contracts import Alignment
from bench.datasets.crosslfw import CrossLfw, parse_pair_list
from bench.datasets.folder import ImageFolder
from bench.datasets.inspection import inspect
from bench.datasets.packs import DAMAGED, UNKNOWN, PackedFaces
from bench.datasets.parquet import Parquet
from bench.datasets.recordio import RecordIo
from bench.datasets.shards import TarShards
from bench.errors import DataError

SIZE = (112, 112)
PLAIN = Alignment("margin", SIZE)
MAGIC = struct.pack("<I", 0xCED7230A)


def encoded(person: int, image: int, fmt: str = "png") -> bytes:
    out = io.BytesIO()
    Image.fromarray(draw(person, image, SIZE)).save(out, fmt)
    return out.getvalue()


IMAGES = [(person, image, encoded(person, image)) for person in range(4) for image in range(3)]


def record(label: float | list[float], data: bytes, parts: bool = True) -> bytes:
    """As MXNet writes one: taken apart where the data holds the magic number on a multiple of four."""
    labels = label if isinstance(label, list) else []
    head = struct.pack("<IfQQ", len(labels), 0.0 if labels else label, 0, 0)  # type: ignore[arg-type]
    whole = head + struct.pack(f"<{len(labels)}f", *labels) + data
    cuts = [i for i in range(0, len(whole) - 3, 4) if whole[i : i + 4] == MAGIC] if parts else []
    pieces, start = [], 0
    for cut in cuts:
        pieces.append(whole[start:cut])
        start = cut + 4
    pieces.append(whole[start:])
    out = b""
    for number, piece in enumerate(pieces):
        flag = 0 if len(pieces) == 1 else 1 if number == 0 else 3 if number == len(pieces) - 1 else 2
        out += MAGIC + struct.pack("<I", flag << 29 | len(piece)) + piece + bytes(-len(piece) % 4)
    return out


def write_rec(folder: Path, images: list[tuple[int, bytes]], head: bool = True, index: bool = True) -> Path:
    """insightface's layout: record 0 tells where the images end, people follow behind them."""
    folder.mkdir(parents=True, exist_ok=True)
    out, lines, count = b"", [], len(images)
    people = sorted({person for person, _ in images})
    records = [record([count + 1.0, count + 1.0 + len(people)], b"")] if head else []
    records += [record(float(person), data) for person, data in images]
    records += [record([1.0, 2.0], b"") for _ in people] if head else []
    for key, one in enumerate(records, 0 if head else 1):
        lines.append(f"{key}\t{len(out)}\n")
        out += one
    path = folder / "train.rec"
    path.write_bytes(out)
    if index:
        path.with_suffix(".idx").write_text("".join(lines))
    return path


def write_folder(folder: Path) -> Path:
    for key, (person, _, data) in enumerate(IMAGES, 1):
        path = folder / f"{person:07d}" / f"{key:08d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    return folder


def pairs_of(images: list[tuple[int, int, bytes]]) -> list[tuple[int, bytes]]:
    return [(person, data) for person, _, data in images]


def write_parquet(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for number, some in enumerate((IMAGES[:7], IMAGES[7:])):
        images = [{"bytes": data, "path": "x.png"} for *_, data in some]
        table = pa.table({"image": images, "label": [person for person, *_ in some], "split": ["a"] * len(some)})
        pq.write_table(table, folder / f"part-{number}.parquet", row_group_size=3)
    return folder


def write_tar(path: Path, members: list[tuple[str, bytes]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, data in members:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def faces(dataset: Any, cache: Path) -> tuple[np.ndarray, tuple[str, ...] | None]:
    found = dataset.load(PLAIN, cache).public
    return np.asarray(found.pixels)[found.rows], found.subjects


def groups(people: tuple[str, ...] | None) -> list[int]:
    assert people is not None
    return [people.index(person) for person in people]


def every(folder: Path) -> dict[str, PackedFaces]:
    """The same twelve images of four people in every format."""
    write_rec(folder / "rec", pairs_of(IMAGES))
    write_parquet(folder / "parquet")
    write_tar(folder / "tree/a.tar", [(f"p{person}/{image}.png", data) for person, image, data in IMAGES])
    keyed = [(f"{i:04d}", person, data) for i, (person, _, data) in enumerate(IMAGES)]
    for number, some in enumerate((keyed[:5], keyed[5:])):
        members = [(f"{key}.{kind}", data if kind == "png" else str(person).encode())
                   for key, person, data in some for kind in ("cls", "png")]  # fmt: skip
        write_tar(folder / f"web/{number:03d}.tar", members)
    described = [(f"{key}.{kind}", data if kind == "png" else json.dumps({"caption": "", "identity": person}).encode())
                 for key, person, data in keyed for kind in ("png", "json")]  # fmt: skip
    write_tar(folder / "json/0.tar", described)
    return {
        "rec": RecordIo(path=str(folder / "rec")),
        "parquet": Parquet(path=str(folder / "parquet"), aligned=True),
        **{n: TarShards(path=str(folder / n), aligned=True) for n in ("tree", "web", "json")},
    }


def test_every_format_gives_the_faces_of_the_folder_as_they_are(tmp_path: Path) -> None:
    folder = ImageFolder(path=str(write_folder(tmp_path / "folder")), aligned=True)
    wanted, people = faces(folder, tmp_path / "cache")
    drawn = np.stack([draw(person, image, SIZE) for person, image, _ in IMAGES])
    assert np.array_equal(wanted, drawn)  # 112 x 112 for a recogniser of 112 x 112: not a bit is changed
    for kind, dataset in every(tmp_path).items():
        found, owners = faces(dataset, tmp_path / "cache")
        assert np.array_equal(found, wanted), kind
        assert groups(owners) == groups(people), kind
        assert dataset.size() == (0, 12) and dataset.revision() == dataset.revision()
        few = type(dataset)(path=dataset.path, aligned=True, limit=3, images_each=1)  # type: ignore[call-arg]
        assert groups(faces(few, tmp_path / "cache")[1]) == [0, 1, 2], kind
        assert few.revision() != dataset.revision()
    rec = RecordIo(path=str(tmp_path / "rec")).load(PLAIN, tmp_path / "cache").public
    plain = folder.load(PLAIN, tmp_path / "cache").public
    assert rec is not None and plain is not None and rec.names == plain.names and rec.subjects == plain.subjects


def test_a_rec_is_read_with_and_without_index_and_header(tmp_path: Path) -> None:
    images = pairs_of(IMAGES)
    # An image that holds the magic number where a record could begin is taken apart and put together again.
    person, data = images[4]
    at = (len(data) + 24 + 3) // 4 * 4 - 24
    images[4] = (person, data + bytes(at - len(data)) + MAGIC + b"tail" + MAGIC)
    assert struct.pack("<I", 1 << 29 | (24 + at))[3] >> 5 == 1
    names = []
    for number, (head, index) in enumerate([(True, True), (True, False), (False, True)]):
        path = write_rec(tmp_path / str(number), images, head, index)
        opened = RecordIo(path=str(path)).open()
        assert [opened.read(i).data for i in range(len(opened))] == [data for _, data in images]
        names.append([opened.read(i).name for i in range(len(opened))])
    assert names[0] == names[1] == names[2] and names[0][-1] == "0000003/00000012.jpg"


def test_damaged_records_are_counted_and_named(tmp_path: Path) -> None:
    path = write_rec(tmp_path, pairs_of(IMAGES))
    raw = bytearray(path.read_bytes())
    offsets = [int(line.split()[1]) for line in path.with_suffix(".idx").read_text().splitlines()]
    raw[offsets[2]] ^= 1  # its beginning
    raw[offsets[5] + 8 + 24 : offsets[5] + 60] = bytes(28)  # its image
    raw[offsets[7] + 12 : offsets[7] + 16] = struct.pack("<f", float("nan"))  # its label
    path.write_bytes(raw)
    dataset = RecordIo(path=str(path))
    notes = dataset.load(PLAIN, tmp_path / "cache").notes
    assert dataset.size() == (0, 9) and len(notes[DAMAGED]) == 3
    expected = ("record 2: damaged (it does not begin", "record 5", "record 7: damaged (its label")
    for text, said in zip(notes[DAMAGED], expected, strict=True):
        assert said in text
    path.write_bytes(raw[: offsets[6] + 100])
    with pytest.raises(DataError, match=r"train.idx:8: not a record's number and its place in train\.rec"):
        dataset.size()
    path.with_suffix(".idx").unlink()
    walked = RecordIo(path=str(path))
    assert walked.size() == (0, 1)
    (why,) = [why for why in walked.scanned().notes if "out of reach" in why]
    assert "from byte" in walked.scanned().notes[why][0]


@settings(max_examples=80, deadline=None)
@given(changes=st.lists(st.tuples(st.integers(0, 3000), st.integers(0, 255)), max_size=6), cut=st.integers(0, 3000))
def test_any_damage_to_a_rec_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, changes: list[tuple[int, int]], cut: int
) -> None:
    folder = tmp_path_factory.getbasetemp() / "damaged"
    path = write_rec(folder, [(p, b"\xff\xd8" + bytes(100)) for p in range(20)], index=False)
    raw = bytearray(path.read_bytes()[: max(cut, 9)])
    for place, value in changes:
        raw[place : place + 1] = bytes([value]) if place < len(raw) else b""
    path.write_bytes(raw)
    try:
        opened = RecordIo(path=str(path)).open()
    except DataError:
        return
    for index in range(len(opened)):
        try:
            assert isinstance(opened.read(index).data, bytes)
        except DataError as error:
            assert "train.rec: record" in str(error)


def test_what_is_no_pack_is_named(tmp_path: Path) -> None:
    for name in ("train.rec", "a.parquet", "a.tar"):
        (tmp_path / name).write_bytes(b"nothing of the kind" * 40)
    for dataset, said in (
        (RecordIo(path=str(tmp_path / "train.rec")), "no RecordIO file"),
        (RecordIo(path=str(tmp_path / "other.rec")), "no such RecordIO file"),
        (Parquet(path=str(tmp_path / "a.parquet")), "not a readable parquet file"),
        (TarShards(path=str(tmp_path / "a.tar")), "no tar file, or damaged"),
        (TarShards(path=str(tmp_path / "empty")), "no tar shard there"),
    ):
        with pytest.raises(DataError, match=said):
            dataset.size()
    with tarfile.open(tmp_path / "b.tar", "w:gz") as tar:
        tar.add(tmp_path / "train.rec", "x.png")
    with pytest.raises(DataError, match="gunzip it first"):
        TarShards(path=str(tmp_path / "b.tar")).size()


def test_columns_are_found_or_named(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    data = [data for *_, data in IMAGES[:3]]
    pq.write_table(pa.table({"jpg": data, "other": data, "who": ["a", "b", "a"], "n": [1, 2, 3]}), path)
    with pytest.raises(DataError, match=r"columns of encoded images: jpg, other; say which by image = NAME"):
        Parquet(path=str(path)).size()
    with pytest.raises(DataError, match=r"no column 'jpgg' of encoded images\. Did you mean 'jpg'"):
        Parquet(path=str(path), image="jpgg").size()
    found = Parquet(path=str(path), image="jpg").scanned()
    assert found.people is None and len(found.rows) == 3
    assert Parquet(path=str(path), image="jpg", person="who").scanned().people == ("a", "b", "a")
    pq.write_table(pa.table({"image": [data[0], None, b"no image", data[1]], "label": [0, 1, 2, None]}), path)
    odd = Parquet(path=str(path)).scanned()
    assert len(odd.notes[DAMAGED]) == 2 and "row group 0, row 1" in odd.notes[DAMAGED][0]
    assert odd.people is None and len(odd.notes[UNKNOWN]) == 1


def test_shards_leave_out_what_is_no_image(tmp_path: Path) -> None:
    data = IMAGES[0][2]
    path = write_tar(
        tmp_path / "a.tar", [("p/1.png", data), ("p/._1.png", data), ("p/notes.md", b"x"), ("p/2.png", b"?")]
    )
    with tarfile.open(path, "a") as tar:
        link = tarfile.TarInfo("p/3.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    found = TarShards(path=str(path)).scanned()
    assert found.names == ("p/1.png",) and found.people == ("p",)
    assert {why: len(some) for why, some in found.notes.items()} == {
        "hidden files in shards, left out": 1, ".md files in shards, left out": 1,
        "links and special files in shards, left out": 1, DAMAGED: 1,
    }  # fmt: skip


def _cross(folder: Path, pairs: list[tuple[str, str, int]], people: int = 4) -> CrossLfw:
    for person in range(people):
        for image in (1, 2):
            path = folder / "images" / f"Per_Son{person}_{image:04d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(person, image, SIZE)).save(path)
    text = "".join(f"{image} {flag}\n" for left, right, flag in pairs for image in (left, right))
    (folder / "pairs_CALFW.txt").write_text(text)
    return CrossLfw(images=str(folder / "images"), pairs=str(folder / "pairs_CALFW.txt"), folds=1, aligned=True)


def test_calfw_pairs_are_judged_and_others_are_public(tmp_path: Path) -> None:
    one, two = "Per_Son0_0001.png", "Per_Son0_0002.png"
    dataset = _cross(tmp_path, [(one, two, 3), (one, "Per_Son1_0001.png", 0)])
    found = dataset.load(PLAIN, tmp_path / "cache")
    assert dataset.size() == (3, 4) == (len(found.test), len(found.public or ()))
    assert found.pairs.genuine.tolist() == [True, False]
    assert [found.test.names[i] for i in found.pairs.right] == [two, "Per_Son1_0001.png"]
    assert found.test.subjects == ("Per_Son0", "Per_Son0", "Per_Son1")
    assert set(found.public.subjects or ()) == {"Per_Son2", "Per_Son3"}  # type: ignore[union-attr]
    before = dataset.revision()
    assert _cross(tmp_path, [(one, two, 1), (two, "Per_Son1_0001.png", 0)]).revision() != before
    with pytest.raises(DataError, match=r"Per_Son9_0001.png is in .*pairs_CALFW.txt \(pair 2\)"):
        _cross(tmp_path, [(one, two, 1), (one, "Per_Son9_0001.png", 0)]).size()


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("A_0001.jpg 1\nB_0001.jpg 1\n", "p:1: A_0001.jpg and B_0001.jpg are called genuine, which"),
        ("A_0001.jpg 1\nA_0002.jpg 0\n", "p:1: the two lines of a pair have flags"),
        ("A_0001.jpg 0\n", "p: 1 lines; two make a pair"),
        ("A_0001.jpg 1\nA_0002.jpg yes\n", "p:2: expected NAME_0001.jpg FLAG"),
        ("", "p: 0 lines"),
    ],
)
def test_a_bad_pair_list_is_named(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said.replace("(", r"\(")):
        parse_pair_list(text, "p")


def test_inspection_says_what_lies_there(tmp_path: Path, cli: Cli) -> None:
    every(tmp_path)
    write_folder(tmp_path / "folder")
    expected = {"rec": "recordio", "parquet": "parquet", "tree": "shards", "web": "shards", "folder": "folder"}
    for name, plugin in expected.items():
        found = inspect(tmp_path / name)
        assert (found.people, found.images, found.sizes) == (4, 12, {"112 x 112": 12}), name
        assert f'plugin = "{plugin}"' in found.section and "aligned = true" in found.section and found.whole
        (tmp_path / "bench.toml").write_text(
            f'[run]\ndatasets = ["x"]\nrecognizers = ["compact"]\ndefenses = ["unprotected"]\nattacks = []\n'
            f"{found.section.replace(found.section.partition(']')[0], '[datasets.x')}\n"
        )
        assert f'path = "{tmp_path}' in cli("config", "-c", str(tmp_path / "bench.toml"), cwd=tmp_path).stdout
    _cross(tmp_path, [("Per_Son0_0001.png", "Per_Son0_0002.png", 1), ("Per_Son0_0001.png", "Per_Son1_0001.png", 0)])
    assert 'plugin = "crosslfw"' in inspect(tmp_path / "pairs_CALFW.txt").section
    short = inspect(tmp_path / "rec/train.rec", limit=5)
    assert not short.whole and short.images == 12 and "limit = 5" in short.section
    said = cli("data", "inspect", str(tmp_path / "rec"), "-q").stdout
    assert "insightface's RecordIO\n12 images, 4 people" in said and "[datasets.train]" in said
    assert json.loads(cli("data", "inspect", str(tmp_path / "rec"), "-q", "--json").stdout)["people"] == 4
    assert "no such file or folder" in cli("data", "inspect", "gone", status=2).stderr
