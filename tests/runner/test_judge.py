"""A judge that nobody attacked: who it is, what it sees, and what it says."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from support import CONFIG, TOYS, Cli

from bench.analysis.board import boards
from bench.api import run
from bench.contracts import Alignment
from bench.errors import DataError, UserError
from bench.plan import Job, plan
from bench.recognizers.mobilefacenet import MobileFaceNet
from bench.runner.image_scores import ImageScorer
from bench.runner.second_recognizer import KnownFaces, SecondRecognizer, crop_transform
from bench.settings.resolve import load
from bench.storage.records import Run

_JUDGE = f"""
[recognizers.second]
plugin = "{TOYS / "tiny.py"}"
seed = 5

[recognizers.twin]
plugin = "{TOYS / "tiny.py"}"
"""


@pytest.fixture
def judged(config: Path) -> Path:
    """The toy settings, with a second recogniser as judge."""
    text = CONFIG.replace("[run]", '[run]\njudge = "second"', 1).replace(
        'defenses = ["unprotected", "laplace", "advface"]', 'defenses = ["unprotected", "laplace"]'
    )
    config.write_text(text + _JUDGE)
    return config


def test_a_run_with_a_judge_has_its_figures_beside_srra(judged: Path, cli: Cli) -> None:
    cli("run", "-q", "--set", "run.seeds=[0, 1]")
    out = Path("out/main")
    record = json.loads((out / "records/reconstruction--blobs--tiny--laplace--resrec--seed0.json").read_text())
    table = pd.read_parquet(out / "records/reconstruction--blobs--tiny--laplace--resrec--seed0.parquet")
    assert record["info"]["judge"] == "second"
    assert record["metrics"]["judge_cosine"]["value"] == pytest.approx(table["judge_cosine"].mean(), abs=1e-6)
    assert (table["judge_cosine"] - table["cosine"]).abs().max() > 0.01, "the judge is another network"
    share = record["metrics"]["judge_sar_0.01"]
    if share["value"] is None:
        assert "too few impostor pairs" in share["note"]
    else:
        assert share["value"] == pytest.approx(table["judge_sar_0.01"].mean())
        assert share["low"] <= share["value"] <= share["high"]
    (board,) = boards(Run(out))
    entry = board.find("reconstruction", "laplace", "resrec")
    assert entry is not None
    both = [r.metrics["judge_cosine"].value or 0 for r in entry.records]
    assert entry.metric("judge_cosine").value == pytest.approx(np.mean(both), abs=1e-6), "seeds are averaged"
    assert "judge's cosine" in (out / "leaderboard.md").read_text()
    # Without a judge neither column nor figure.
    cli("run", "-q", "--set", 'run.judge=""', "-o", "out/alone")
    assert "judge" not in Path("out/alone/leaderboard.md").read_text()


def test_the_same_pictures_are_scored_once(judged: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scored: list[str] = []
    score = ImageScorer._score

    def counted(self: ImageScorer, job: Job, *rest: Any) -> Any:
        scored.append(f"{job.cell.defense} {job.cell.attack}")
        return score(self, job, *rest)

    monkeypatch.setattr(ImageScorer, "_score", counted)
    off = {"run.canaries": False, "run.controls": False}
    run(judged, overrides={"run.attacks": ["mean_face", "resrec"], **off})
    assert sorted(scored) == ["laplace resrec", "unprotected mean_face", "unprotected resrec"]
    records = Path("out/main/records")
    one, other = (
        json.loads((records / f"reconstruction--blobs--tiny--{name}--mean_face--seed0.json").read_text())
        for name in ("unprotected", "laplace")
    )
    assert one["metrics"] == other["metrics"]


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ("tiny", "run.judge = 'tiny' is attacked in this run"),
        ("twin", "run.judge = 'twin' has the weights of 'tiny'"),
        ("secnd", "unknown recogniser 'secnd'. Did you mean 'second'"),
    ],
)
def test_a_judge_is_somebody_else(judged: Path, judge: str, said: str) -> None:
    with pytest.raises(UserError) as caught:
        plan(load(judged, overrides=[f'run.judge="{judge}"']))
    assert said in str(caught.value)


def test_a_judge_without_weights_can_be_left_out(judged: Path) -> None:
    judged.write_text(judged.read_text() + '\n[recognizers.absent]\nplugin = "mobilefacenet"\nweights = "no/such.pt"\n')
    with pytest.raises(DataError, match=r"run.judge = 'absent': .*no such file.*runs without a judge"):
        plan(load(judged, overrides=['run.judge="absent"']))


def test_the_judge_alone_changes_what_it_judges(judged: Path) -> None:
    with_judge, without = (plan(load(judged, overrides=[f'run.judge="{name}"'])) for name in ("second", ""))
    kinds = {job.cell.kind for job, other in zip(with_judge.jobs, without.jobs, strict=True) if job.key != other.key}
    assert kinds == {"reconstruction"}
    before = {task.key for task in without.tasks()}
    assert {task.kind for task in with_judge.tasks() if task.key not in before} == {"judge_identity"}


def test_a_crop_becomes_the_judges_crop() -> None:
    narrow, wide = MobileFaceNet().alignment, MobileFaceNet(width=112).alignment
    assert crop_transform(narrow, narrow) is None
    picture = torch.rand(1, 3, 112, 112, generator=torch.Generator().manual_seed(0))
    seen: list[torch.Tensor] = []

    class Network(torch.nn.Module):
        image_size = (112, 112)

        def extract(self, images: torch.Tensor) -> torch.Tensor:
            seen.append(images)
            return images

        def embed(self, images: torch.Tensor) -> torch.Tensor:
            return torch.ones(len(images), 4)

    judge = SecondRecognizer(Network(), crop_transform(narrow, wide), torch.device("cpu"))  # type: ignore[arg-type]
    judge.see(picture[..., 8:104])
    assert torch.allclose(seen[0][..., 8:104], picture[..., 8:104], atol=1e-4), "nothing moves where both have pixels"
    assert torch.allclose(seen[0][..., :8], picture[..., 8:9].expand(-1, -1, -1, 8), atol=1e-4), "edges are repeated"


def test_no_transform_is_guessed() -> None:
    with pytest.raises(UserError, match="wants margin"):
        crop_transform(MobileFaceNet().alignment, Alignment("margin", (160, 160)))


def test_accepted_are_those_above_the_judges_own_impostors() -> None:
    rng = np.random.default_rng(0)
    vectors = rng.normal(size=(80, 16))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    owners = np.repeat(np.arange(40), 2)
    found = np.ones(80, dtype=bool)
    found[3] = False
    known = KnownFaces(vectors, found, owners)
    rows = np.arange(40)
    cosines = np.linspace(-1, 1, 40)
    cosines[3] = 1.0
    figures, table = known.accepted(cosines, rows)
    kept = np.flatnonzero(found)
    others = sorted(vectors[i] @ vectors[j] for i in kept for j in kept if i < j and owners[i] != owners[j])
    allowed = int(0.01 * len(others))
    expected = (cosines > others[-1 - allowed]) & found[rows]
    assert (table["judge_sar_0.01"] == expected).all()
    assert figures["judge_sar_0.01"].value == pytest.approx(expected.mean())
    assert not table["judge_sar_0.01"][3], "no face was found for the judge"
    assert figures["judge_sar_0.001"].value is None
    assert "judge_sar_0.001" not in table
