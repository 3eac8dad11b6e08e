"""A stranger's defence, from `veilbench new` to a row of the public leaderboard that CI has repeated."""

import json
import zipfile
from pathlib import Path

import pandas as pd
import pytest
from support import Cli

from bench.analysis.submission import unpacked
from bench.cli.repeating import draw
from bench.errors import DataError
from bench.storage.records import Cell, Record

SETTINGS = ("--set", 'run.defenses=["unprotected", "mine"]', "--set", 'run.attacks=["mean_face", "nearest_face"]')


def test_from_a_new_file_to_a_row_that_was_repeated(config: Path, tmp_path: Path, cli: Cli) -> None:
    cli("new", "defense", "mine", cwd=tmp_path)
    plugin = ("--set", "defenses.mine.plugin=mine.py", "--set", "training.epochs=1")
    cli("run", "-q", *SETTINGS, *plugin, "-o", "results/mine", cwd=tmp_path)
    cli("export", "results/mine", "--plugin", "mine.py", "-o", "mine.zip", cwd=tmp_path)
    cli("verify", "mine.zip", cwd=tmp_path)
    with zipfile.ZipFile(tmp_path / "mine.zip") as archive:
        told = json.loads(archive.read("settings.json"))
        assert "plugins/mine.py" in archive.namelist() and told["settings"]["defenses"]["mine"]["plugin"] == "mine.py"
        assert "store" not in told["settings"]["run"]

    cli("site", "mine.zip", "-o", "site", cwd=tmp_path)
    assert ">mine<" in (tmp_path / "site" / "features.html").read_text()
    assert "plugin=mine.py" in (tmp_path / "site" / "defence--mine.html").read_text()

    (tmp_path / "mine.py").unlink()  # whoever repeats it has the archive only
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    said = cli("repeat", "../mine.zip", "-o", "again", "--markdown", "gate.md", cwd=elsewhere).stdout
    assert "cells of mine.zip were repeated" in said and "passed" in (elsewhere / "gate.md").read_text()

    forged = _weaker(tmp_path / "mine.zip", tmp_path / "forged.zip")
    assert "worse" in cli("repeat", str(forged), "-o", "again", cwd=elsewhere, status=1).stdout


def _weaker(archive: Path, other: Path) -> Path:
    """An archive whose scores and figures agree, and claim that the attacks on the defence rebuild less."""
    from bench.analysis.submission import export
    from bench.storage.records import Measure, Run

    with unpacked(archive) as run:
        for record in run.records():
            if record.cell.kind == "reconstruction" and record.cell.defense == "mine":
                scores: pd.DataFrame = run.scores(record.cell).assign(ssim=0.0)
                metrics = {**record.metrics, "ssim": Measure(0.0, n=len(scores))}
                run.write(Record(**{**record.__dict__, "metrics": metrics}), scores)
        return export(Run(run.folder), other, sorted((run.folder / "plugins").glob("*.py")))


def test_the_sample_follows_from_the_archive_and_has_the_stranger_s_defence() -> None:
    cells = [
        Cell("reconstruction", data, "net", defense, attack, "encoder", "template", seed)
        for data in ("a", "b") for defense in "pqrs" for attack in ("x", "y", "z") for seed in (0, 1)
    ]  # fmt: skip
    records = [Record(cell, "k", "ok", parameters={"defense": {}, "attack": {}}) for cell in cells]
    for salt in map(str, range(8)):
        drawn = draw(records, 2, salt, frozenset("s"))
        assert drawn == draw(records, 2, salt, frozenset("s"))
        assert len(drawn) == 4 and len({(c.dataset, c.recognizer, c.seed) for c in drawn}) == 1
        assert "s" in {c.defense for c in drawn} and len({c.attack for c in drawn}) == 2
    assert len({str(draw(records, 2, salt, frozenset())) for salt in map(str, range(8))}) > 1
    with pytest.raises(DataError, match="no finished cell"):
        draw([], 2, "", frozenset())
