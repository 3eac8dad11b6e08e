"""Says what a file or folder of faces is, what is in it, and what `bench.toml` would call it."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets.cfp import Cfp
from bench.datasets.crosslfw import parse_pair_list
from bench.datasets.decoding import decode, read_bytes, size_of
from bench.datasets.insightface import read_bin
from bench.datasets.lfw import parse_pairs
from bench.datasets.packs import DAMAGED, PackedFaces
from bench.datasets.parquet import Parquet
from bench.datasets.photographs import find_photographs
from bench.datasets.recordio import RecordIo
from bench.datasets.shards import TarShards
from bench.errors import DataError
from bench.storage.files import read_text

_CROPS = ((112, 112), (112, 96))  #: (height, width) at which faces are handed on cut out


@dataclass(frozen=True)
class Inspection:
    """What there is."""

    what: str  #: in words
    people: int | None  #: None: unknown
    images: int
    sizes: Mapping[str, int]  #: images of each HEIGHT x WIDTH, the most frequent first
    left_out: Mapping[str, Sequence[str]]  #: why, and which
    section: str  #: for bench.toml; empty where there is none
    whole: bool  #: every image was looked at


def inspect(path: Path, limit: int = 10_000) -> Inspection:
    """Looks at the first `limit` images of whatever lies there.

    Raises:
        DataError: nothing is there, or nothing that holds faces.
    """
    if not path.exists():
        raise DataError(f"{path}: no such file or folder")
    if path.is_dir():
        return _folder(path, limit)
    suffix = path.suffix.lower()
    if suffix == ".idx" and path.with_suffix(".rec").is_file():
        path, suffix = path.with_suffix(".rec"), ".rec"
    if suffix in _PACKS:
        return _packed(*_PACKS[suffix], path, limit)
    if suffix == ".bin":
        return _bin(path, limit)
    if suffix == ".txt":
        return _pairs(path)
    if suffix == ".onnx":
        raise DataError(f"{path}: a network, no faces: veilbench recognizer cuts {path}")
    raise DataError(f"{path}: nothing that is known to hold faces: .rec, .parquet, .tar, .bin, .txt or a folder is")


_PACKS = {
    ".rec": ("recordio", "insightface's RecordIO"),
    ".parquet": ("parquet", "parquet with a column of images"),
    ".tar": ("shards", "tar shards of images"),
}


def public_section(path: Path, aligned: bool) -> dict[str, Any]:
    """The section of `bench.toml` for public faces that lie there: a pack, or a folder of photographs."""
    for suffix, (kind, _) in _PACKS.items():
        if path.suffix.lower() == suffix or (path.is_dir() and any(path.glob(f"*{suffix}"))):
            return {"plugin": kind, "path": str(path), "aligned": aligned}
    people = any(inner.is_dir() for inner in path.glob("*"))
    return {"plugin": "folder", "path": str(path), "identities": people, "aligned": aligned}


def _folder(path: Path, limit: int) -> Inspection:
    if (path / "Data/Images").is_dir() and (path / "Data/list_name.txt").is_file():
        return _cfp(path)
    for suffix, (kind, what) in _PACKS.items():
        files = sorted(path.glob(f"*{suffix}"))
        if files:
            return _packed(kind, f"a folder with {what}", files[0] if suffix == ".rec" else path, limit)
    people = find_photographs(path, depth=2)
    every = find_photographs(path)
    if not every.files:
        raise DataError(f"{path}: no images in it{every.instead()}")
    by_person = 2 * len(people.files) > len(every.files)
    found = people if by_person else every
    names = list(found.files)
    sizes: Counter[tuple[int, int]] = Counter()
    left_out = {why: list(some) for why, some in found.notes.items()}
    for name in names[:limit]:
        try:
            image = decode(read_bytes(found.files[name]), str(found.files[name]))
            sizes[image.height, image.width] += 1
        except DataError as error:
            left_out.setdefault("damaged images, which a run would stop at", []).append(str(error))
    owners = {name.partition("/")[0] for name in names} if by_person else None
    what = "a folder of photographs, one subfolder a person" if by_person else "a folder of photographs of nobody known"
    section = {"plugin": "folder", "path": str(path), "identities": by_person, "aligned": _cut_out(sizes)}
    count = None if owners is None else len(owners)
    return Inspection(what, count, len(names), _told(sizes), left_out, _section(path, section), len(names) <= limit)


def _cfp(path: Path) -> Inspection:
    dataset = Cfp(path=str(path), protocol="none")
    found = find_photographs(path / "Data/Images", depth=3)
    sizes = Counter((height, width) for width, height in map(size_of, found.files.values()))
    section = {"plugin": "cfp", "path": str(path), "protocol": "frontal-profile"}
    people, images = len(dataset.known_people()[1]), dataset.size()[1]
    what = "CFP in its official layout"
    return Inspection(what, people, images, _told(sizes), found.notes, _section(path, section), True)


def _packed(kind: str, what: str, path: Path, limit: int) -> Inspection:
    kinds: dict[str, type[PackedFaces]] = {"recordio": RecordIo, "parquet": Parquet, "shards": TarShards}
    dataset = kinds[kind](path=str(path), limit=limit)
    found = dataset.scanned()
    total = len(dataset.open())
    looked = len(found.rows) + len(found.notes.get(DAMAGED, ()))
    people = None if found.people is None else len(set(found.people))
    section: dict[str, Any] = {"plugin": kind, "path": str(path), "aligned": _cut_out(found.sizes)}
    if looked < total:
        section["limit"] = limit
    images = total - len(found.notes.get(DAMAGED, ()))
    return Inspection(
        what, people, images, _told(found.sizes), found.notes, _section(path, section), looked >= total
    )  # fmt: skip


def _bin(path: Path, limit: int) -> Inspection:
    images, genuine = read_bin(read_bytes(path), str(path))
    sizes: Counter[tuple[int, int]] = Counter()
    left_out: dict[str, list[str]] = {}
    for index, data in enumerate(images[:limit]):
        try:
            image = decode(data, f"{path}: image {index}")
            sizes[image.height, image.width] += 1
        except DataError as error:
            left_out.setdefault("damaged images, which a run would stop at", []).append(str(error))
    what = f"insightface's verification set: {len(genuine)} pairs, {sum(genuine)} of them genuine"
    section = {"plugin": "insightface", "path": str(path), "aligned": _cut_out(sizes)}
    return Inspection(what, None, len(images), _told(sizes), left_out, _section(path, section), len(images) <= limit)


def _pairs(path: Path) -> Inspection:
    text = read_text(path)
    try:
        pairs = parse_pairs(text, str(path))
        people = {person for pair in pairs for person, _ in (pair.left, pair.right)}
        images = {image for pair in pairs for image in (pair.left, pair.right)}
        what = f"a list of {len(pairs)} pairs, as LFW's View 2"
        section = {"plugin": "lfw", "images": "FOLDER", "pairs": str(path)}
        return Inspection(what, len(people), len(images), {}, {}, _section(path, section), True)
    except DataError as first:
        try:
            listed = parse_pair_list(text, str(path))
        except DataError as second:
            raise DataError(f"{path}: no list of pairs: neither LFW's ({first}) nor CALFW's ({second})") from second
    names = {image for left, right, _ in listed for image in (left, right)}
    owners = {name.rpartition("_")[0] for name in names}
    section = {"plugin": "crosslfw", "images": "FOLDER", "pairs": str(path)}
    what = f"a list of {len(listed)} pairs, as CALFW's and CPLFW's"
    return Inspection(what, len(owners), len(names), {}, {}, _section(path, section), True)


def _cut_out(sizes: Mapping[tuple[int, int], int]) -> bool:
    return len(sizes) == 1 and next(iter(sizes)) in _CROPS


def _told(sizes: Mapping[tuple[int, int], int]) -> dict[str, int]:
    ordered = sorted(sizes.items(), key=lambda item: (-item[1], item[0]))
    return {f"{height} x {width}": count for (height, width), count in ordered}


def _section(path: Path, values: Mapping[str, Any]) -> str:
    """TOML: JSON's strings, numbers and truth values are TOML's too."""
    label = "".join(c if c.isascii() and c.isalnum() else "_" for c in path.stem.lower()).strip("_") or "faces"
    lines = [f"{name} = {json.dumps(value, ensure_ascii=False)}" for name, value in values.items()]
    return "\n".join([f"[datasets.{label}]", *lines])
