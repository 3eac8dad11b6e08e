"""The gate: planted regressions are caught, chance is not."""

import json
import shutil
import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import CONFIG, ROOT, Cli

from bench.analysis.compare import BAD, compare, passed
from bench.report.compare import render
from bench.settings.model import CompareSettings
from bench.storage.records import Cell, Measure, Record, Run

PEOPLE = [f"p{i:02d}" for i in range(30)]


def _write(
    run: Run, ssim: float, noise: float = 0.0, defense: str = "veil", open_: bool = False, **changes: object
) -> None:
    values = np.clip(ssim + np.random.default_rng(3).normal(0, 0.02, len(PEOPLE)), 0, 1) + noise
    scores = pd.DataFrame({"name": PEOPLE, "subject": PEOPLE, "ssim": values})
    cell = Cell("reconstruction", "faces", "net", defense, "decode", "encoder", "template")
    record = Record(
        cell, "k", "ok", metrics={"ssim": Measure(float(values.mean()), n=30)}, provenance={"protocol": 1},
        parameters={"defense": {"sigma": 1.0}}, info={"stores_features": True} if open_ else {},
        origin={"data": "d", "recognizer": "r", "code": "c"},
    )  # fmt: skip
    run.write(replace(record, **changes), scores)  # type: ignore[arg-type]


def _runs(tmp_path: Path) -> tuple[Run, Run]:
    return Run(tmp_path / "base"), Run(tmp_path / "new")


def _verdicts(base: Run, new: Run) -> set[str]:
    return {f.verdict for f in compare(base, new, CompareSettings())}


def test_a_defence_that_gives_away_more_is_worse(tmp_path: Path) -> None:
    base, new = _runs(tmp_path)
    _write(base, 0.4)
    _write(new, 0.5)
    assert _verdicts(base, new) == {"worse"}
    assert _verdicts(new, base) == {"better"}


def test_an_attack_that_lost_its_strength_is_worse_where_nothing_is_protected(tmp_path: Path) -> None:
    base, new = _runs(tmp_path)
    _write(base, 0.9, open_=True)
    _write(new, 0.6, open_=True)
    assert _verdicts(base, new) == {"worse"}
    for name in ("canary~open", "canary~secret"):
        _write(base, 0.9, defense=name)
        _write(new, 0.6, defense=name)
    assert _verdicts(base, new) == {"worse"}


def test_small_differences_and_uncertain_ones_are_noise(tmp_path: Path) -> None:
    base, new = _runs(tmp_path)
    _write(base, 0.4)
    _write(new, 0.41)
    assert _verdicts(base, new) == {"within noise"}, "less than the tolerance"
    scores = new.scores(Cell("reconstruction", "faces", "net", "veil", "decode", "encoder", "template"))
    scores["ssim"] += np.where(np.arange(len(scores)) % 2, 0.4, -0.34)
    _write(new, 0.4)
    record = new.read(new.names()[0])
    assert record is not None
    new.write(replace(record, metrics={"ssim": Measure(float(scores["ssim"].mean()), n=30)}), scores)
    assert _verdicts(base, new) == {"within noise"}, "more than the tolerance, but 0 is inside the interval"


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"provenance": {"protocol": 2}}, "protocol 1 before, 2 now"),
        ({"origin": {"data": "x", "recognizer": "r", "code": "c"}}, "other data"),
        ({"origin": {"data": "d", "recognizer": "x", "code": "c"}}, "other recognizer"),
        ({"parameters": {"defense": {"sigma": 0.5}}}, "defense's sigma: 1.0 before, 0.5 now"),
    ],
)
def test_what_is_not_the_same_thing_is_not_compared(tmp_path: Path, changes: dict[str, object], said: str) -> None:
    base, new = _runs(tmp_path)
    _write(base, 0.4)
    _write(new, 0.4, **changes)
    (finding,) = compare(base, new, CompareSettings())
    assert finding.verdict == "not comparable"
    assert said in finding.note
    assert not passed([finding])


def test_changed_code_is_compared_and_said(tmp_path: Path) -> None:
    base, new = _runs(tmp_path)
    _write(base, 0.4)
    _write(new, 0.5, origin={"data": "d", "recognizer": "r", "code": "other"})
    (finding,) = compare(base, new, CompareSettings())
    assert (finding.verdict, finding.note) == ("worse", "code changed")


def test_failures_and_gaps_are_told_apart(tmp_path: Path) -> None:
    base, new = _runs(tmp_path)
    for name in ("a", "b", "c"):
        _write(base, 0.4, defense=name)
    _write(new, 0.4, defense="a", status="error", reason="RuntimeError: no luck")
    _write(new, 0.4, defense="b")
    _write(new, 0.4, defense="d")
    found = {f.cell.split("--")[3]: f.verdict for f in compare(base, new, CompareSettings())}
    assert found == {"a": "new failure", "b": "within noise", "c": "missing", "d": "new"}
    back = {f.cell.split("--")[3]: f.verdict for f in compare(new, base, CompareSettings())}
    assert back["a"] == "mended"


@settings(deadline=None)  # a busy machine is no fault
@given(first=st.floats(0.1, 0.9), second=st.floats(0.1, 0.9))
def test_verdicts_are_antisymmetric(tmp_path_factory: pytest.TempPathFactory, first: float, second: float) -> None:
    folder = tmp_path_factory.mktemp("pair")
    base, new = _runs(folder)
    _write(base, first)
    _write(new, second)
    swapped = {"better": "worse", "worse": "better", "within noise": "within noise"}
    assert {swapped[v] for v in _verdicts(base, new)} == _verdicts(new, base)
    assert _verdicts(base, base) == {"within noise"}
    shutil.rmtree(folder)


