"""What tables say about the evaluation itself, from records made by hand."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from bench.analysis.flags import EXPLAINED
from bench.analysis.leaderboard import leaderboard
from bench.analysis.selftest import trials
from bench.report.leaderboard import render
from bench.runner.judging import _attack_flags
from bench.storage.records import Cell, Measure, Record, Run

PEOPLE = [f"p{i}" for i in range(24)]


def _cell(run: Run, defense: str, attack: str, level: str, ssim: float, other: float = 0.2, seed: int = 0) -> None:
    values = np.clip(ssim + np.random.default_rng(7).normal(0, 0.02, len(PEOPLE)), 0, 1)
    strangers = np.clip(other + np.random.default_rng(8 + seed).normal(0, 0.02, len(PEOPLE)), 0, 1)
    scores = pd.DataFrame({"name": PEOPLE, "subject": PEOPLE, "ssim": values, "ssim_other": strangers})
    cell = Cell("reconstruction", "faces", "net", defense, attack, level, "template", seed)
    measure = Measure(float(values.mean()), ssim - 0.02, ssim + 0.02, len(PEOPLE))
    info = {"stores_features": True} if defense == "unprotected" else {}
    run.write(Record(cell, "k", "ok", metrics={"ssim": measure}, info=info), scores)


@pytest.fixture
def run(tmp_path: Path) -> Run:
    run = Run(tmp_path / "run")
    for defense in ("unprotected", "veil"):
        run.write(Record(Cell("utility", "faces", "net", defense), "k", "ok", metrics={"acc": Measure(0.9, 0.8, 1, 9)}))
        _cell(run, defense, "grey", "blind", 0.3)
    _cell(run, "unprotected", "decode", "encoder", 0.9)
    _cell(run, "veil", "decode", "encoder", 0.5)
    return run


def _flags(run: Run, defense: str = "veil") -> str:
    return str(leaderboard(run).set_index("defense").loc[defense, "flags"])


def test_nothing_is_said_where_nothing_is_wrong(run: Run) -> None:
    assert _flags(run) == ""


def test_a_black_box_that_beats_the_white_box_is_said(run: Run) -> None:
    _cell(run, "veil", "invert", "whitebox", 0.4)
    assert _flags(run) == "black box beats white box"
    _cell(run, "veil", "invert", "whitebox", 0.6)
    assert _flags(run) == ""


def test_knowledge_that_made_it_worse_is_said(run: Run) -> None:
    _cell(run, "veil", "decode@enrolment", "enrolment", 0.4)
    assert _flags(run) == "more knowledge made it worse"
    row = leaderboard(run).set_index("defense").loc["veil"]
    assert row["enrolment_ssim"] == row["encoder_ssim"], "who knows more may do what who knows less does"
    assert np.isnan(row["algorithm_ssim"])


def test_an_attack_that_fails_where_nothing_is_protected_is_said(run: Run) -> None:
    _cell(run, "unprotected", "feeble", "encoder", 0.25)
    _cell(run, "veil", "feeble", "encoder", 0.25)
    assert "attack failed on the unprotected system" in _flags(run)


def test_few_people_are_said(run: Run) -> None:
    scores = run.scores(Cell("reconstruction", "faces", "net", "veil", "decode", "encoder", "template"))
    scores["subject"] = [f"p{i % 5}" for i in range(len(scores))]
    cell = Cell("reconstruction", "faces", "net", "veil", "decode", "encoder", "template")
    run.write(Record(cell, "k", "ok", metrics={"ssim": Measure(0.5, 0.4, 0.6, 24)}), scores)
    assert _flags(run) == "too few people for the interval"


def test_attacks_say_when_their_gradients_are_no_good() -> None:
    fine = {"mse": Measure(0.01), "psnr_db": Measure(20.5)}
    assert _attack_flags({}, fine) == ()
    assert _attack_flags({"gradient_norm": 0.0}, fine) == ("zero gradients",)
    assert _attack_flags({"gradient_norm": 1e12}, fine) == ("exploding gradients",)
    assert _attack_flags({"gradients_masked": 1.0}, fine) == ("gradients masked",)
    assert _attack_flags({"converged": 0.5}, fine) == ("attack not converged",)
    # Jensen: the mean of decibels cannot lie below the decibels of the mean.
    assert "metric lint" in _attack_flags({}, {"mse": Measure(0.01), "psnr_db": Measure(19.0)})[0]


def test_canaries_void_what_is_weak_and_what_knows_too_much(run: Run) -> None:
    _cell(run, "canary~open", "decode", "encoder", 0.9)
    _cell(run, "canary~closed", "decode", "encoder", 0.2, other=0.2)
    assert [t.passed for t in trials(run)] == [True, True]
    assert _flags(run) == ""
    _cell(run, "canary~open", "decode", "encoder", 0.6)  # half of the way from .3 to 1 is .65
    assert {t.canary for t in trials(run) if not t.passed} == {"open"}
    assert _flags(run) == "attack void: decode"
    assert np.isnan(leaderboard(run).set_index("defense").loc["veil", "worst_ssim"])
    _cell(run, "canary~open", "decode", "encoder", 0.9)
    _cell(run, "canary~closed", "decode", "encoder", 0.5, other=0.2)  # it knows what the template cannot tell
    assert {t.canary for t in trials(run) if not t.passed} == {"closed"}
    assert "FAILED: void" in render(leaderboard(run), "md", run)


def test_every_flag_is_explained(run: Run) -> None:
    _cell(run, "veil", "invert", "whitebox", 0.25)
    for flag in _flags(run).split("; "):
        assert any(flag.startswith(known) for known in EXPLAINED), flag


def test_seeds_show_their_spread(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for seed, ssim in enumerate((0.4, 0.5, 0.6)):
        _cell(run, "veil", "decode", "encoder", ssim, seed=seed)
    text = render(leaderboard(run), "md", run)
    assert "3 (± .100)" in text
