"""Curves of keyed defences: error trade-offs against cases by hand, and which sweeps are drawn."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.board import boards
from bench.analysis.keyed_curves import det_curves, error_trade_off, swept_templates
from bench.report.keyed_figures import det, template_curves
from bench.storage.records import Cell, Measure, Record, Run


def test_a_trade_off_by_hand() -> None:
    scores = np.array([0.9, 0.6, 0.4, 0.2, 0.8, 0.5, 0.3, 0.1])
    mated = np.array([True] * 4 + [False] * 4)
    fmr, fnmr = error_trade_off(scores, mated)
    # Thresholds .8, .6, .5, .4, .3, .2; at .9 nobody else is let in, at .2 and below nobody is missed.
    assert fmr == pytest.approx([0.25, 0.25, 0.5, 0.5, 0.75])
    assert fnmr == pytest.approx([0.75, 0.5, 0.5, 0.25, 0.25])


def test_separated_scores_have_no_point_on_a_det() -> None:
    fmr, fnmr = error_trade_off(np.array([0.9, 0.8, 0.2, 0.1]), np.array([True, True, False, False]))
    assert len(fmr) == len(fnmr) == 0


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path)
    run.prepare()
    rng = np.random.default_rng(0)
    mated = np.arange(400) < 20
    for bits in (64, 8, 128):
        plain = rng.normal(size=400) + 2 * mated
        scores = pd.DataFrame(
            {"mated": mated, "fold": -1, "plain": plain, "normal": plain + mated, "stolen": plain - mated / bits}
        )
        metrics = {"acc_normal": Measure(1 - 1 / bits, 0.8, 1.0, 20)}
        cell = Cell("protection", "faces", "net", f"hash[bits={bits}]")
        run.write(Record(cell, "k" * 64, "ok", metrics=metrics), scores)
    single = Cell("protection", "faces", "net", "alone[keys=system]")
    run.write(Record(single, "k" * 64, "skipped", reason="does not fit"))
    return run


def test_a_sweep_is_in_order_of_its_values(run: Run) -> None:
    (board,) = boards(run)
    assert board.keyed == ["alone[keys=system]", "hash[bits=8]", "hash[bits=64]", "hash[bits=128]"]
    frame = swept_templates(board)
    assert frame["x"].tolist() == [8, 64, 128]
    assert set(frame["family"]) == {"hash"}
    assert frame["acc_normal"].tolist() == pytest.approx([7 / 8, 63 / 64, 127 / 128])


def test_curves_are_drawn_with_unprotected_scores_once(run: Run) -> None:
    (board,) = boards(run)
    curves = det_curves(run, board)
    assert curves[curves["scenario"] == "plain"]["defense"].nunique() == 1
    assert curves.groupby(["defense", "scenario"]).ngroups == 7
    assert (curves["fmr"] * curves["fnmr"] > 0).all()
    drawn, along = det(run), template_curves(run)
    assert drawn is not None and along is not None
    (panel,) = [axis for axis in drawn.axes if axis.get_visible()]
    assert len(panel.lines) == 7
    accuracy = along.axes[0].lines[0].get_xydata()
    assert np.asarray(accuracy)[:, 0].tolist() == [8, 64, 128]
