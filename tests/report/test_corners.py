"""Reports of awkward runs: hostile names and messages, nothing in common, nothing to show."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.board import boards
from bench.analysis.leaderboard import leaderboard
from bench.report.grid import grid, write_grids
from bench.report.heatmap import heatmap, save
from bench.report.leaderboard import render
from bench.report.text import figure_text
from bench.storage.records import Cell, Measure, Record, Run

LPIPS = Measure(None, note="unavailable: no backbone")


def _cell(defense: str, attack: str, level: str = "encoder", leaks: str = "template", seed: int = 0) -> Cell:
    return Cell("reconstruction", "faces", "net", defense, attack, level, leaks, seed)


def _good(run: Run, cell: Cell, ssim: float, people: str = "abcdef") -> None:
    names = list(people)
    scores = pd.DataFrame({"name": names, "subject": names, "ssim": ssim, "psnr_db": 20.0, "mse": 0.01})
    picture = np.full((len(names), 16, 12, 3), 99, dtype=np.uint8)
    samples = {"original": picture, "reconstruction": picture, "name": np.array(names)}
    metrics = {"ssim": Measure(ssim, ssim, ssim, len(names)), "lpips": LPIPS}
    run.write(Record(cell, "k", "ok", metrics=metrics), scores, samples)


@pytest.mark.parametrize(
    ("figure", "said"),
    [
        ((1.0, 0.9777, 1.0), "1.000 [.978, 1.000]"),
        ((1.0, 0.9996, 1.0), "1.000 [.999, 1.000]"),
        ((0.0003, 0.0001, 0.0004), ".000 [.000, .001]"),
        ((1.0, 1.0, 1.0), "1.000"),  # of a run whose intervals were percentiles
        ((0.5, None, None), ".500"),
        ((None, None, None), "–"),
        ((0.5, float("nan"), float("nan")), ".500"),
    ],
)
def test_no_interval_is_printed_empty(figure: tuple[float | None, ...], said: str) -> None:
    assert figure_text(*figure, 3) == said


def test_what_is_odd_about_the_files_is_said_once_with_its_number(tmp_path: Path) -> None:
    run = Run(tmp_path)
    told = {"links to files, followed": {"count": 5, "files": ["a.png", "b|c.png"]},
            ".db files, left out": {"count": 1, "files": ["Thumbs.db"]}}  # fmt: skip
    for defense in ("veil", "mask"):
        _good(run, _cell(defense, "decode"), 0.4)
        run.write(replace(run.records()[-1], cell=Cell("utility", "faces", "net", defense), info={"files": told}))
    assert render(leaderboard(run), "md", run).endswith(
        "### Files: faces\n\n- .db files, left out: 1 (Thumbs.db)\n"
        "- links to files, followed: 5 (a.png, b\\|c.png, ...)\n"
    )


def test_a_message_of_many_lines_stays_one_row(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _good(run, _cell("veil", "decode"), 0.4)
    run.write(Record(_cell("veil", "invert"), "k", "error", reason="ValueError: <class 'a'> | b\n\n# heading\n| c"))
    text = render(leaderboard(run), "md", run)
    row = next(line for line in text.splitlines() if "ValueError" in line)
    assert row.startswith(
        "| veil | invert | encoder | failed: error: ValueError: &lt;class 'a'> \\| b # heading \\| c |"
    )
    assert "\n# heading" not in text


def test_what_is_known_of_a_worst_case_with_a_gap_is_a_lower_bound(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for defense in ("veil", "mist"):
        _good(run, _cell(defense, "decode"), 0.4)
    _good(run, _cell("mist", "invert", "whitebox"), 0.9)
    text = render(leaderboard(run), "md")
    veil, mist = (next(line for line in text.splitlines() if line.startswith(f"| {d} ")) for d in ("veil", "mist"))
    assert "| ≥ .400 " in veil and "| incomplete |" in veil
    assert "| .900 " in mist and "invert (whitebox)" in mist
    assert "- veil: too few people for the interval; incomplete: invert" in text


def test_attacks_on_no_image_in_common_have_no_bound(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _good(run, _cell("veil", "decode"), 0.4, "abc")
    _good(run, _cell("veil", "invert"), 0.5, "def")
    row = leaderboard(run).iloc[0]
    assert np.isnan(row["bound_ssim"])
    assert row["bound_note"] == "incomplete: the attacks have no image in common"
    (board,) = boards(run)
    figure = grid(run, board, "veil")
    assert figure is not None
    places = [image.get_extent() for image in figure.axes[0].get_images()]
    columns = sorted({left for left, *_ in places})
    rows = [[columns.index(left) for left, *_, top in places if top == y] for y in sorted({p[3] for p in places})]
    assert rows == [[0, 1, 2, 3, 4, 5], [0, 1, 2], [3, 4, 5]], "pictures go by name"


def test_attacks_on_embeddings_stand_outside(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _good(run, _cell("veil", "decode"), 0.4)
    _good(run, _cell("veil", "diffuse", leaks="embedding"), 0.8)
    row = leaderboard(run).iloc[0]
    assert (row["worst_attack"], row["bound_note"]) == ("decode", "")


def test_a_run_where_everything_failed_still_has_its_reports(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write(Record(_cell("veil", "decode"), "k", "error", reason="no"))
    run.write(Record(_cell("mist", "decode"), "k", "skipped", reason="no"))
    frame = leaderboard(run)
    assert sorted(frame["failed"]) == ["", "decode"], "what was skipped did not fail"
    for fmt in ("md", "csv", "tex", "json"):
        assert "decode" in render(frame, fmt, run)
    assert write_grids(run) == []


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("metric", ["ssim", "lpips", "psnr_db"])
def test_a_heatmap_says_why_a_cell_is_empty(tmp_path: Path, metric: str) -> None:
    run = Run(tmp_path)
    _good(run, _cell("veil", "decode"), 0.4)
    _good(run, _cell("veil", "invert"), 0.4)
    run.write(Record(_cell("mist", "decode"), "k", "error", reason="no"))
    run.write(Record(_cell("fog", "invert"), "k", "skipped", reason="no"))
    texts = {text.get_text() for text in heatmap(run, metric).axes[0].texts}
    assert texts == {"failed", "skipped", "not run", ".40" if metric == "ssim" else "unavailable"}
    assert all(path.stat().st_size for path in save(heatmap(run, metric), tmp_path / "map"))


def test_a_grid_shows_a_failed_attack_and_the_scores_of_the_seed_in_the_picture(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _good(run, _cell("a/b", "decode", seed=0), 0.25)
    _good(run, _cell("a/b", "decode", seed=1), 0.75)
    run.write(Record(_cell("a/b", "invert"), "k", "error", reason="no"))
    (board,) = boards(run)
    figure = grid(run, board, "a/b")
    assert figure is not None
    texts = [text.get_text() for text in figure.axes[0].texts]
    assert texts.count("0.25") == texts.count("error") == 6
    assert "0.75" not in texts
    (path,) = write_grids(run, "a/b")
    assert path.parent == run.folder and path.name.startswith("grid_a_b-"), "its own, though a_b may be there too"
