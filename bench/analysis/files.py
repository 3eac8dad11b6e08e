"""Irregularities of a run's files: left out, rotated, converted, doubtful; each reported once per dataset."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from bench.storage.records import Record


@dataclass(frozen=True)
class FileNote:
    """One kind of irregularity."""

    what: str  #: "images turned upright, as their EXIF orientation says"
    count: int
    files: tuple[str, ...]  #: some of their names

    def some(self) -> str:
        """Some of the files, for a line of text."""
        more = ("...",) if self.count > len(self.files) else ()
        return ", ".join((*self.files, *more))


def file_notes(records: Sequence[Record]) -> dict[str, list[FileNote]]:
    """Irregularities by dataset; empty for records of earlier versions."""
    found: dict[str, dict[str, FileNote]] = {}
    for record in records:
        for what, told in record.info.get("files", {}).items():
            note = FileNote(what, int(told["count"]), tuple(map(str, told["files"])))
            known = found.setdefault(record.cell.dataset, {}).setdefault(what, note)
            if note.count > known.count:
                found[record.cell.dataset][what] = note
    return {dataset: list(notes.values()) for dataset, notes in sorted(found.items())}