def _decided(run: Run, wrong: int) -> None:
    """A replay and a utility cell of 80 decisions each, so many of them against the defence."""
    right = np.arange(80) >= wrong
    common = {"provenance": {"protocol": 1}, "origin": {"data": "d", "recognizer": "r", "code": "c"}}
    names = [f"p{i}/1" for i in range(80)]
    replay = pd.DataFrame({"name": names, "subject": [f"p{i}" for i in range(80)], "srra1": ~right})
    cell = Cell("replay", "faces", "net", "veil", "replay", "encoder", "template")
    run.write(Record(cell, "k", "ok", metrics={"srra1": Measure(wrong / 80, n=80)}, **common), replay)  # type: ignore[arg-type]
    pairs = pd.DataFrame({"left": names, "right": [f"p{(i + 1) % 80}/2" for i in range(80)], "correct": right})
    metrics = {"acc": Measure(1 - wrong / 80, n=80)}
    run.write(Record(Cell("utility", "faces", "net", "veil"), "k", "ok", metrics=metrics, **common), pairs)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("before", "after", "verdict"),
    [(0, 0, "within noise"), (0, 4, "within noise"), (0, 20, "worse"), (20, 0, "better"), (80, 0, "better")],
)
def test_decisions_are_compared_near_the_edge(tmp_path: Path, before: int, after: int, verdict: str) -> None:
    base, new = _runs(tmp_path)
    _decided(base, before)
    _decided(new, after)
    found = compare(base, new, CompareSettings())
    assert {f.metric: f.verdict for f in found} == {"acc": verdict, "srra1": verdict}
    for finding in found:
        assert finding.low is not None and finding.high is not None and finding.low < finding.high
        assert finding.low <= (finding.new or 0) - (finding.base or 0) <= finding.high


def test_runs_of_percentile_intervals_are_still_read() -> None:
    reference = Run(ROOT / "results" / "reference")
    found = compare(reference, reference, CompareSettings())
    assert {f.verdict for f in found} == {"within noise"}
    assert any(f.metric == "acc" and f.low is not None and f.low < f.high for f in found)


GATED = (
    CONFIG.replace('attacks = ["mean_face", "resrec", "replay"]', 'attacks = ["mean_face", "attack"]')
    .replace('defenses = ["unprotected", "laplace", "advface"]', 'defenses = ["unprotected", "mine"]')
    .replace("epochs = 2\n", "epochs = 20\nbatch = 8\n")
    + '\n[defenses.mine]\nplugin = "mine.py"\n[attacks.attack]\nplugin = "attack.py"\n'
)
MINE = (ROOT / "defenses" / "laplace.py").read_text()
ATTACK = (ROOT / "attacks" / "resrec.py").read_text()


def test_planted_regressions_are_caught_by_the_gate(tmp_path: Path, cli: Cli) -> None:
    """A defence made weaker and an attack made weaker, in their source, as a careless commit would."""
    (tmp_path / "bench.toml").write_text(GATED)

    def run(output: str, mine: str = MINE, attack: str = ATTACK) -> None:
        (tmp_path / "mine.py").write_text(mine)
        (tmp_path / "attack.py").write_text(attack)
        cli("run", "--quiet", "--output", output, cwd=tmp_path)

    run("base")
    assert "passed" in cli("compare", "base", "base", cwd=tmp_path).stdout
    bare = "def protect(self, system, features, rng):\n        return features\n\n    def _was("
    weaker = MINE.replace("def protect(", bare)
    assert weaker != MINE
    run("weak_defence", mine=weaker)
    done = cli("compare", "base", "weak_defence", "--junit", "out.xml", "--markdown", "out.md", cwd=tmp_path, status=1)
    assert "FAILED" in done.stdout and "mine--attack" in done.stdout
    suite = ET.parse(tmp_path / "out.xml").getroot()
    assert int(suite.attrib["failures"]) == len(suite.findall("testcase/failure")) > 0
    assert "worse" in (tmp_path / "out.md").read_text()
    lazy = ATTACK + (
        "\n    def reconstruct(self, oracle, state, leak, rng):\n"
        "        return super().reconstruct(oracle, state, leak, rng) * 0.5 + 0.25\n"
    )
    assert lazy != ATTACK
    run("weak_attack", attack=lazy)
    done = cli("compare", "base", "weak_attack", "--json", cwd=tmp_path, status=1)
    found = json.loads(done.stdout)
    assert any("unprotected--attack" in f["cell"] and f["verdict"] == "worse" for f in found["findings"])
    assert not any(f["verdict"] in BAD and "mean_face" in f["cell"] for f in found["findings"])


def test_a_misspelt_tolerance_names_the_near_miss(tmp_path: Path, cli: Cli) -> None:
    (tmp_path / "bench.toml").write_text(CONFIG + "\n[compare]\nsim = 0.1\n")
    assert "Did you mean 'ssim'" in " ".join(cli("compare", "a", "b", cwd=tmp_path, status=2).stderr.split())


def test_nothing_to_compare_is_said(tmp_path: Path) -> None:
    base, _ = _runs(tmp_path)
    _write(base, 0.4)
    assert "passed" in render(compare(base, base, CompareSettings()), "md")
