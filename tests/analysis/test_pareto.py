"""The front over four criteria, and the costs in the leaderboard."""

from pathlib import Path

import pandas as pd

from bench.analysis.leaderboard import leaderboard
from bench.analysis.pareto import fronts
from bench.report.leaderboard import render
from bench.storage.records import Cell, Measure, Record, Run


def _frame(*rows: tuple[float, float, float, float]) -> pd.DataFrame:
    places = {"dataset": "faces", "recognizer": "net", "client_ms": 0.0}
    names = ("encoder_ssim", "acc", "template_bytes", "server_ms")
    return pd.DataFrame([{**places, **dict(zip(names, row, strict=True))} for row in rows])


def test_a_row_is_beaten_only_in_everything() -> None:
    frame = _frame(
        (0.5, 0.9, 100, 1.0),
        (0.6, 0.9, 100, 1.0),  # worse privacy, nothing better
        (0.6, 0.9, 50, 1.0),  # smaller
        (0.6, 0.9, 100, 0.95),  # hardly faster than the first
        (0.6, 0.9, 100, 0.5),  # much faster
        (0.4, 0.8, 100, 1.0),  # more private
        (0.1, 1.0, float("nan"), 0.1),  # of unknown size
    )
    assert fronts(frame).tolist() == ["encoder", "", "encoder", "", "encoder", "encoder", ""]
    two = pd.concat([frame.iloc[:1], frame.iloc[1:2].assign(dataset="others")])
    assert fronts(two).tolist() == ["encoder", "encoder"], "each dataset has its own"


def test_costs_are_read_from_records(tmp_path: Path) -> None:
    run = Run(tmp_path)
    costs = {"template_bytes": 100, "client_ms": 2.0, "server_ms": 3.5, "training_s": 90.0}
    for defense, info in (("new", {"template_bytes": 100, "costs": costs}), ("old", {"template_bytes": 100})):
        cell = Cell("utility", "faces", "net", defense)
        run.write(Record(cell, "k", "ok", metrics={"acc": Measure(0.9, 0.8, 1, 9)}, info=info))
        scores = pd.DataFrame({"name": ["a", "b"], "subject": ["a", "b"], "ssim": 0.4})
        cell = Cell("reconstruction", "faces", "net", defense, "decode", "encoder", "template")
        asked = {
            "attack_state": {"queries": {"encode": 3, "encode_images": 300}},
            "reconstruction": {"queries": {"similarity_images": 7}},
        }
        run.write(Record(cell, "k", "ok", metrics={"ssim": Measure(0.4, n=2)}, info=asked), scores)
    frame = leaderboard(run)
    rows = {row["defense"]: row for row in frame.to_dict("records")}
    names = ("client_ms", "server_ms", "training_min", "queries", "pareto")
    assert [rows["new"][name] for name in names] == [2.0, 3.5, 1.5, 307, "encoder"]
    assert pd.isna(rows["old"]["client_ms"]) and rows["old"]["pareto"] == ""
    assert "Pareto front over SSIM, ACC, bytes and ms (client and server): up to encoder: new." in render(frame, "md")
