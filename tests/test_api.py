"""The Python interface, as a script or a notebook uses it."""

from __future__ import annotations

import linecache
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from support import CONFIG, ENVIRONMENT, ROOT, figures

import bench
from bench.analysis.submission import export
from bench.errors import DataError, UserError
from bench.report.leaderboard import as_html
from bench.storage.keys import source_hash

CELL = '''
from dataclasses import dataclass
from bench.contracts import Defense, Knowledge, ReconstructionAttack

STRENGTH = 0.5

def scaled(noise):
    return noise * STRENGTH

@dataclass(frozen=True, kw_only=True)
class Mine(Defense):
    """Adds noise."""

    randomized = True
    sigma: float = 1.0

    def protect(self, system, features, rng):
        return features + self.sigma * scaled(rng.normal(features))
'''
SMALL = {"run.defenses": ["unprotected"], "run.attacks": ["mean_face", "resrec"]}


def notebook(cell: str, name: str = "__main__") -> dict[str, Any]:
    """What a cell defines, as a kernel runs it: in a module without a file, its lines known to linecache alone."""
    session = ModuleType(name)
    file = f"<cell {hash(cell)}>"
    linecache.cache[file] = (len(cell), None, cell.splitlines(keepends=True), file)
    known = sys.modules.get(name)
    sys.modules[name] = session
    try:
        exec(compile(cell, file, "exec"), session.__dict__)
    finally:
        if known is not None:
            sys.modules[name] = known
    return session.__dict__


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> bench.Results:
    """Of a defence that is defined in a cell, beside one of the config."""
    folder = tmp_path_factory.mktemp("api")
    path = folder / "bench.toml"
    path.write_text(CONFIG)
    places = {"run.store": folder / "store", "run.cache": folder / "cache", "run.output": folder / "out"}
    mine = notebook(CELL)["Mine"](sigma=0.2)
    return bench.run(path, overrides={**SMALL, **places}, defenses={"mine": mine})


def _again(results: bench.Results, **how: Any) -> bench.Results:
    folder = results.places[0].parent
    places = {"run.store": folder / "store", "run.cache": folder / "cache", "run.output": folder / "out"}
    return bench.run(folder / "bench.toml", overrides={**SMALL, **places}, **how)


def test_importing_bench_loads_nothing() -> None:
    code = "import sys, bench; print([m for m in ('torch', 'pandas', 'numpy', 'bench.api') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=ENVIRONMENT, check=True)
    assert done.stdout.strip() == "[]"
    assert {"run", "open", "Results"} <= set(dir(bench))
    with pytest.raises(AttributeError, match="runn"):
        bench.runn  # noqa: B018


def test_a_defence_of_a_cell_is_judged_as_one_of_a_file(results: bench.Results, tmp_path: Path) -> None:
    """The same source in a file gives the same figures, to the last bit."""
    assert results.outcome is not None and results.outcome.done == 6 and not results.outcome.failed
    (tmp_path / "mine.py").write_text(CELL)
    filed = bench.run(
        results.places[0].parent / "bench.toml",
        overrides={
            "run.defenses": ["mine"], "run.attacks": ["mean_face", "resrec"], "run.output": tmp_path / "out",
            "run.store": tmp_path / "store", "run.cache": tmp_path / "cache",
            "defenses.mine": {"plugin": tmp_path / "mine.py", "sigma": 0.2},
        },
    )  # fmt: skip
    of_cell, of_file = (
        {name: found["metrics"] for name, found in figures(place).items() if "mine" in name}
        for place in (results.places[0], filed.places[0])
    )
    assert of_cell == of_file and len(of_file) == 3


def test_what_was_judged_stands_until_the_cell_or_what_it_reads_is_edited(results: bench.Results) -> None:
    def judged(cell: str) -> int:
        outcome = _again(results, defenses={"mine": notebook(cell)["Mine"](sigma=0.2)}).outcome
        assert outcome is not None and not outcome.failed
        return outcome.done

    assert judged(CELL.replace("Adds noise.", "Adds some noise.  ")) == 0
    assert judged(CELL.replace("STRENGTH = 0.5", "STRENGTH = 0.25")) == 3
    assert judged(CELL) == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("self.sigma * scaled", "2 * self.sigma * scaled"),
        ("STRENGTH = 0.5", "STRENGTH = 0.6"),
        ("noise * STRENGTH", "STRENGTH * noise"),
        ("randomized = True", "randomized = False"),
        ("sigma: float = 1.0", "sigma: float = 2.0"),
    ],
)
def test_a_key_changes_with_everything_that_a_cell_computes_from(old: str, new: str) -> None:
    assert old in CELL
    for name in ("__main__", "session"):
        known = source_hash(notebook(CELL, name)["Mine"])
        assert known == source_hash(notebook(CELL + "\n# a remark\nUNUSED = 3\n", name)["Mine"])
        assert known != source_hash(notebook(CELL.replace(old, new), name)["Mine"])


def test_arrays_and_inherited_methods_are_a_part_of_the_key() -> None:
    cell = CELL + (
        "\nimport numpy as np\nTABLE = np.arange(3.0)\n"
        "@dataclass(frozen=True, kw_only=True)\nclass Second(Mine):\n"
        "    def reference(self, system, features):\n        return features + float(TABLE.sum())\n"
    )
    known = source_hash(notebook(cell)["Second"])
    for old, new in (("arange(3.0)", "arange(4.0)"), ("STRENGTH = 0.5", "STRENGTH = 0.6")):
        assert known != source_hash(notebook(cell.replace(old, new))["Second"])


