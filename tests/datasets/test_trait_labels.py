"""Tables of traits: what is read, to whom it belongs, and errors that name the place."""

from pathlib import Path

import numpy as np
import pytest
from support import write_people

from bench.contracts import Alignment
from bench.datasets.folder import ImageFolder
from bench.datasets.synthetic import Synthetic
from bench.datasets.trait_labels import parse_traits, read_traits
from bench.errors import DataError
from bench.synthesis import sample_person


def _read(folder: Path, text: str, files: list[str], people: list[str] | None = None) -> dict[str, list[float]]:
    path = folder / "labels.csv"
    path.write_text(text)
    return {name: values.tolist() for name, values in read_traits(str(path), files, people)[0].items()}


def test_a_line_belongs_to_a_photograph_with_or_without_its_suffix(tmp_path: Path) -> None:
    text = "file,age,glasses\nAnn/1.jpg,31.5,yes\nBob/1,,no\n"
    found = _read(tmp_path, text, ["Bob/1.png", "Ann/1", "Cy/1.jpg"])
    assert found["glasses"][:2] == [0, 1] and np.isnan(found["glasses"][2])
    assert found["age"][1] == 31.5 and np.isnan(found["age"][0]), "an empty cell is unknown"


def test_a_line_belongs_to_all_photographs_of_a_person(tmp_path: Path) -> None:
    found = _read(tmp_path, "person,male\nAnn,0\nBob,1\n", ["a", "b", "c"], ["Bob", "Ann", "Bob"])
    assert found == {"male": [1, 0, 1]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "labels.csv:1: the first column must be called 'file' or 'person', not nothing"),
        ("name,age\nAnn,3\n", "not 'name'"),
        ("person\nAnn\n", "labels.csv:1: no column of a trait"),
        ("person,age,age\nAnn,1,2\n", "labels.csv:1: column 2: 'age' is also the name of another"),
        ("person,age,\nAnn,1,2\n", "labels.csv:1: column 3: it has no name"),
        ("person,age\nAnn,31\n\nBob,old\n", "labels.csv:4: column 'age': 'old' is neither a number nor yes or no"),
        ("person,age\nAnn,nan\n", "labels.csv:2: column 'age': 'nan'"),
        ("person,age\nAnn,inf\n", "labels.csv:2: column 'age': 'inf'"),
        ("person,age\nAnn,1,2\n", "labels.csv:2: 3 columns, but the first line has 2"),
        ("file,age\nAnn/1.jpg,1\nAnn/1,2\n", "labels.csv:3: a second line of file 'Ann/1'"),
        ('person,age\n"Ann,1\n', "not CSV"),
    ],
)
def test_a_malformed_table_is_refused_with_its_place(text: str, said: str) -> None:
    with pytest.raises(DataError) as error:
        parse_traits(text, "labels.csv")
    assert said in str(error.value)


def test_a_table_of_somebody_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="none of its 1 lines names a file of this dataset; the first is called 'a'"):
        _read(tmp_path, "file,age\nz,1\n", ["a.jpg"])
    with pytest.raises(DataError, match="use a column 'file'"):
        _read(tmp_path, "person,age\nAnn,1\n", ["a.jpg"])
    with pytest.raises(DataError, match="no such table of traits"):
        read_traits(str(tmp_path / "none.csv"), ["a"], None)


def test_a_folder_takes_its_labels_and_only_they_have_their_revision(tmp_path: Path) -> None:
    people = write_people(tmp_path / "people", range(3))
    (tmp_path / "labels.csv").write_text("person,male\np0,1\np2,0\nsomebody,1\n")
    bare = ImageFolder(path=str(people), aligned=True)
    told = ImageFolder(path=str(people), aligned=True, traits=str(tmp_path / "labels.csv"))
    found = told.load(Alignment("margin", (24, 20)), tmp_path / "cache")
    assert found.public is not None
    male = found.public.subset([5, 0, 2]).traits["male"]
    assert male[:2].tolist() == [0, 1] and np.isnan(male[2])
    assert any("somebody" in names for names in found.notes.values())
    assert bare.revision() == told.revision(), "so that labels make no decoder anew"
    assert bare.traits_revision() == "" != told.traits_revision()


def test_synthetic_people_have_true_traits(tmp_path: Path) -> None:
    people = Synthetic(folds=1, pairs_per_fold=2, public=8)
    public = people.load(Alignment("margin", (24, 20)), tmp_path).public
    assert public is not None
    person = sample_person("", "frontal public ", 1)
    assert public.traits["male"][4:].tolist() == [person["male"]] * 4
    assert public.traits["skin"][4:] == pytest.approx([person["skin"]] * 4)
    assert np.abs(public.traits["age"][4:] - person["age"]).max() <= 2, "the age shown, in years"
    assert set(public.traits["glasses"]) <= {0, 1} and set(public.traits["beard"]) <= {0, 1}
    assert people.traits_revision() != Synthetic(folds=1, pairs_per_fold=2, public=8, salt="x").traits_revision()
