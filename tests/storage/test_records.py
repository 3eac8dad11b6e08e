"""Records: one file a cell and no other's, whatever its labels are; those of earlier versions are still read."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.storage.files import file_name
from bench.storage.records import Cell, Measure, Record, Run

CELL = Cell("utility", "set a", "compact", "unprotected")


def _record(cell: Cell, value: float = 0.5) -> Record:
    return Record(cell, f"key of {cell}", "ok", metrics={"acc": Measure(value)})


texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=300)
hard = st.sampled_from(
    ["set a", "set_a", "set-a", "a", "A", "a--b", "b", "a-", "-b", "é", "e\u0301", "x" * 238, "x" * 239]
)


@given(st.lists(st.tuples(texts | hard, texts | hard), min_size=2, max_size=2, unique=True))
def test_other_texts_have_other_names_and_every_name_fits(pairs: list[tuple[str, str]]) -> None:
    one, other = (file_name("utility", *pair, "seed0") for pair in pairs)
    assert one.casefold() != other.casefold()
    for name in (one, other):
        assert len(name.encode()) <= 180 and name.isascii() and "/" not in name and not name.startswith(".")


@given(st.from_regex(r"[a-z0-9_.=\[\],@~]{1,20}", fullmatch=True))
def test_ordinary_labels_keep_the_names_that_they_had(label: str) -> None:
    cell = replace(CELL, dataset="lfw", defense=label)
    assert cell.name == cell.former_name == f"utility--lfw--compact--{label}--seed0"


def test_two_sets_of_nearly_one_name_keep_their_own_figures(tmp_path: Path) -> None:
    run = Run(tmp_path)
    cells = [replace(CELL, dataset=name) for name in ("set a", "set_a", "Set a", "x" * 238)]
    for value, cell in enumerate(cells):
        run.write(_record(cell, value), pd.DataFrame({"similarity": [float(value)]}))
    for value, cell in enumerate(cells):
        found = run.find(cell)
        assert found is not None and found.metrics["acc"].value == value
        assert run.scores(cell)["similarity"].tolist() == [value]
    assert len(run.records()) == 4


def _former(run: Run, record: Record) -> Path:
    """As earlier versions wrote it."""
    path = run.folder / "records" / f"{record.cell.former_name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(record)))
    pd.DataFrame({"similarity": [9.0]}).to_parquet(path.with_suffix(".parquet"))
    return path


def test_records_of_earlier_versions_are_read_and_replaced_by_their_own_cell_alone(tmp_path: Path) -> None:
    run = Run(tmp_path)
    former = _former(run, _record(CELL))
    assert former.name == "utility--set_a--compact--unprotected--seed0.json" and CELL.name != former.stem
    assert run.find(CELL) == _record(CELL)
    assert run.scores(CELL)["similarity"].tolist() == [9.0]
    assert run.find(replace(CELL, dataset="set_a")) is None, "its name, and another cell's record"
    assert run.find(replace(CELL, dataset="set.a")) is None
    assert [record.cell for record in run.records()] == [CELL]
    run.write(_record(CELL, 0.75), pd.DataFrame({"similarity": [1.0]}))
    assert not former.exists() and not former.with_suffix(".parquet").exists()
    assert run.find(CELL) == _record(CELL, 0.75)
    assert run.scores(CELL)["similarity"].tolist() == [1.0]


def test_of_two_records_of_one_cell_the_one_under_todays_name_counts(tmp_path: Path) -> None:
    run = Run(tmp_path)
    run.write(_record(CELL, 0.75))
    _former(run, _record(CELL))
    assert [record.metrics["acc"].value for record in run.records()] == [0.75]


@pytest.mark.parametrize("label", ["set a", "x" * 238, "..", "a/b", "nul\0"])
def test_any_label_makes_one_file_in_the_folder(tmp_path: Path, label: str) -> None:
    run = Run(tmp_path)
    run.write(_record(replace(CELL, defense=label)))
    assert len(list(tmp_path.rglob("*.json"))) == 1
    assert run.find(replace(CELL, defense=label)) is not None
