"""The strongest attack up to a level: named on all people, its figures corrected for having been chosen."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from analysis.simulated import CASES, DESIGNS, Case, board, drawn, estimates

from bench.analysis.board import Board, Entry
from bench.analysis.strongest import Strongest, strongest, strongest_up_to
from bench.labels import Knowledge
from bench.storage.records import Measure

OWNERS = DESIGNS["default"]


def _played(case: Case, seed: int = 0) -> Board:
    return board(case, drawn(case, OWNERS, np.random.default_rng(seed)), OWNERS)


def _best(played: Board) -> Strongest:
    return list(strongest_up_to(played, played.entries).values())[-1]


@pytest.mark.parametrize("name", ["one attack", "one better by .05"])
def test_where_nothing_was_chosen_by_chance_nothing_is_corrected(name: str) -> None:
    played = _played(CASES[name])
    best = _best(played)
    assert best.entry is played.entries[0] and best.share == 1 and not best.note
    assert best.metric("ssim") == played.entries[0].metric("ssim")


def test_the_best_of_equal_attacks_is_hardly_too_good() -> None:
    found = estimates(CASES["20 equal"], OWNERS, runs=40)
    plain, ours = found["plain maximum"], found["as reported"]
    assert plain.bias > 0.002, "the curse"
    assert abs(ours.bias) < plain.bias / 2
    assert ours.held >= 0.9 and ours.held >= plain.held
    assert ours.width == pytest.approx(plain.width), "the interval is moved, not stretched"


def test_a_correction_lowers_every_figure_of_the_attack_and_never_raises_its_ssim() -> None:
    for seed in range(5):
        played = _played(CASES["10 equal"], seed)
        tabled = [e.scores for e in played.entries if e.scores is not None]
        entries = tuple(
            replace(
                e, scores=t.assign(psnr_db=30 * t["ssim"]), metrics={**e.metrics, "psnr_db": Measure(25.0, 24.0, 26.0)}
            )
            for e, t in zip(played.entries, tabled, strict=True)
        )
        best = _best(Board("faces", "net", entries))
        own = best.entry.metric("ssim")
        assert own.value == max(e.metric("ssim").value or 0 for e in entries), "named on all people"
        assert 0 < best.share < 1 and best.optimism["ssim"] > 0
        assert best.optimism["psnr_db"] == pytest.approx(30 * best.optimism["ssim"])
        moved = best.metric("psnr_db")
        assert (moved.value, moved.low) == pytest.approx(tuple(x - best.optimism["psnr_db"] for x in (25.0, 24.0)))
        assert best.metric("lpips").value is None


def test_the_order_of_the_records_changes_nothing() -> None:
    played = _played(CASES["5 equal, one on 10 images"])
    again = Board("faces", "net", played.entries[::-1])
    assert _best(played).entry is _best(again).entry
    assert _best(played).metric("ssim") == _best(again).metric("ssim")


def test_a_tie_goes_to_less_knowledge() -> None:
    played = _played(Case([0.75], {}))
    first = played.entries[0]
    twin = replace(first, cell=replace(first.cell, attack="aaa", level="whitebox"))
    found = strongest_up_to(played, [twin, first])
    assert [*found] == [Knowledge.ENCODER, Knowledge.WHITEBOX]
    assert {id(one.entry) for one in found.values()} == {id(first)}
    assert found[Knowledge.WHITEBOX].metric("ssim") == first.metric("ssim"), "two of a kind are one attack"


def test_a_column_has_the_best_of_the_levels_that_it_includes() -> None:
    played = _played(Case([0.5, 0.6, 0.7], {}))
    some = [
        replace(entry, cell=replace(entry.cell, level=level))
        for entry, level in zip(played.entries, ("encoder", "database", "server"), strict=True)
    ]
    found, worst = strongest(played, some)
    chosen = {level: one.entry.cell.attack for level, one in found.items()}
    assert chosen == {
        Knowledge.DATABASE: "attack01", Knowledge.SERVER: "attack02", Knowledge.ENCODER: "attack01"
    }, "the encoder's column leaves out the server's attack"  # fmt: skip
    assert worst is not None and worst.entry.cell.attack == "attack02", "the worst case is of all"
    top = replace(some[0], cell=replace(some[0].cell, attack="top", level="whitebox"))
    found, worst = strongest(played, [*some, top])
    assert found[Knowledge.WHITEBOX].entry.cell.attack == "attack02" and worst is found[Knowledge.WHITEBOX]
    assert strongest(played, []) == ({}, None)


def test_more_knowledge_never_lowers_the_figure() -> None:
    for seed in range(10):
        played = _played(CASES["12 equal, 3 a level"], seed)
        values = [one.metric("ssim").value or 0 for one in strongest_up_to(played, played.entries).values()]
        assert len(values) == 4 and values == sorted(values)


@pytest.mark.parametrize("kind", ["absent", "no column", "a hole"])
def test_without_scores_the_plain_maximum_stays_and_that_is_said(kind: str) -> None:
    played = _played(CASES["2 equal"])
    one, two = played.entries
    assert two.scores is not None
    lacking: dict[str, pd.DataFrame | None] = {
        "absent": None,
        "no column": two.scores.drop(columns="ssim"),
        "a hole": two.scores.assign(ssim=two.scores["ssim"].where(two.scores["name"] != "i0003")),
    }
    entries: list[Entry] = [one, replace(two, scores=lacking[kind])]
    found = strongest_up_to(played, entries)[Knowledge.ENCODER]
    assert found.note == "worst case not corrected: no scores per image of attack01"
    assert found.metric("ssim").value == max(e.metric("ssim").value or 0 for e in entries)
    assert strongest_up_to(played, entries[1:])[Knowledge.ENCODER].note == "", "one attack needs no correction"
