"""Archives for a public leaderboard: small, the same each time, and checked before they are believed."""

import hashlib
import json
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from support import Cli

from bench.analysis.leaderboard import merged
from bench.analysis.submission import export, unpacked, verify
from bench.errors import DataError
from bench.storage.records import Cell, Measure, Record, Run

PEOPLE = [f"p{i}" for i in range(12)]


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    for defense, ssim in (("plain", 0.9), ("veil", 0.4)):
        values = ssim + np.linspace(-0.02, 0.02, len(PEOPLE))
        scores = pd.DataFrame({"name": PEOPLE, "subject": PEOPLE, "ssim": values, "mse": 0.01, "psnr_db": 20.0})
        metrics = {name: Measure(float(scores[name].mean()), n=12) for name in ("ssim", "mse", "psnr_db")}
        cell = Cell("reconstruction", "faces", "net", defense, "decode", "encoder", "template")
        pictures = np.full((2, 8, 8, 3), 99, dtype=np.uint8)
        run.write(Record(cell, "k", "ok", metrics=metrics), scores, {"original": pictures, "reconstruction": pictures})
        run.write(Record(Cell("utility", "faces", "net", defense), "k", "ok", metrics={"acc": Measure(0.9)}), scores)
    return run


def _changed(path: Path, member: str, data: bytes | None, fix_manifest: bool = False, name: str = "") -> Path:
    """The archive with one member replaced, renamed or removed."""
    with zipfile.ZipFile(path) as archive:
        members = {info.filename: archive.read(info) for info in archive.infolist()}
    found = next(m for m in members if member in m)
    old = members.pop(found)
    if data is not None or name:
        members[name or found] = old if data is None else data
    if fix_manifest:
        manifest = json.loads(members["manifest.json"])
        manifest["files"] = {m: hashlib.sha256(d).hexdigest() for m, d in members.items() if m != "manifest.json"}
        members["manifest.json"] = json.dumps(manifest).encode()
    other = path.with_name("changed.zip")
    with zipfile.ZipFile(other, "w") as archive:
        for key, value in members.items():
            archive.writestr(key, value)
    return other


def test_an_archive_holds_figures_and_no_faces_and_is_the_same_each_time(run: Run, tmp_path: Path) -> None:
    one, two = export(run, tmp_path / "one.zip"), export(run, tmp_path / "two.zip")
    assert one.read_bytes() == two.read_bytes()
    with zipfile.ZipFile(one) as archive:
        assert {Path(name).suffix for name in archive.namelist()} == {".json", ".parquet"}
    assert verify(one) == []
    with unpacked(one) as back:
        assert back.records() == run.records()


def test_what_was_changed_is_refused(run: Run, tmp_path: Path) -> None:
    path = export(run, tmp_path / "one.zip")
    with pytest.raises(DataError, match="differs from its manifest"):
        verify(_changed(path, "veil", b"{}"))
    with pytest.raises(DataError, match="not in both"):
        verify(_changed(path, ".parquet", None))
    with pytest.raises(DataError, match="does not belong"):
        verify(_changed(path, "veil", None, fix_manifest=True, name="../../evil.json"))
    with pytest.raises(DataError, match="does not belong"):
        verify(_changed(path, ".parquet", None, fix_manifest=True, name="records/code.py"))
    (tmp_path / "cut.zip").write_bytes(path.read_bytes()[:-200])
    with pytest.raises(DataError, match="not a readable archive"):
        verify(tmp_path / "cut.zip")
    with pytest.raises(DataError, match=r"manifest\.json"):
        verify(_changed(path, "manifest", b"[]"))


def test_figures_that_their_scores_do_not_bear_out_are_named(run: Run, tmp_path: Path, cli: Cli) -> None:
    path = export(run, tmp_path / "one.zip")
    with zipfile.ZipFile(path) as archive:
        name = next(n for n in archive.namelist() if "veil--decode" in n and n.endswith(".json"))
        record = json.loads(archive.read(name))
    record["metrics"]["ssim"]["value"] = 0.1
    record["metrics"]["psnr_db"]["value"] = 12.0
    forged = _changed(path, name, json.dumps(record).encode(), fix_manifest=True)
    said = verify(forged)
    assert any("ssim is 0.100000, but its scores' mean is 0.400000" in line for line in said)
    assert any("impossible" in line for line in said)
    assert "problems" in cli("verify", str(forged), status=1).stdout
    assert json.loads(cli("verify", str(path), "--json").stdout)["sound"]


def test_several_runs_make_one_leaderboard(run: Run, tmp_path: Path, cli: Cli) -> None:
    path = export(run, tmp_path / "mine.zip")
    frame = merged([run.folder, path])
    assert sorted(frame["defense"]) == ["plain (mine.zip)", "plain (run)", "veil (mine.zip)", "veil (run)"]
    assert list(frame["worst_ssim"]) == sorted(frame["worst_ssim"])
    text = cli("leaderboard", str(run.folder), str(path)).stdout
    assert text.index("veil") < text.index("plain")
