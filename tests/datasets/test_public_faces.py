"""Defender, attacker and test set share nobody."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.contracts import FaceSet, Rng
from bench.datasets.public_faces import PublicSources, judged_without_a_face, person_key, refuse_overlap, split_public
from bench.errors import UserError


def _faces(people: list[str] | None, count: int | None = None, prefix: str = "") -> FaceSet:
    count = len(people) if people is not None else count or 0
    names = tuple(f"{prefix}{i}" for i in range(count))
    subjects = None if people is None else tuple(people)
    return FaceSet(np.zeros((count, 2, 2, 3), np.uint8), np.arange(count), names, subjects, np.ones(count, bool))


@given(st.lists(st.sampled_from("abcdefghij"), min_size=2, max_size=60), st.integers(0, 3))
def test_halves_share_nobody_and_lose_nobody(people: list[str], seed: int) -> None:
    defender, attacker = split_public(_faces(people), Rng(seed))
    assert sorted(defender.names + attacker.names) == sorted(_faces(people).names)
    assert not set(defender.subjects or ()) & set(attacker.subjects or ())
    largest = max(people.count(p) for p in people)
    assert abs(len(defender) - len(attacker)) <= largest


def test_without_identities_images_are_split() -> None:
    defender, attacker = split_public(_faces(None, 9), Rng(0))
    assert {len(defender), len(attacker)} == {4, 5}
    assert not set(defender.names) & set(attacker.names)


def test_judged_photographs_without_a_face_are_said() -> None:
    faces = _faces(["a", "b", "c"])
    assert judged_without_a_face(faces) == {}
    faces.found[1] = False
    assert judged_without_a_face(faces) == {"judged photographs without a face, counted as failures": ["1"]}


def test_overlap_is_refused_by_name() -> None:
    refuse_overlap(test=_faces(["a"], prefix="t"), attacker=_faces(["b"], prefix="p"))
    with pytest.raises(UserError, match=r"test and attacker faces share 1 people or images \(a"):
        refuse_overlap(test=_faces(["a"], prefix="t"), attacker=_faces(["a"], prefix="p"))
    with pytest.raises(UserError, match="defender and attacker"):
        refuse_overlap(defender=_faces(None, 2), attacker=_faces(None, 3))


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Leonardo_DiCaprio", "Leonardo Dicaprio", True), ("Byung-hun Lee", "Byung_Hun_Lee", True),
        ("Terry O'quinn", "Terry_OQuinn", True), ("Dr. Dre", "Dr_Dre", True), ("Beyoncé", "Beyonce\u0301", True),
        ("Penélope Cruz", "Penelope_Cruz", True), ("王菲", "王菲", True), ("50 Cent", "50_Cent", True),
        ("Ann Lee", "Annlee", False), ("Ann", "Ann Lee", False), ("王菲", "王靖雯", False),
    ],
)  # fmt: skip
def test_names_are_compared_without_case_accents_and_signs(one: str, other: str, same: bool) -> None:
    assert (person_key(one) == person_key(other)) == same
    assert person_key(one)


@given(st.text(max_size=30))
def test_a_name_in_its_comparable_form_stays_as_it_is(name: str) -> None:
    key = person_key(name)
    assert person_key(key) == key and person_key(f" {name}_") == key


def test_numbers_are_nobodys_names() -> None:
    assert person_key("0012") == person_key("_") == person_key("") == ""
    sources = PublicSources("a", "b")
    people = {"a": {"1", "2", "Ann Lee"}, "b": {"1", "ann_lee", "Bob"}}
    assert sources.left_out({"2"}, people.__getitem__) == {"defender": frozenset(), "attacker": frozenset({"ann_lee"})}


def test_a_key_without_people_left_out_is_that_of_before() -> None:
    sources = PublicSources("a", "b", 5)
    assert sources.identity("attacker", str.upper) == {"revision": "B", "side": "all", "limit": 5}
    assert sources.identity("attacker", str.upper, {"x", "b"})["left_out"] == ["b", "x"]
