"""Batches of a batch-coupled defence."""

from collections.abc import Callable
from random import Random

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import Pairs, Rng
from bench.runner.batches import coupled_batches, halving, plain_batches, shared_pairs


def _pairs(edges: list[tuple[int, int]]) -> Pairs:
    left = np.array([a for a, _ in edges], dtype=np.int64)
    right = np.array([b for _, b in edges], dtype=np.int64)
    return Pairs(left, right, np.ones(len(edges), bool), np.zeros(len(edges), np.int64))


@settings(deadline=None)
@given(st.integers(1, 120), st.integers(1, 30), st.integers(0, 5), st.data())
def test_everybody_once_and_no_pair_together(count: int, size: int, seed: int, data: st.DataObject) -> None:
    image = st.integers(0, count - 1)
    pairs = _pairs(data.draw(st.lists(st.tuples(image, image), max_size=count // 2)))
    batches = coupled_batches(count, size, Rng(seed), pairs)
    assert sorted(np.concatenate(batches).tolist()) == list(range(count))
    assert [len(b) for b in batches[:-1]] == [size] * (len(batches) - 1)
    assert len(batches) == max(1, count // size)


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(1, 15), st.integers(0, 5), st.randoms(use_true_random=False))
def test_no_pair_shares_a_batch_where_three_will_do(half: int, size: int, seed: int, shuffle: Random) -> None:
    images = list(range(2 * half))
    shuffle.shuffle(images)
    pairs = _pairs(list(zip(images[::2], images[1::2], strict=True)))
    batches = coupled_batches(2 * half, size, Rng(seed), pairs)
    if len(batches) >= 3:
        assert shared_pairs(batches, pairs, 2 * half) == 0


def test_the_arrangement_is_seeded() -> None:
    def flat(seed: int) -> list[int]:
        return [int(i) for batch in coupled_batches(100, 10, Rng(seed)) for i in batch]

    assert flat(1) == flat(1)
    assert flat(1) != flat(2)


def test_one_batch_cannot_keep_pairs_apart_and_says_so() -> None:
    pairs = _pairs([(0, 1), (2, 2)])
    batches = coupled_batches(5, 4, Rng(0), pairs)
    assert shared_pairs(batches, pairs, 5) == 1


def test_where_it_cannot_be_helped_it_is_counted() -> None:
    triangle = _pairs([(0, 1), (0, 2), (1, 2)])
    batches = coupled_batches(6, 3, Rng(0), triangle)
    assert sorted(np.concatenate(batches).tolist()) == list(range(6))
    assert shared_pairs(batches, triangle, 6) == 1


def test_plain_batches_are_consecutive() -> None:
    assert [b.tolist() for b in plain_batches(5, 2)] == [[0, 1], [2, 3], [4]]
    assert plain_batches(0) == []


def _work(most: int, seen: list[int]) -> Callable[[NDArray[np.int64]], Tensor]:
    """A network that has room for `most` images."""
    weights = torch.rand(7, 3, generator=torch.Generator().manual_seed(0))
    inputs = torch.rand(20, 7, generator=torch.Generator().manual_seed(1))

    def work(batch: NDArray[np.int64]) -> Tensor:
        seen.append(len(batch))
        if len(batch) > most:
            raise torch.OutOfMemoryError("no room")
        return inputs[batch] @ weights

    return work


def test_too_little_memory_halves_the_batch_and_says_so(caplog: pytest.LogCaptureFixture) -> None:
    seen: list[int] = []
    whole = _work(20, [])(np.arange(20))
    parts = list(halving(_work(6, seen), np.arange(20)))
    assert seen == [20, 10, 5, 5, 10, 5, 5]
    assert np.concatenate([batch for batch, _ in parts]).tolist() == list(range(20))
    torch.testing.assert_close(torch.cat([made for _, made in parts]), whole, atol=1e-4, rtol=0)
    assert "continuing with 10" in caplog.text and "continuing with 5" in caplog.text


@pytest.mark.parametrize(("most", "splits"), [(0, True), (10, False)])
def test_a_batch_that_may_not_be_split_or_cannot_is_an_error(most: int, splits: bool) -> None:
    seen: list[int] = []
    with pytest.raises(torch.OutOfMemoryError):
        list(halving(_work(most, seen), np.arange(16), splits))
    assert seen == ([16, 8, 4, 2, 1] if splits else [16])
