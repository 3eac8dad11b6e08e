"""Repeats a sample of the cells of a submitted archive and compares the figures."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from bench import api
from bench.analysis.compare import Finding, compare
from bench.analysis.submission import PLUGINS, unpacked
from bench.errors import DataError, UserError
from bench.labels import family
from bench.seeds import derive_seed
from bench.settings.toml import default_path, overlay, parse_values, profiles, tolerances
from bench.storage.command import Command, read_command
from bench.storage.files import file_hash
from bench.storage.records import Cell, Record, Run

_KINDS = ("reconstruction", "crossmatch", "inversion", "linkage", "traits")  #: of cells that can be drawn
_PRECISION = "VEILBENCH_PRECISION"


def repeat(archive: Path, output: Path, sample: int, overrides: Sequence[str] = ()) -> list[Finding]:
    """Runs the sample into the folder `output`; returns the comparison of all cells that both runs have.

    Raises:
        DataError: the archive is damaged, or there is no such data here.
        UserError: the archive has no settings, a plugin is missing, or the new run has none of the archive's cells.
    """
    with unpacked(archive) as run, tempfile.TemporaryDirectory() as scratch:
        told = read_command(run.folder)
        if told is None:
            raise UserError(f"{archive}: has no settings.json, so it cannot be repeated; export it with this version")
        records = run.records()
        chosen = draw(records, sample, file_hash(archive) if archive.is_file() else archive.name, _own(told))
        settings = _settings(told, chosen, run.folder / PLUGINS, output)
        settings = overlay(settings, parse_values(overrides, "--set"))
        empty = Path(scratch) / "bench.toml"
        empty.write_text("", encoding="utf-8")
        with _precision(records):
            api.run(empty, None, settings, output=output)
        known = told.profile if told.profile in profiles(default_path()) else None
        found = compare(run, Run(output), tolerances(None, known))
    again = [finding for finding in found if finding.verdict not in ("missing", "new")]
    if not again:
        raise UserError(f"{archive}: none of its cells came out of its settings; they are of another run")
    return again


def draw(records: Sequence[Record], sample: int, salt: str, own: frozenset[str]) -> list[Cell]:
    """The cells to repeat: of one dataset, recogniser and seed, `sample` defences with `sample` attacks at most.

    Args:
        salt: decides what is drawn; the archive's hash, which a submitter cannot choose.
        own: labels of defences that came with the archive, which are drawn first.

    Raises:
        DataError: there is nothing to draw from.
    """
    cells = [
        r.cell
        for r in records
        if r.status == "ok" and r.cell.kind in _KINDS and not r.cell.probe and "attacks" not in r.parameters["attack"]
    ]
    if not cells:
        raise DataError("the archive has no finished cell of an attack; there is nothing to repeat")

    def lot(*names: object) -> int:
        return derive_seed("repeat", salt, *names)

    scene = min({(c.dataset, c.recognizer, c.seed) for c in cells}, key=lambda s: lot(*s))
    there = [c for c in cells if (c.dataset, c.recognizer, c.seed) == scene]
    defenses = sorted({c.defense for c in there}, key=lambda d: (family(d) not in own, lot(d)))[:sample]
    found: dict[str, list[Cell]] = {}
    for cell in there:
        if cell.defense in defenses and cell.attack:
            found.setdefault(cell.attack, []).append(cell)
    attacks = sorted(found, key=lambda a: (-len(found[a]), lot(a)))[:sample]
    return [cell for attack in attacks for cell in found[attack]]


def _own(told: Command) -> frozenset[str]:
    """Labels of defences that are files of the submitter."""
    sections = told.settings.get("defenses", {})
    return frozenset(label for label, table in sections.items() if _file_of(table))


def _file_of(table: Any) -> str:
    """The name of a plugin's file; empty if it is not named by a path."""
    plugin = table.get("plugin", "") if isinstance(table, Mapping) else ""
    return Path(plugin).name if isinstance(plugin, str) and plugin.endswith(".py") else ""


def _settings(told: Command, cells: Sequence[Cell], plugins: Path, output: Path) -> dict[str, Any]:
    """The archive's settings, for these cells only, with plugins from the archive."""
    first = cells[0]
    run = {
        "datasets": [first.dataset],
        "recognizers": [first.recognizer],
        "defenses": list(dict.fromkeys(c.defense.partition("[")[0] for c in cells)),
        "attacks": list(dict.fromkeys(c.attack.partition("[")[0] for c in cells)),
        "seeds": [first.seed],
        **dict.fromkeys(("canaries", "controls", "replay"), False),
        "store": str(output / ".store"),
        "cache": str(output / ".cache"),
    }
    settings = overlay(told.settings, {"run": run})
    for section in ("defenses", "attacks"):
        for label, table in dict(settings.get(section, {})).items():
            file = _file_of(table)
            if file and (plugins / file).is_file():
                settings = overlay(settings, {section: {label: {"plugin": str(plugins / file)}}})
    return settings


@contextmanager
def _precision(records: Sequence[Record]) -> Iterator[None]:
    """The precision of the archive's run, where it was float32, which every machine has."""
    before = os.environ.get(_PRECISION)
    if {r.provenance.get("precision") for r in records} == {"float32"}:
        os.environ[_PRECISION] = "float32"
    try:
        yield
    finally:
        os.environ.pop(_PRECISION, None)
        if before is not None:
            os.environ[_PRECISION] = before
