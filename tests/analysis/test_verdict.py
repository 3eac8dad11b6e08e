"""A defence in a sentence: what it hides from whom, what a login with the rebuilt face is worth, what it costs."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.analysis.leaderboard import leaderboard, sorted_by
from bench.analysis.verdict import LEVELS, verdicts
from bench.errors import UserError
from bench.labels import LADDER, Knowledge
from bench.storage.records import Cell, Measure, Record, Run


def _row(name: str, undefended: bool = False, **figures: tuple[float, float, float] | float) -> dict[str, Any]:
    row: dict[str, Any] = {"dataset": "faces", "recognizer": "net", "defense": name, "undefended": undefended}
    row |= {"bound_note": "", "failed": "", "flags": "", "blind_ssim": 0.46, "blind_ssim_low": 0.45}
    row |= {"blind_ssim_high": 0.47, "worst_ssim": math.nan}
    for level in LEVELS:
        row |= {f"{level}_ssim": math.nan, f"{level}_srra1": math.nan}
    for key, figure in figures.items():
        value, low, high = figure if isinstance(figure, tuple) else (figure, figure - 0.01, figure + 0.01)
        row |= {key: value, f"{key}_low": low, f"{key}_high": high}
        row["worst_ssim"] = value if key.endswith("_ssim") else row["worst_ssim"]
    return row


_RANKS = ("hidden", "partly", "shown")
BARE = _row("open", True, encoder_ssim=0.86, algorithm_ssim=0.86, enrolment_ssim=0.86, whitebox_ssim=0.9)


def _said(**figures: Any) -> str:
    return verdicts(pd.DataFrame([BARE, _row("mine", **figures)]))[1].sentence


@pytest.mark.parametrize(
    ("figures", "said"),
    [
        ({}, "was not attacked: nothing is known of what it hides."),
        (
            {"encoder_ssim": 0.43, "algorithm_ssim": 0.75, "enrolment_ssim": 0.76, "whitebox_ssim": 0.76},
            "hides the face from an attacker who has the client (encoder), not from one who knows the defence "
            "(algorithm).",
        ),
        ({"encoder_ssim": 0.8}, "does not hide the face, not even from an attacker who has the client (encoder)."),
        (
            {f"{level}_ssim": 0.45 for level in LEVELS},
            "hides the face from every attacker that was tried, up to one who has the whole system (whitebox).",
        ),
        (
            {"encoder_ssim": 0.46, "algorithm_ssim": 0.55},
            "hides the face from an attacker who has the client (encoder), part of it from one who knows the defence "
            "(algorithm); not tried: enrolment, whitebox.",
        ),
        (
            {"server_ssim": 0.8, **{f"{level}_ssim": 0.45 for level in LADDER[:3]}},
            "hides the face from an attacker who may enrol faces (enrolment), not from one who runs the server "
            "(server).",
        ),
        (
            {"server_ssim": 0.45, **{f"{level}_ssim": 0.45 for level in LADDER[:3]}},
            "hides the face from every attacker that was tried, up to one who runs the server (server) or may enrol "
            "faces (enrolment); not tried: whitebox.",
        ),
        (
            {"encoder_ssim": 0.6, "enrolment_ssim": 0.8},
            "hides part of the face from an attacker who has the client (encoder), not from one who may enrol faces "
            "(enrolment); not tried: algorithm.",
        ),
        (
            {"encoder_ssim": 0.4, "whitebox_ssim": 0.4, "encoder_srra1": (0.2, 0.1, 0.3), "whitebox_srra1": (1, 1, 1)},
            "hides the face from every attacker that was tried, up to one who has the whole system (whitebox); but "
            "100 % of logins with the rebuilt face succeed; not tried: algorithm, enrolment.",
        ),
    ],
)
def test_the_sentence_says_what_the_intervals_say(figures: dict[str, Any], said: str) -> None:
    assert _said(**figures) == said


@pytest.mark.parametrize(
    ("cost", "said"),
    [
        ((0.015, 0.002, 0.03), "costs 1.5 points of accuracy [0.2, 3.0]"),
        ((0.015, -0.01, 0.04), "costs 1.5 points of accuracy [-1.0, 4.0], which may be chance"),
        ((-0.02, -0.03, -0.01), "gains 2.0 points of accuracy [1.0, 3.0]"),
        ((0.0, -0.01, 0.01), "costs no accuracy on these pairs [-1.0, 1.0]"),
        ((0.1, math.nan, math.nan), "costs 10.0 points of accuracy"),
    ],
)
def test_the_cost_is_in_points_with_its_interval(cost: tuple[float, float, float], said: str) -> None:
    parts = _said(encoder_ssim=0.8, acc_cost=cost).rstrip(".").split("; ")
    assert parts[1] == said


def test_attacks_that_fail_on_the_undefended_system_prove_nothing() -> None:
    weak = {**BARE, "encoder_ssim": 0.3, "encoder_ssim_low": 0.29, "encoder_ssim_high": 0.31}
    for level in ("algorithm", "enrolment", "whitebox"):
        weak[f"{level}_ssim"] = math.nan
    bare, mine = verdicts(pd.DataFrame([weak, _row("mine", encoder_ssim=0.3)]))
    assert "too weak to judge any defence" in bare.sentence and not bare.standings
    assert mine.sentence.startswith("cannot be judged: the attacks see nothing in the undefended system either")
    mine = verdicts(pd.DataFrame([weak, _row("mine", encoder_ssim=0.3, algorithm_ssim=0.9)]))[1]
    assert mine.sentence.startswith("does not hide the face, not even from an attacker who knows the defence")
    assert "nothing can be said of encoder: the attacks see nothing" in mine.sentence


def test_without_a_floor_or_an_undefended_system_it_says_so_or_uses_a_perfect_image() -> None:
    row = _row("mine", encoder_ssim=0.7)
    assert verdicts(pd.DataFrame([row]))[0].standings == {"encoder": "partly"}, "halfway to a perfect image is .73"
    row["blind_ssim"] = math.nan
    assert "no floor to compare with" in verdicts(pd.DataFrame([row]))[0].sentence


@given(st.lists(st.floats(0, 1) | st.none(), min_size=len(LEVELS), max_size=len(LEVELS)), st.floats(0, 0.2))
def test_who_knows_more_never_sees_less(reached: list[float | None], wide: float) -> None:
    figures = {
        f"{level}_ssim": (value, value - wide, value + wide)
        for level, value in zip(LEVELS, reached, strict=True)
        if value is not None
    }
    verdict = verdicts(pd.DataFrame([BARE, _row("mine", **figures)]))[1]
    ranks = {Knowledge[level.upper()]: _RANKS.index(standing) for level, standing in verdict.standings.items()}
    assert all(ranks[a] <= ranks[b] for a in ranks for b in ranks if a < b)
    assert list(ranks) == [level for level, value in zip(LEVELS, reached, strict=True) if value is not None]
    assert verdict.sentence.endswith(".") and "nan" not in verdict.sentence


def _utility(run: Run, defense: str, correct: list[bool], **info: Any) -> None:
    cell = Cell("utility", "faces", "net", defense)
    names = [f"p{i}/0" for i in range(len(correct))]
    scores = pd.DataFrame({"left": names, "right": [f"p{i}/1" for i in range(len(correct))], "correct": correct})
    measure = Measure(float(np.mean(correct)), n=len(correct))
    run.write(Record(cell, "k", "ok", metrics={"acc": measure, "acc_raw_probe": measure}, info=info), scores)


def test_the_cost_is_measured_on_the_same_pairs(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _utility(run, "open", [True] * 40, stores_features=True)
    _utility(run, "same", [True] * 40)
    _utility(run, "half", [True, False] * 20)
    board = leaderboard(run).set_index("defense")
    assert board.loc["half", "acc_cost"] == pytest.approx(0.5)
    assert 0.25 < board.loc["half", "acc_cost_low"] < 0.5 < board.loc["half", "acc_cost_high"] < 0.75
    assert board.loc["same", "acc_cost"] == 0 and board.loc["same", "acc_cost_low"] < 0
    assert math.isnan(board.loc["open", "acc_cost"]), "it is what the others are compared with"
    assert list(sorted_by(leaderboard(run), "acc")["defense"])[-1] == "half"
    with pytest.raises(UserError, match="Did you mean 'acc_cost'"):
        sorted_by(leaderboard(run), "acc_cots")


def test_a_login_counts_at_its_attackers_level_and_never_of_a_void_attack(tmp_path: Path) -> None:
    run = Run(tmp_path)
    _utility(run, "mine", [True] * 8)
    for attack, level, rate in (("weak", "encoder", 0.3), ("strong", "enrolment", 0.7), ("odd", "whitebox", 1.0)):
        cell = Cell("replay", "faces", "net", "mine", f"replay_{attack}", level, "template")
        info = {"presents": "image", "wraps": attack}
        run.write(Record(cell, "k", "ok", metrics={"srra1": Measure(rate), "srra2": Measure(0.1)}, info=info))
        rebuilt = Cell("reconstruction", "faces", "net", "mine", attack, level, "template")
        scores = pd.DataFrame({"name": list("abc"), "subject": list("abc"), "ssim": [0.6, 0.7, 0.8]})
        run.write(Record(rebuilt, "k", "ok", metrics={"ssim": Measure(0.7, 0.6, 0.8, 3)}), scores)
    tested = Cell("reconstruction", "faces", "net", "canary~open", "odd", "whitebox", "template")
    run.write(Record(tested, "k", "error", reason="out of luck"))
    row = leaderboard(run).set_index("defense").loc["mine"]
    assert (row["encoder_srra1"], row["enrolment_srra1"], row["srra1"]) == (0.3, 0.7, 0.7)
    assert math.isnan(row["algorithm_srra1"]) and math.isnan(row["whitebox_srra1"])
