"""`veilbench paper`: every table and figure from synthetic faces; a cell without a figure says why."""

import csv
import json
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
from PIL import Image
from pylatexenc.latexwalker import LatexEnvironmentNode, LatexWalker
from support import ENVIRONMENT, ROOT, Cli

from bench.errors import DataError
from bench.paper.layouts import BOUNDS, NAMES
from bench.paper.published import folder, published
from bench.paper.settings import load_paper
from bench.paper.status import judge
from bench.settings.resolve import load

# Two protocols, so that the third column must say what is missing; little of everything.
SMALL = """
[profile.small]
extends = "tiny"
[profile.small.run]
output = "results/small"
[profile.small.paper]
datasets = { agedb = "absent" }
[profile.small.datasets.absent]
plugin = "insightface"
path = "nowhere/agedb_30.bin"
[profile.small.datasets]
synthetic-frontal = { pairs_per_fold = 2, public = 24 }
synthetic-profile = { pairs_per_fold = 2, public = 24 }
"""


@pytest.fixture(scope="module")
def everything(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of `veilbench paper all`, run once."""
    place = tmp_path_factory.mktemp("paper")
    (place / "bench.toml").write_text((ROOT / "bench.toml").read_text() + SMALL)
    environment = {k: v for k, v in ENVIRONMENT.items() if k != "VEILBENCH_DATA"}
    done = subprocess.run(
        [sys.executable, "-m", "bench", "paper", "all", "-p", "small", "--workers", "2", "--quiet", "--json"],
        cwd=place,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert outcome["failed"] == []
    assert list(outcome["missing"]) == ["agedb"]
    return place / "results" / "small-paper"


def _bodies(latex: str) -> list[list[str]]:
    """The cells of each line between the rules of a tabular."""
    lines = latex.split(r"\midrule", 1)[1].split(r"\bottomrule")[0].split(r"\\")
    return [[cell.strip() for cell in line.split("&")] for line in lines if "&" in line]


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_no_cell_is_empty_without_a_label(everything: Path, name: str) -> None:
    table = pd.read_csv(everything / f"{name}.csv")
    assert set(table["status"]) == {"stand-in", "impossible here"}
    missing = table["paper_dataset"] == "AgeDB-30"
    assert (table.loc[missing, "status"] == "impossible here").all() and table.loc[missing, "value"].isna().all()
    assert table.loc[missing, "detail"].str.contains("agedb_30.bin").all()
    there = table.loc[~missing]
    assert (there["status"] == "stand-in").all() and there["value"].notna().all() and (there["n"] > 0).all()
    assert there["detail"].str.contains("compact 96x96, not FaceNet").all()
    printed = there.dropna(subset=["published"])
    assert (abs(printed["value"] - printed["published"] - printed["deviation"]) < 1e-9).all()
    if name.startswith("table"):
        assert table["published"].notna().all()


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_latex_parses(everything: Path, name: str) -> None:
    text = (everything / f"{name}.tex").read_text()
    walker = LatexWalker(text, tolerant_parsing=False)
    nodes, *_ = walker.get_latex_nodes()
    environments = [node.environmentname for node in nodes if isinstance(node, LatexEnvironmentNode)]
    assert environments == ["table*"]
    body = _bodies(text)
    assert len({len(line) for line in body}) == 1, "every line has as many columns"
    heads = 3 if name in ("table4", "figure6") else 1
    for line in body:
        under = line[heads].startswith(r"{\scriptsize (")  # what is published stands under what is ours
        assert all(r"{\scriptsize (" in cell if under else "$^{" in cell for cell in line[heads:]), line
    assert not [c for c in text if ord(c) > 127], "what pdflatex would not print"


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_the_markdown_says_what_it_rests_on(everything: Path, name: str) -> None:
    text = (everything / f"{name}.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1
    assert "synthetic-frontal, n = " in text and "AgeDB-30: missing" in text and "Recogniser compact" in text
    assert "[x] impossible here (AgeDB-30): nowhere/agedb_30.bin: no readable verification set" in text


@pytest.mark.slow
def test_the_tables_have_the_papers_shape(everything: Path) -> None:
    shapes = {"table1": 5 * 3 * 4, "table2": 6 * 3, "table3": 3 * 3, "table4": 2 * 3 * 3 * 3, "figure4": 7 * 3 * 2}
    for name, cells in shapes.items():
        assert len(pd.read_csv(everything / f"{name}.csv")) == cells, name
    one = pd.read_csv(everything / "table1.csv").set_index(["row", "paper_dataset", "metric"])["value"]
    four = pd.read_csv(everything / "table4.csv").set_index(["row", "paper_dataset", "metric"])["value"]
    two, three = (
        pd.read_csv(everything / f"table{n}.csv").set_index(["row", "paper_dataset"])["value"] for n in (2, 3)
    )
    # What holds of the published figures holds of ours: one setting, two tables.
    assert one["Ours", "LFW", "ssim"] == four["SSIM ↓ / Ours(Res) / ResRec", "LFW", "ssim"]
    assert two["Ours (online)", "LFW"] == three["Ours(Res)", "LFW"]
    bounds = pd.read_csv(everything / "figure4.csv").set_index(["row", "paper_dataset", "metric"])["value"]
    assert {float(row) for row, *_ in bounds.index} == set(BOUNDS)
    assert bounds[0.2, "LFW", "psnr_db"] == one["Ours", "LFW", "psnr_db"]


@pytest.mark.slow
def test_figures_are_pictures_and_vectors(everything: Path) -> None:
    for name in ("figure3", "figure4", "figure5", "figure6"):
        assert (everything / f"{name}.pdf").read_bytes().startswith(b"%PDF")
        with Image.open(everything / f"{name}.png") as picture:
            assert picture.width == round(300 * (3.3 if name == "figure4" else 6.9))


@pytest.mark.slow
def test_what_is_there_is_not_run_again(everything: Path) -> None:
    place = everything.parent.parent
    before = {path: path.stat().st_mtime_ns for path in (everything / "records").iterdir()}
    command = [sys.executable, "-m", "bench", "paper", "table3", "-p", "small", "-q"]
    done = subprocess.run(command, cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert before == {path: path.stat().st_mtime_ns for path in (everything / "records").iterdir()}
    told = subprocess.run([*command, "--estimate"], cwd=place, env=ENVIRONMENT, capture_output=True, text=True)
    assert told.stdout.startswith("0 trainings") and "impossible here: agedb" in told.stdout


def test_no_data_at_all_leaves_the_published_figures(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = cli("paper", "table2", "--config", str(ROOT / "bench.toml"), "-p", "paper", "-q", VEILBENCH_DATA="")
    assert done.stdout.count("impossible here (") >= 18 and "VEILBENCH_DATA is not set" in done.stdout
    assert "impossible here (98.13)" in done.stdout


def test_settings_that_do_not_fit_are_one_line(tmp_path: Path, cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ("--config", str(ROOT / "bench.toml"), "-p", "tiny", "-q")
    for what, arguments, said in (
        ("table4", ("--knowledge", "omniscient"), "resrec@omniscient"),
        ("figure4", ("--set", "paper.bounds="), "[paper] bounds is not set"),
        ("table4", ("--set", "paper.recognizer="), "[paper] recognizer is not set"),
        ("table4", ("--set", "paper.datasets.lwf=x"), "paper.datasets.lwf"),
    ):
        done = cli("paper", what, *config, *arguments, status=2)
        assert len(done.stderr.strip().splitlines()) == 1 and said.split("@")[-1] in done.stderr, done.stderr


def test_the_papers_own_consistency_is_held(tmp_path: Path) -> None:
    figures = published()
    assert len(figures) == 15 * 4 + 18 + 9 + 27 * 2
    assert figures["table1", ("AdvFace",), "lfw", "srra2"] == pytest.approx(0.0403)
    for path in folder().glob("table*.csv"):
        text = path.read_text()
        (tmp_path / path.name).write_text(text.replace("resnet,ResRec,LFW,0.28", "resnet,ResRec,LFW,0.29"))
    with pytest.raises(DataError, match=r"published ssim on lfw differs: table1 AdvFace 0.28, but table4 .* 0.29"):
        published(tmp_path)
    rows = list(csv.reader((folder() / "table2.csv").open()))
    (tmp_path / "table4.csv").write_text((folder() / "table4.csv").read_text())
    with (tmp_path / "table2.csv").open("w", newline="") as file:
        csv.writer(file).writerows([rows[0], *([*row[:-1], ""] for row in rows[1:])])
    with pytest.raises(DataError, match="without its source"):
        published(tmp_path)


def test_the_papers_own_protocol_is_known_when_it_is_met(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VEILBENCH_DATA", "nowhere")

    def label(
        *overrides: str, role: str = "lfw", defense: str = "advface", pairs: int | None = 6000
    ) -> tuple[str, str]:
        given = (ROOT / "bench.toml", "paper", overrides)
        found = judge(load(*given), load_paper(*given), role, defense, "resrec", pairs)
        return found.label, found.detail

    assert label()[0] == "same protocol"
    assert label(role="cfp_fp", pairs=7000)[0] == label(defense="advface_trans")[0] == "same protocol"
    assert label(pairs=130) == ("stand-in", "data: lfw, 130 of 6000 pairs")
    assert label("run.images=50") == ("stand-in", "data: the first 50 images under attack of lfw")
    assert label("run.pairs=50") == ("stand-in", "data: the first 50 pairs of lfw")
    assert label(role="agedb", pairs=10)[0] == "stand-in"
    assert label('paper.datasets.cfp_fp="lfw"', role="cfp_fp", pairs=7000)[1] == "data: lfw, not CFP-FP"
    official = ('paper.datasets.cfp_fp="cfp_frontal_profile"', 'run.datasets=["cfp_frontal_profile"]')
    assert label(*official, role="cfp_fp", pairs=7000)[0] == "same protocol"
    assert label(*official, role="cfp_fp", pairs=2100)[1] == "data: cfp_frontal_profile, 2100 of 7000 pairs"
    assert "epsilon=0.1" in label("defenses.advface.epsilon=0.1")[1]
    assert "not FaceNet" in label('paper.recognizer="compact"', 'run.recognizers=["compact"]')[1]
    assert "normalisation" not in label()[1] and "not FaceNet" in label('recognizers.facenet.normalisation="fixed"')[1]
    assert "not celeba" in label('run.public_attacker="casia_webface"')[1]
    assert "attacker's faces" in label("datasets.celeba.limit=100")[1]
    assert "learning rate 0.002" in label("training.learning_rate=2e-3")[1]
