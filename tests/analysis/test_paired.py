"""Accuracy against one reference: differences on the same pairs, and p values for many comparisons."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from bench.analysis.paired import accuracies, holm
from bench.errors import UserError
from bench.storage.records import Cell, Measure, Record, Run

PAIRS = 600


@given(st.lists(st.floats(0, 1), min_size=1, max_size=12))
def test_holm_is_between_each_value_and_bonferroni(values: list[float]) -> None:
    found = holm(values)
    order = np.argsort(values, kind="stable")
    assert (found >= np.array(values) - 1e-12).all() and (found <= 1).all()
    assert (found <= np.minimum(1, len(values) * np.array(values)) + 1e-12).all()
    assert (np.diff(found[order]) >= -1e-12).all()
    assert found[order[0]] == pytest.approx(min(1.0, len(values) * min(values)))


def test_holms_own_steps() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])


def _write(run: Run, defense: str, correct: NDArray[np.bool_]) -> None:
    cell = Cell("utility", "faces", "net", defense)
    names = [f"p{number}/1" for number in range(PAIRS)]
    scores = pd.DataFrame({"left": names, "right": [f"{name}b" for name in names], "correct": correct})
    metrics = {"acc": Measure(float(correct.mean()), n=PAIRS)}
    run.write(Record(cell, "k", "ok", metrics=metrics, info={"stores_features": defense == "plain"}), scores)
    scores = pd.DataFrame({"name": names[:2], "subject": names[:2], "ssim": 0.5})
    cell = Cell("reconstruction", "faces", "net", defense, "decode", "encoder", "template")
    run.write(Record(cell, "k", "ok", metrics={"ssim": Measure(0.5, n=2)}), scores)


def test_differences_in_accuracy_are_of_the_same_pairs(tmp_path: Path) -> None:
    run, rng = Run(tmp_path), np.random.default_rng(0)
    plain = rng.random(PAIRS) < 0.95
    same, worse = plain.copy(), plain.copy()
    worse[np.flatnonzero(plain)[:30]] = False
    for name, correct in (("plain", plain), ("same", same), ("worse", worse), ("other", rng.random(PAIRS) < 0.95)):
        _write(run, name, correct)
    rows = {row["defense"]: row for row in accuracies(run, "plain").to_dict("records")}
    assert set(rows) == {"same", "worse", "other"}
    assert rows["worse"]["difference"] == pytest.approx(-0.05) and rows["worse"]["p_holm"] < 0.001
    assert rows["same"]["difference"] == 0 and rows["same"]["p_holm"] > 0.9
    for row in rows.values():
        assert row["difference_low"] <= row["difference"] <= row["difference_high"] and row["p"] <= row["p_holm"]
    width = {name: row["difference_high"] - row["difference_low"] for name, row in rows.items()}
    assert width["worse"] < width["other"], "pairs that both decide alike say nothing about the difference"
    with pytest.raises(UserError, match="Did you mean 'plain'"):
        accuracies(run, "plane")
