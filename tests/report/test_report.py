"""Reports of a run folder: right, readable by machines, and honest about what failed."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from bench.analysis.leaderboard import leaderboard, lower_bound
from bench.errors import DataError, UserError
from bench.report.grid import write_grids
from bench.report.heatmap import heatmap, save
from bench.report.leaderboard import render
from bench.report.text import escape_tex
from bench.report.write import write_reports
from bench.storage.records import Cell, Measure, Record, Run

PEOPLE = [f"p{i}" for i in range(10)]


def _reconstruction(run: Run, defense: str, attack: str, level: str, ssim: float, seed: int = 0) -> None:
    rng = np.random.default_rng(len(defense) + len(attack))
    values = np.clip(ssim + rng.normal(0, 0.02, 10), 0, 1)
    scores = pd.DataFrame({"name": PEOPLE, "subject": PEOPLE, "ssim": values, "psnr_db": 30 * values, "mse": 0.01})
    cell = Cell("reconstruction", "faces", "net", defense, attack, level, "template", seed)
    metrics = {
        "ssim": Measure(float(values.mean()), ssim - 0.02, ssim + 0.02, 10),
        "psnr_db": Measure(25.0, 24, 26, 10),
    }
    metrics["lpips"] = Measure(None, note="unavailable: no backbone")
    pictures = np.full((3, 16, 12, 3), 128, dtype=np.uint8)
    samples = {"original": pictures, "reconstruction": pictures // 2, "name": np.array(PEOPLE[:3])}
    run.write(Record(cell, "k", "ok", metrics=metrics), scores, samples)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    for defense, leaked in (("unprotected", 0.95), ("veil_1", 0.30), ("mist", 0.6)):
        metrics = {"acc": Measure(0.98, 0.97, 0.99, 600), "acc_raw_probe": Measure(0.97, 0.96, 0.98, 600)}
        noise = {"rms": 0.1, "snr_db": 12.0}
        cell = Cell("utility", "faces", "net", defense)
        run.write(Record(cell, "k", "ok", metrics=metrics, noise=noise, info={"template_bytes": 1000}))
        _reconstruction(run, defense, "grey", "blind", 0.35)
        _reconstruction(run, defense, "decode", "encoder", leaked)
    _reconstruction(run, "unprotected", "invert", "whitebox", 0.9)
    _reconstruction(run, "veil_1", "invert", "whitebox", 0.5)
    cell = Cell("reconstruction", "faces", "net", "mist", "invert", "whitebox", "template")
    run.write(Record(cell, "k", "error", reason="RuntimeError: out of luck", traceback="..."))
    replay = {"srra1": Measure(0.4, 0.3, 0.5, 300), "srra2": Measure(0.2, 0.1, 0.3, 300)}
    cell = Cell("replay", "faces", "net", "veil_1", "replay", "encoder", "template")
    run.write(Record(cell, "k", "ok", metrics=replay, info={"presents": "image"}))
    cell = Cell("replay", "faces", "net", "veil_1", "inject", "blind", "template")
    run.write(
        Record(cell, "k", "ok", metrics={"srra1": Measure(1.0), "srra2": Measure(0.9)}, info={"presents": "template"})
    )
    cell = Cell("replay", "faces", "net", "mist", "replay", "encoder", "template")
    run.write(Record(cell, "k", "skipped", reason="not asked for"))
    return run


def test_rows_rank_by_the_worst_single_attack(run: Run) -> None:
    board = leaderboard(run).set_index("defense")
    assert list(board.index) == ["veil_1", "unprotected", "mist"], "an attack on mist is missing"
    assert board.loc["veil_1", "worst_attack"] == "invert"
    assert board.loc["veil_1", "worst_level"] == "whitebox"
    assert board.loc["veil_1", "encoder_attack"] == "decode"
    assert board.loc["veil_1", "encoder_ssim"] == pytest.approx(0.3, abs=0.03)
    assert board.loc["veil_1", "blind_ssim"] == pytest.approx(0.35, abs=0.03)
    assert board.loc["veil_1", "srra1"] == 0.4, "an injected template is no reconstruction"
    assert board.loc["unprotected", "bound_ssim"] >= board.loc["unprotected", "worst_ssim"]


def test_what_failed_is_shown_and_never_averaged_away(run: Run) -> None:
    board = leaderboard(run).set_index("defense")
    assert board.loc["mist", "failed"] == "invert", "what was skipped did not fail"
    assert np.isnan(board.loc["mist", "bound_ssim"])
    assert board.loc["mist", "bound_note"] == "incomplete: invert"
    text = render(leaderboard(run), "md", run)
    assert "failed: error: RuntimeError: out of luck" in text
    assert "skipped: not asked for" in text and "failed: skipped" not in text
    assert "unavailable: no backbone" in text


def test_a_level_is_a_lower_bound_if_an_attack_of_it_is_missing(run: Run) -> None:
    _reconstruction(run, "veil_1", "guess", "encoder", 0.2)
    board = leaderboard(run).set_index("defense")
    assert lower_bound(board.loc["mist"], "encoder_ssim") == "incomplete: guess"
    assert lower_bound(board.loc["veil_1"], "encoder_ssim") == lower_bound(board.loc["veil_1"], "blind_ssim") == ""
    row = next(line for line in render(leaderboard(run), "md").splitlines() if line.startswith("| mist"))
    assert row.count("≥") == 2


def test_a_row_below_the_blind_floor_is_flagged(run: Run) -> None:
    _reconstruction(run, "veil_1", "invert", "whitebox", 0.1)
    assert "below the blind floor" in leaderboard(run).set_index("defense").loc["veil_1", "flags"]


def test_the_accuracy_of_an_unfinished_server_is_a_lower_bound(run: Run) -> None:
    assert "≥ .980" not in render(leaderboard(run), "md")
    cell = Cell("utility", "faces", "net", "veil_1")
    run.write(Record(cell, "k", "ok", metrics={"acc": Measure(0.98, 0.97, 0.99, 600)}, flags=("server not converged",)))
    row = next(line for line in render(leaderboard(run), "md").splitlines() if line.startswith("| veil"))
    assert "| ≥ .980 [.970, .990] |" in row


def test_machines_can_read_it_back(run: Run) -> None:
    frame = leaderboard(run)
    back = list(csv.DictReader(io.StringIO(render(frame, "csv"))))
    assert [row["defense"] for row in back] == list(frame["defense"])
    assert float(back[0]["worst_ssim"]) == pytest.approx(frame.loc[0, "worst_ssim"])
    assert json.loads(render(frame, "json"))[0]["srra1"] == 0.4


def test_latex_is_well_formed(run: Run) -> None:
    text = render(leaderboard(run), "tex")
    assert text.count("{") == text.count("}")
    for environment in ("table*", "tabular"):
        assert text.count(rf"\begin{{{environment}}}") == text.count(rf"\end{{{environment}}}") == 1
    assert r"veil\_1" in text
    body = text[text.index(r"\toprule") : text.index(r"\bottomrule")]
    rows = [line for line in body.splitlines() if line.strip().endswith(r"\\")]
    columns = {len(re.findall(r"(?<!\\)&", row)) for row in rows}
    assert len(rows) == 4
    assert len(columns) == 1
    assert all(ord(c) < 128 for c in text)
    assert (
        escape_tex(r"50% of $x_1 & \{~^") == r"50\% of \$x\_1 \& \textbackslash{}\{\textasciitilde{}\textasciicircum{}"
    )


def test_seeds_are_averaged_by_image_before_anything_else(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _reconstruction(run, "veil", "decode", "encoder", 0.2, seed=0)
    _reconstruction(run, "veil", "decode", "encoder", 0.6, seed=1)
    row = leaderboard(run).iloc[0]
    assert row["worst_ssim"] == pytest.approx(0.4, abs=0.03)
    assert row["worst_ssim_high"] - row["worst_ssim_low"] < 0.05, "seeds do not count as people"


def test_pictures_are_written_whole_and_alike(run: Run, tmp_path: Path) -> None:
    written = {path.name for path in write_reports(run)}
    assert written >= {"leaderboard.md", "leaderboard.csv", "leaderboard.tex", "heatmap_ssim.png", "heatmap_psnr.svg"}
    assert written >= {"grid_mist.png", "grid_unprotected.png", "grid_veil_1.png"}
    for path in run.folder.glob("*.png"):
        with Image.open(path) as picture:
            picture.load()
            assert min(picture.size) > 200
    first, second = (save(heatmap(run, "ssim"), tmp_path / n, ("svg",))[0].read_bytes() for n in ("a", "b"))
    assert first == second
    assert b">failed<" in first, "a failed cell is not a white hole"
    assert not list(run.folder.glob("*.part"))


def test_unknown_names_are_refused_with_the_near_miss(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean 'psnr_db'"):
        heatmap(run, "psnr")
    with pytest.raises(UserError, match="Did you mean 'veil_1'"):
        write_grids(run, "veil_2")
    with pytest.raises(DataError, match="no records here"):
        leaderboard(Run(tmp_path / "empty"))


@pytest.mark.parametrize("text", ["", "{", "[]", '{"schema": 99}', '{"schema": 1}', '{"schema": 1, "cell": 3}'])
def test_a_damaged_record_is_named(run: Run, text: str) -> None:
    path = run.folder / "records" / "utility--faces--net--mist--seed0.json"
    path.write_text(text)
    with pytest.raises(DataError, match=r"utility--faces--net--mist--seed0\.json"):
        leaderboard(run)