def test_a_class_whose_source_is_gone_is_refused_and_not_guessed_at() -> None:
    session = ModuleType("session")
    sys.modules["session"] = session
    exec(CELL, session.__dict__)
    with pytest.raises(UserError, match=r"the source of Mine\.protect is not available.*into a file|in a file"):
        source_hash(session.Mine)


def test_a_global_that_no_key_can_hold_is_refused() -> None:
    cell = CELL.replace("STRENGTH = 0.5", "STRENGTH = iter([0.5])")
    with pytest.raises(UserError, match=r"reads STRENGTH, a list_iterator .* make it a parameter"):
        source_hash(notebook(cell)["Mine"])


def test_mistakes_are_named(results: bench.Results) -> None:
    mine = notebook(CELL)["Mine"]

    def said(**how: Any) -> str:
        with pytest.raises(UserError) as caught:
            _again(results, **how)
        return str(caught.value)

    assert "defenses['mine']: got a class; pass an instance: Mine(...)" in said(defenses={"mine": mine})
    assert "choose another" in said(defenses={"unprotected": mine()})
    assert "letters, digits" in said(defenses={"mine~random": mine()})
    assert "Mine is not of kind attack" in said(attacks={"mine": mine()})
    assert "stored in a key or in bench.toml" in said(defenses={"mine": mine(sigma=object())})
    assert "defined in this session, but workers can only import" in said(defenses={"mine": mine()}, workers=1)
    with pytest.raises(UserError, match=r"unknown key 'imagse'. Did you mean 'images'"):
        bench.run(overrides={"run.imagse": 3})
    with pytest.raises(DataError, match="no records here"):
        bench.open(results.places[0].parent)
    with pytest.raises(UserError, match="name a run's folder"):
        bench.open()


def test_tables_are_frames(results: bench.Results) -> None:
    assert repr(results) == f"Results({results.places[0]}: 6 cells, 0 failed)"
    board = results.leaderboard()
    assert set(board["defense"]) == {"mine", "unprotected"} and board["worst_ssim"].notna().all()
    records = results.records()
    assert len(records) == 6 and set(records["status"]) == {"ok"} and records["ssim"].notna().sum() == 4
    scores = results.scores(defense="mine", attack="resrec")
    row = records[(records["defense"] == "mine") & (records["attack"] == "resrec")].iloc[0]
    assert scores["ssim"].mean() == pytest.approx(row["ssim"]) and row["ssim_low"] <= row["ssim"] <= row["ssim_high"]
    assert set(results.scores("utility")["defense"]) == {"mine", "unprotected"}
    with pytest.raises(UserError, match=r"defense = 'mien'. Did you mean 'mine'"):
        results.scores(defense="mien")
    with pytest.raises(UserError, match=r"has no 'defence'. Did you mean 'defense'"):
        results.scores(defence="mine")


def test_results_of_several_places_and_of_archives(results: bench.Results, tmp_path: Path) -> None:
    archive = export(results.runs[0], tmp_path / "mine.zip")
    opened = bench.open(archive)
    assert opened.leaderboard().equals(results.leaderboard())
    unpacked = opened.runs[0].folder
    both = bench.open(results.places[0], archive)
    assert set(both.leaderboard()["defense"]) >= {"mine (out)", "mine (mine.zip)"}
    assert set(both.records()["run"]) == {"out", "mine.zip"}
    with pytest.raises(UserError, match="one run at a time"):
        both.heatmap()
    assert unpacked.is_dir()
    del opened
    assert not unpacked.exists()


def test_comparing_with_another_run() -> None:
    reference = bench.open(ROOT / "results/reference")
    same = reference.compare(ROOT / "results/reference")
    assert set(same["verdict"]) == {"within noise"} and (same["base"] == same["new"]).all()


def test_pictures_are_figures(results: bench.Results, tmp_path: Path) -> None:
    for name, figure in {
        "heatmap": results.heatmap("psnr_db"), "scatter": results.scatter(), "grid": results.grid("mine"),
    }.items():  # fmt: skip
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000
    with pytest.raises(UserError, match=r"no defence 'mien'.*Did you mean 'mine'"):
        results.grid("mien")
    with pytest.raises(UserError, match="no heatmap of 'sim'"):
        results.heatmap("sim")


def test_a_notebook_shows_the_leaderboard_and_trusts_no_label(results: bench.Results) -> None:
    html = results._repr_html_()
    assert html.count("<tr>") == 3 and "<td>mine</td>" in html
    board = results.leaderboard().assign(defense="<script>alert(1)</script>")
    assert "<script" not in as_html(board) and "&lt;script&gt;" in as_html(board)


def test_an_edited_file_is_loaded_again(results: bench.Results, tmp_path: Path) -> None:
    """A kernel outlives many versions of a plugin's file."""
    file = tmp_path / "mine.py"
    how = {
        "run.defenses": ["mine"], "run.attacks": ["mean_face"], "run.output": tmp_path / "out",
        "run.store": tmp_path / "store", "run.cache": tmp_path / "cache", "defenses.mine.plugin": file,
    }  # fmt: skip
    rms = []
    for strength in ("0.5", "0.25"):
        file.write_text(CELL.replace("STRENGTH = 0.5", f"STRENGTH = {strength}"))
        records = bench.run(results.places[0].parent / "bench.toml", overrides=how).records()
        rms.append(records.loc[records["kind"] == "utility", "noise_rms"].iloc[0])
    assert rms[0] == pytest.approx(2 * rms[1], rel=1e-3)
