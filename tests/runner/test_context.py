"""A run on fewer pairs than there are keeps a protocol that can tell a recogniser from one who always says yes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.contracts import Evaluation, FaceSet, Pairs
from bench.errors import UserError
from bench.runner.context import _fewer_pairs


def _protocol(folds: int, each: int) -> Evaluation:
    """As LFW lists it: fold by fold, the genuine pairs first; nobody in two pairs."""
    count = 2 * folds * 2 * each
    test = FaceSet(
        np.zeros((count, 2, 2, 3), np.uint8),
        np.arange(count),
        tuple(f"i{n}" for n in range(count)),
        None,
        np.ones(count, bool),
    )
    places = np.arange(count // 2)
    return Evaluation(
        test, Pairs(2 * places, 2 * places + 1, places // each % 2 == 0, places // (2 * each)), None
    )  # fmt: skip


@given(folds=st.integers(1, 4), each=st.integers(1, 6), limit=st.integers(2, 50))
def test_fewer_pairs_are_balanced_and_from_every_fold(folds: int, each: int, limit: int) -> None:
    whole = _protocol(folds, each)
    test, pairs = _fewer_pairs(whole, limit)
    assert len(pairs) == min(len(whole.pairs), limit // 2 * 2), "as many as there is room for"
    assert set(pairs.left) | set(pairs.right) == set(range(len(test))), "and no image without a pair"
    assert pairs.genuine.sum() * 2 == len(pairs)
    counts = np.bincount(pairs.fold, minlength=folds)
    assert counts.max() - counts.min() <= 2

    def named(faces: FaceSet, some: Pairs) -> set[tuple[str, str]]:
        return {(faces.names[left], faces.names[right]) for left, right in zip(some.left, some.right, strict=True)}

    assert named(test, pairs) <= named(whole.test, whole.pairs)


def test_too_few_for_one_pair_of_each_kind() -> None:
    with pytest.raises(UserError, match=r"run.pairs = 1 leaves no genuine or no impostor pair"):
        _fewer_pairs(_protocol(2, 3), 1)
