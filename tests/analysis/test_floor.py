"""The floor under attacks' errors: which attacks it bounds, and what the tables and the picture say."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.flags import meaning
from bench.analysis.leaderboard import leaderboard
from bench.report.floor import floor_figure
from bench.storage.records import Cell, Measure, Record, Run


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    for defense, info in (("veil", {"floor": {"mse": 0.01}}), ("mask", {})):
        cell = Cell("utility", "faces", "net", defense)
        run.write(Record(cell, "k", "ok", metrics={"acc": Measure(0.9, 0.8, 1, 9)}, info=info))
        _attack(run, defense, "decode", 0.02)
    return run


def _attack(run: Run, defense: str, attack: str, mse: float, copies: int = 1) -> None:
    scores = pd.DataFrame({"name": ["a", "b"], "subject": ["a", "b"], "ssim": 0.4})
    metrics = {"ssim": Measure(0.4, n=2), "mse": Measure(mse, 0.9 * mse, 1.1 * mse, 2)}
    cell = Cell("reconstruction", "faces", "net", defense, attack, "encoder", "template")
    run.write(Record(cell, "k", "ok", metrics=metrics, info={"reconstruction": {"copies": copies}}), scores)


def test_the_floor_stands_beside_the_best_attack_on_one_template(run: Run) -> None:
    _attack(run, "veil", "average", 0.001, copies=16)
    _attack(run, "veil", "search", 0.015)
    rows = {row["defense"]: row for row in leaderboard(run).to_dict("records")}
    assert [rows["veil"][name] for name in ("mse_floor", "lowest_mse", "lowest_mse_attack")] == [0.01, 0.015, "search"]
    assert np.isnan(rows["mask"]["mse_floor"])
    assert "van Trees" not in rows["veil"]["flags"], "an average of copies may be lower"


def test_an_attack_below_the_floor_is_flagged(run: Run) -> None:
    _attack(run, "veil", "cheat", 0.008)
    _attack(run, "veil", "close", 0.0095)  # its interval reaches above the floor
    flags = leaderboard(run).set_index("defense")["flags"]
    found = [flag for flag in flags["veil"].split("; ") if "van Trees" in flag]
    assert found == ["below the van Trees floor: cheat"]
    assert "Gaussian" in meaning(found[0])
    assert "van Trees" not in flags["mask"]


def test_the_picture_has_a_row_for_each_defence_with_a_floor(run: Run, tmp_path: Path) -> None:
    figure = floor_figure(run)
    assert figure is not None
    (axis,) = figure.axes
    assert [label.get_text() for label in axis.get_yticklabels()] == ["veil"]
    points = [np.asarray(line.get_xdata()).tolist() for line in axis.lines]
    assert [some for some in points if some] == [[0.02]]
    bare = Run(tmp_path / "bare")
    bare.write(Record(Cell("utility", "faces", "net", "mask"), "k", "ok", metrics={"acc": Measure(0.9, n=9)}))
    assert floor_figure(bare) is None
