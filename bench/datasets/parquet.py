"""Faces in parquet files, as data hubs store them: a column of encoded images, and one of people."""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.datasets.packs import LARGEST, Packed, PackedFaces, matching
from bench.errors import DataError, near_miss

_GROUP = 1 << 30  #: bytes a row group may have, which is read as a whole
_PEOPLE = ("identity", "person", "subject", "label", "class", "name", "id")  #: columns that name people, best first


class Tables:
    """The rows of some parquet files, by index; one row group is in memory at a time."""

    def __init__(self, paths: list[Path], image: str, person: str) -> None:
        import pyarrow as arrow
        import pyarrow.parquet as parquet

        self.notes: dict[str, list[str]] = {}
        self._paths = paths
        self._files: list[Any] = []
        self._groups: list[tuple[int, int]] = []  # (file, row group)
        self._starts: list[int] = []  # the first row of each, over all files
        self._count = 0
        self._held: tuple[int, list[Any], list[Any]] | None = None
        for number, path in enumerate(paths):
            try:
                file = parquet.ParquetFile(path)
            except (arrow.ArrowException, OSError) as error:
                raise DataError(f"{path}: not a readable parquet file ({error}); fetch it again") from error
            self._files.append(file)
            for group in range(file.num_row_groups):
                told = file.metadata.row_group(group)
                if told.total_byte_size > _GROUP:
                    raise DataError(f"{path}: a row group of {told.total_byte_size:,} bytes; write smaller ones")
                self._groups.append((number, group))
                self._starts.append(self._count)
                self._count += told.num_rows
        schema = self._files[0].schema_arrow
        self._image = _image_column(schema, image, str(paths[0]))
        self._person = _person_column(schema, person, str(paths[0]))
        for file, path in zip(self._files, paths, strict=True):
            if missing := {self._image, self._person} - {None, *file.schema_arrow.names}:
                raise DataError(f"{path}: has no column {missing.pop()!r}, which {paths[0].name} has")

    def __len__(self) -> int:
        return self._count

    def where(self, index: int) -> str:
        at = bisect_right(self._starts, index) - 1
        number, group = self._groups[at]
        return f"{self._paths[number]}: row group {group}, row {index - self._starts[at]}"

    def read(self, index: int) -> Packed:
        at = bisect_right(self._starts, index) - 1
        if self._held is None or self._held[0] != at:
            self._held = (at, *self._read(at))
        _, images, people = self._held
        image, person = images[index - self._starts[at]], people[index - self._starts[at]]
        data = image.get("bytes") if isinstance(image, dict) else image
        if not isinstance(data, bytes) or not data:
            raise DataError(f"{self.where(index)}: no encoded image in column {self._image!r}")
        if len(data) > LARGEST:
            raise DataError(f"{self.where(index)}: an image of {len(data):,} bytes; the limit is {LARGEST:,}")
        known = None if person is None else str(person)
        return Packed(f"{known}/{index:08d}" if known is not None else f"{index:08d}", known, data)

    def _read(self, at: int) -> tuple[list[Any], list[Any]]:
        import pyarrow as arrow

        number, group = self._groups[at]
        wanted = [self._image, *([self._person] if self._person else [])]
        try:
            table = self._files[number].read_row_group(group, columns=wanted)
            images = table.column(self._image).to_pylist()
            people = table.column(self._person).to_pylist() if self._person else [None] * len(images)
        except (arrow.ArrowException, OSError, ValueError) as error:
            raise DataError(f"{self._paths[number]}: row group {group} is damaged ({error})") from error
        return images, people


def _image_column(schema: Any, wanted: str, where: str) -> str:
    import pyarrow as arrow

    def fits(kind: Any) -> bool:
        if arrow.types.is_struct(kind):
            return any(kind.field(i).name == "bytes" and _binary(kind.field(i).type) for i in range(kind.num_fields))
        return _binary(kind)

    fit = [field.name for field in schema if fits(field.type)]
    if wanted and wanted not in fit:
        raise DataError(f"{where}: no column {wanted!r} of encoded images.{near_miss(wanted, fit)}")
    if not wanted and len(fit) != 1 and "image" not in fit:
        found = ", ".join(fit) or "none"
        raise DataError(f"{where}: columns of encoded images: {found}; say which by image = NAME")
    return wanted or ("image" if "image" in fit else fit[0])


def _binary(kind: Any) -> bool:
    import pyarrow as arrow

    return bool(arrow.types.is_binary(kind) or arrow.types.is_large_binary(kind))


def _person_column(schema: Any, wanted: str, where: str) -> str | None:
    import pyarrow as arrow

    fit = [
        field.name
        for field in schema
        if arrow.types.is_integer(field.type) or arrow.types.is_string(field.type) or
        arrow.types.is_large_string(field.type)
    ]  # fmt: skip
    if wanted and wanted not in fit:
        raise DataError(f"{where}: no column {wanted!r} of numbers or names.{near_miss(wanted, fit)}")
    return wanted or next((name for name in _PEOPLE if name in fit), None)


@dataclass(frozen=True, kw_only=True)
class Parquet(PackedFaces):
    """Public faces from parquet: one file, or a folder of them, in the order of their names.

    The image column holds encoded files, as bytes or as a struct with a field `bytes`.
    """

    aligned: bool = False  #: the images are cut out as the recogniser wants them: only resize, or use as they are
    image: str = ""  #: the column of images; empty: the only one, or `image`
    person: str = ""  #: the column of people; empty: identity, person, subject, label, ..., if there is one

    def files(self) -> list[Path]:
        """The parquet files."""
        return matching(Path(self.path).expanduser(), ".parquet", "parquet file")

    def open(self) -> Tables:
        """The rows."""
        return Tables(self.files(), self.image, self.person)
