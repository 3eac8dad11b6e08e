"""Faces in tar shards: `PERSON/IMAGE.jpg`, or WebDataset's `KEY.jpg` beside `KEY.cls` or `KEY.json`."""

from __future__ import annotations

import json
import tarfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from bench.datasets.decoding import suffixes
from bench.datasets.packs import LARGEST, Packed, PackedFaces, matching
from bench.errors import DataError

_LABEL = 10_000  #: bytes of a file that names a person
_KEYS = ("identity", "person", "subject", "label", "class", "id")  #: what names a person in a .json, best first
HIDDEN = "hidden files in shards, left out"
OTHER = "links and special files in shards, left out"


@dataclass(frozen=True)
class _Image:
    shard: int
    name: str
    offset: int
    size: int
    label: tuple[int, int, str] | None  #: (offset, size, suffix) of the file that names the person


class Shards:
    """The images of uncompressed tar files, by index. Nothing is unpacked."""

    def __init__(self, paths: list[Path]) -> None:
        self.notes: dict[str, list[str]] = {}
        self._paths = paths
        self._files = [path.open("rb") for path in paths]
        self._images = [image for number, path in enumerate(paths) for image in self._listed(number, path)]

    def __len__(self) -> int:
        return len(self._images)

    def where(self, index: int) -> str:
        image = self._images[index]
        return f"{self._paths[image.shard]}: {image.name}"

    def read(self, index: int) -> Packed:
        image = self._images[index]
        if image.size > LARGEST:
            raise DataError(f"{self.where(index)}: an image of {image.size:,} bytes; the limit is {LARGEST:,}")
        data = self._bytes(image.shard, image.offset, image.size)
        if len(data) < image.size:
            raise DataError(f"{self.where(index)}: the shard ends within it")
        path = PurePosixPath(image.name)
        person = self._person(image) if image.label else path.parent.name or None
        inside = person is not None and path.parent.name != person
        return Packed(f"{person}/{path.name}" if inside else image.name, person, data)

    def _bytes(self, shard: int, offset: int, size: int) -> bytes:
        self._files[shard].seek(offset)
        return self._files[shard].read(size)

    def _person(self, image: _Image) -> str | None:
        assert image.label is not None
        offset, size, suffix = image.label
        text = self._bytes(image.shard, offset, min(size, _LABEL)).decode("utf-8", "replace").strip()
        if suffix != ".json":
            return text or None
        try:
            found = json.loads(text)
        except ValueError as error:
            raise DataError(f"{self._paths[image.shard]}: {image.name}: its .json is damaged ({error})") from error
        named = next((found[key] for key in _KEYS if key in found), None) if isinstance(found, dict) else None
        return None if named is None else str(named)

    def _listed(self, number: int, path: Path) -> list[_Image]:
        images: list[tuple[str, int, int]] = []
        labels: dict[str, tuple[int, int, str]] = {}
        try:
            with tarfile.open(path, "r:") as tar:
                for member in tar:
                    name = PurePosixPath(member.name)
                    if name.name.startswith("."):
                        self._note(HIDDEN, f"{path.name}: {member.name}")
                    elif member.isdir():
                        continue
                    elif not member.isreg():
                        self._note(OTHER, f"{path.name}: {member.name}")
                    elif name.suffix.lower() in suffixes():
                        images.append((str(name), member.offset_data, member.size))
                    elif name.suffix.lower() in (".cls", ".json"):
                        labels[_key(name)] = (member.offset_data, member.size, name.suffix.lower())
                    else:
                        self._note(f"{name.suffix.lower() or 'suffixless'} files in shards, left out", str(name))
        except (tarfile.TarError, OSError, EOFError) as error:
            with path.open("rb") as file:
                packed = file.read(2) == b"\x1f\x8b"
            why = "compressed: records are read by place, so gunzip it first" if packed else f"damaged ({error})"
            raise DataError(f"{path}: no tar file, or {why}") from error
        return [_Image(number, name, at, size, labels.get(_key(PurePosixPath(name)))) for name, at, size in images]

    def _note(self, why: str, what: str) -> None:
        self.notes.setdefault(why, []).append(what)


def _key(name: PurePosixPath) -> str:
    """WebDataset's: the path up to the first dot of the file's name."""
    return str(name.with_name(name.name.partition(".")[0]))


@dataclass(frozen=True, kw_only=True)
class TarShards(PackedFaces):
    """Public faces from tar shards: one file, or a folder of them, in the order of their names.

    A person is named by a `.cls` or `.json` beside the image, or else by the folder that it lies in.
    """

    aligned: bool = False  #: the images are cut out as the recogniser wants them: only resize, or use as they are

    def files(self) -> list[Path]:
        """The shards."""
        return matching(Path(self.path).expanduser(), ".tar", "tar shard")

    def open(self) -> Shards:
        """The images."""
        return Shards(self.files())
