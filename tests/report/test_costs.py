"""Where a run's time went."""

import json
from pathlib import Path

import pytest
from support import Cli, invoke

from bench.analysis.costs import costs
from bench.errors import DataError
from bench.storage.records import Run


def test_every_artefact_and_cell_is_counted_once(config: Path, cli: Cli) -> None:
    cli("run", "-q", "--set", "run.replay=false")
    run = Run(Path("out/main"))
    keys = {key for record in run.records() for key in record.artefacts}
    assert {row["key"] for row in run.costs()} == keys
    table = costs(run).set_index("kind")
    assert table["items"].sum() == len(keys) + len(run.records())
    assert table["items"]["attack state"] == 2, "mean_face and resrec, each shared by the three defences"
    assert table["share"].sum() == pytest.approx(1)
    assert table["processor_s"].is_monotonic_decreasing and table["processor_s"].iloc[0] > 0
    assert (table["wall_s"] >= 0).all()
    for by in ("defense", "attack"):
        assert costs(run, by)["processor_s"].sum() == pytest.approx(table["processor_s"].sum())  # type: ignore[arg-type]
    told = json.loads(invoke("costs", "out/main", "--by", "attack", "--json").output)
    assert {row["attack"] for row in told} >= {"resrec", "mean_face", "(shared)"}
    assert "processor time in all" in invoke("costs", "out/main").output
    # After a change of settings, what the replaced records needed no longer counts.
    cli("run", "-q", "--set", "run.replay=false", "--set", "training.epochs=1")
    changed = Run(Path("out/main"))
    used = {key for record in changed.records() for key in record.artefacts}
    assert len(changed.costs()) > len(used), "earlier rows stay in the file"
    assert costs(changed)["items"].sum() == len(used) + len(changed.records())
    # A second run in another folder makes nothing, and tells what its artefacts took in the first.
    cli("run", "-q", "--set", "run.replay=false", "-o", "out/again")
    again = costs(Run(Path("out/again"))).set_index("kind")
    assert again["processor_s"]["attack state"] == table["processor_s"]["attack state"]


def test_a_run_without_costs_says_so(tmp_path: Path) -> None:
    run = Run(tmp_path)
    with pytest.raises(DataError, match="no costs"):
        costs(run)
    (tmp_path / "costs.json").write_text("[{]")
    assert run.costs() == []
