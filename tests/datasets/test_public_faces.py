"""Defender, attacker and test set share nobody."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.contracts import FaceSet, Rng
from bench.datasets.public_faces import judged_without_a_face, refuse_overlap, split_public
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
