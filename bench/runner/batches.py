"""Divides images into batches, such that a batch-dependent defence does not see both images of a pair at once."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from bench.contracts import Pairs, Rng

log = logging.getLogger("veilbench")

Made = TypeVar("Made")


def halving(
    work: Callable[[NDArray[np.int64]], Made], batch: NDArray[np.int64], splits: bool = True
) -> Iterator[tuple[NDArray[np.int64], Made]]:
    """Yields (indices, result of `work`), for the whole batch, or for halves of it if memory is insufficient.

    Only for work whose results do not depend on the rest of the batch. `splits=False` says that they do: the batch is
    then part of what is measured, and running out of memory is an error.

    Raises:
        torch.OutOfMemoryError: a single image is too large, or the batch must not be split.
    """
    try:
        made = work(batch)
    except torch.OutOfMemoryError:
        if not splits or len(batch) < 2:
            raise
        torch.cuda.empty_cache()  # does nothing without CUDA
        middle = len(batch) // 2
        log.warning("out of memory with %d images at once; continuing with %d", len(batch), middle)
    else:
        yield batch, made
        return
    for half in (batch[:middle], batch[middle:]):
        yield from halving(work, half)


def plain_batches(count: int, size: int = 50) -> list[NDArray[np.int64]]:
    """Consecutive batches; the last one may be shorter."""
    return [np.arange(start, min(start + size, count)) for start in range(0, count, size)]


def attacked_first(pairs: Pairs, count: int) -> NDArray[np.int64]:
    """All positions 0 to count - 1, in the order in which an attack with limited images selects them.

    Enrolled images of genuine pairs come first, because these can be replayed; it alternates between the folds.
    """
    _, first = np.unique(pairs.left[pairs.genuine], return_index=True)
    left, fold = pairs.left[pairs.genuine][np.sort(first)], pairs.fold[pairs.genuine][np.sort(first)]
    rank = np.zeros(len(left), dtype=np.int64)
    for number in np.unique(fold):
        rank[fold == number] = np.arange((fold == number).sum())
    enrolled = left[np.lexsort((fold, rank))]
    return np.concatenate([enrolled, np.setdiff1d(np.arange(count), enrolled)])


def coupled_batches(count: int, size: int, rng: Rng, pairs: Pairs | None = None) -> list[NDArray[np.int64]]:
    """A seeded permutation of all images in batches of `size`; a remainder is added to the last batch.

    The two images of a pair never share a batch if there are at least three batches and nobody is in more than one
    pair. In denser protocols or with fewer batches, some may have to; `shared_pairs` counts them.
    """
    order = rng.numpy().permutation(count)
    bins = max(1, count // size)
    if bins == 1:
        return [order] if count else []
    partners: list[set[int]] = [set() for _ in range(count)]
    if pairs is not None:
        for left, right in zip(pairs.left.tolist(), pairs.right.tolist(), strict=True):
            if left != right:
                partners[left].add(right)
                partners[right].add(left)
    capacity = [size] * (bins - 1) + [count - size * (bins - 1)]
    batches: list[list[int]] = [[] for _ in range(bins)]
    home = np.full(count, -1)

    def fits(image: int, batch: int) -> bool:
        return all(home[other] != batch for other in partners[image])

    # Images with the most partners are placed first; a stable sort otherwise preserves the permutation.
    for image in sorted(order.tolist(), key=lambda i: -len(partners[i])):
        start = int(rng.child("bin", image).seed % bins)
        for batch in (*range(start, bins), *range(start)):
            if len(batches[batch]) < capacity[batch] and fits(image, batch):
                break
        else:
            batch = _free_slot(image, batches, capacity, home, partners)
        batches[batch].append(image)
        home[image] = batch
    place = np.argsort(order)
    return [np.array(sorted(batch, key=place.__getitem__), dtype=np.int64) for batch in batches]


def _free_slot(
    image: int, batches: list[list[int]], capacity: list[int], home: NDArray[np.int64], partners: list[set[int]]
) -> int:
    """Moves an image out of a full batch that suits `image`; returns that batch, or any with space if there is none."""
    open_batches = [b for b, members in enumerate(batches) if len(members) < capacity[b]]
    for batch, members in enumerate(batches):
        if any(home[other] == batch for other in partners[image]):
            continue
        for other in members:
            for target in open_batches:
                if all(home[partner] != target for partner in partners[other]):
                    members.remove(other)
                    batches[target].append(other)
                    home[other] = target
                    return batch
    return open_batches[0]


def shared_pairs(batches: list[NDArray[np.int64]], pairs: Pairs, count: int) -> int:
    """The number of pairs whose two (different) images are in the same batch."""
    home = np.full(count, -1)
    for index, batch in enumerate(batches):
        home[batch] = index
    return int(((home[pairs.left] == home[pairs.right]) & (pairs.left != pairs.right)).sum())
