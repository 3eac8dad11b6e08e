"""Verification metrics of embeddings: fold-wise accuracy, impostor scores, EER and TAR at FAR."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

TRUSTED = 10  #: a false-accept rate is reported only if it stands for at least this many impostor pairs
_BLOCK = 512  #: rows of the similarity matrix held at once


@dataclass(frozen=True, eq=False)
class FoldAccuracy:
    """Accuracy by LFW's protocol: the threshold of each fold is chosen on the other folds."""

    accuracy: float  #: mean over folds
    thresholds: tuple[float, ...]  #: by fold number
    correct: NDArray[np.bool_]  #: (P,)
    in_sample: bool  #: there was only one fold, and its threshold was chosen on it
    weights: NDArray[np.float64]  #: (P,) weight of each pair in the mean over folds; they sum to 1


def best_threshold(similarity: NDArray[Any], genuine: NDArray[np.bool_]) -> float:
    """The threshold (accept at or above) with the most correct decisions: the midpoint of the best interval.

    Exact: it tries every position between the sorted scores. Among equally good intervals it takes the median one. At
    either end the threshold is the extreme score, moved outwards by 1e-6.

    Args:
        similarity: (P,), finite.
        genuine: (P,) True where both images show the same person.
    """
    similarity = np.asarray(similarity, dtype=np.float64)
    order = np.argsort(similarity, kind="stable")
    scores, labels = similarity[order], genuine[order]
    # Accept everything from position k on: the impostors below k are correct, the genuine pairs below k are wrong.
    right = np.concatenate([[0], np.cumsum(~labels)]) + labels.sum() - np.concatenate([[0], np.cumsum(labels)])
    edges = np.concatenate([[True], scores[1:] > scores[:-1], [True]])  # a threshold cannot separate equal scores
    candidates = np.flatnonzero(edges & (right == right[edges].max()))
    k = int(candidates[len(candidates) // 2])
    if k == 0:
        return float(scores[0] - 1e-6)
    if k == len(scores):
        return float(max(scores[-1] + 1e-6, np.nextafter(scores[-1], np.inf)))
    middle = scores[k - 1] + (scores[k] - scores[k - 1]) / 2
    return float(middle if middle > scores[k - 1] else scores[k])  # adjacent floats have no midpoint


def fold_accuracy(
    similarity: NDArray[Any], genuine: NDArray[np.bool_], fold: NDArray[np.int64], valid: NDArray[np.bool_]
) -> FoldAccuracy:
    """Accuracy of pairs (P,) in folds numbered from 0.

    A pair that is not `valid` (an image without a face) counts as a wrong decision and is not used to choose a
    threshold.

    Args:
        similarity: (P,) higher for more similar; apart from rounding, only the order matters.
        genuine: (P,) True where both images show the same person.
        fold: (P,) 0, 1, ...
        valid: (P,) False where an image of the pair shows no face.

    Raises:
        ValueError: no fold has valid pairs to choose a threshold on, or the similarity of a valid pair is not finite.
    """
    # Thresholds are float64; compared in float32, they could round onto the score that they should exceed.
    similarity = np.asarray(similarity, dtype=np.float64)
    if not np.isfinite(similarity[valid]).all():
        raise ValueError("similarities are not finite: the embeddings contain NaN or have length 0")
    folds = np.unique(fold)
    alone = len(folds) == 1
    thresholds = []
    correct = np.zeros(len(fold), dtype=bool)
    for number in range(int(folds.max()) + 1):
        chosen_on = valid & (True if alone else fold != number)
        if not chosen_on.any():
            raise ValueError("no pair with two found faces to choose a threshold on")
        thresholds.append(best_threshold(similarity[chosen_on], genuine[chosen_on]))
        here = fold == number
        correct[here] = ((similarity[here] >= thresholds[-1]) == genuine[here]) & valid[here]
    accuracy = float(np.mean([correct[fold == number].mean() for number in folds]))
    weights = 1 / (len(folds) * np.bincount(fold)[fold])
    return FoldAccuracy(accuracy, tuple(thresholds), correct, alone, weights)


def accepted(similarity: NDArray[Any], fold: NDArray[np.int64], thresholds: tuple[float, ...]) -> NDArray[np.bool_]:
    """Whether each comparison (P,) passes its fold's threshold, given the `thresholds` of a `FoldAccuracy`."""
    passed: NDArray[np.bool_] = np.asarray(similarity, dtype=np.float64) >= np.array(thresholds)[fold]
    return passed


@dataclass(frozen=True, eq=False)
class Impostors:
    """Similarities of images of different people, and the people.

    Images are the rows and columns of a matrix; `similarity` lists its comparable entries row by row.
    """

    similarity: NDArray[np.float64]  #: (I,)
    person: NDArray[np.int64]  #: (N,) the person of each row and of each column: 0, 1, ...
    both_ways: bool = False  #: whether an entry and its transpose are two comparisons

    @classmethod
    def among(cls, embeddings: NDArray[Any], subjects: NDArray[Any]) -> Impostors:
        """All pairs of different people, each once, from unit embeddings (N, D) and their owners (N,)."""
        return cls(all_impostors(embeddings, subjects), np.unique(subjects, return_inverse=True)[1])

    @classmethod
    def off_diagonal(cls, scores: NDArray[Any]) -> Impostors:
        """Comparisons of templates with photographs, from scores (N, N) of N people."""
        count = len(scores)
        others = np.asarray(scores, dtype=np.float64)[~np.eye(count, dtype=bool)]
        return cls(others, np.arange(count), both_ways=True)

    def accepted(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        """For each threshold and person, (T, M): the number of their comparisons that score at least the threshold."""
        people = int(self.person.max()) + 1 if len(self.person) else 0
        counts = np.zeros((len(thresholds), people), dtype=np.int64)
        filled = 0
        for rows, wanted in _comparable(self.person, self.both_ways):
            here = self.similarity[filled : filled + int(wanted.sum())]
            filled += len(here)
            for place, threshold in enumerate(thresholds):
                passed = wanted.copy()
                passed[wanted] = here >= threshold
                counts[place] += np.bincount(self.person[rows], passed.sum(1), people).astype(np.int64)
                counts[place] += np.bincount(self.person, passed.sum(0), people).astype(np.int64)
        return counts


@dataclass(frozen=True, eq=False, kw_only=True)
class CrossImpostors(Impostors):
    """Similarities of different people in a matrix whose rows and columns are different images."""

    left: NDArray[np.int64]  #: (I,) the person of the row of each entry: 0, 1, ...
    right: NDArray[np.int64]  #: (I,) the person of its column

    @classmethod
    def between(cls, scores: NDArray[Any], rows: NDArray[np.int64], columns: NDArray[np.int64]) -> CrossImpostors:
        """The entries of `scores` (A, B) whose people differ, from the people of rows (A,) and columns (B,)."""
        left, right = np.broadcast_arrays(rows[:, None], columns)
        others = left != right
        people = np.arange(max(rows.max(), columns.max()) + 1)
        return cls(np.asarray(scores, dtype=np.float64)[others], people, left=left[others], right=right[others])

    def accepted(self, thresholds: Sequence[float]) -> NDArray[np.int64]:
        counts = np.zeros((len(thresholds), len(self.person)), dtype=np.int64)
        for place, threshold in enumerate(thresholds):
            passed = self.similarity >= threshold
            for side in (self.left, self.right):
                counts[place] += np.bincount(side[passed], minlength=len(self.person))
        return counts


def _comparable(person: NDArray[np.int64], both_ways: bool) -> Iterator[tuple[slice, NDArray[np.bool_]]]:
    """Blocks of rows with a mask of entries that compare different people: above the diagonal, or on both sides."""
    position = np.arange(len(person))
    for start in range(0, len(person), _BLOCK):
        rows = slice(start, start + _BLOCK)
        wanted = person[rows, None] != person
        yield rows, wanted if both_ways else wanted & (position[rows, None] < position)


def all_impostors(embeddings: NDArray[Any], subjects: NDArray[Any]) -> NDArray[np.float64]:
    """Similarities of all pairs of different people, from unit embeddings (N, D) and their owners (N,).

    Each pair occurs once, in the order of `numpy.triu_indices`. Computed in blocks of rows: memory is the result (8
    bytes per pair) and one block.
    """
    _, person = np.unique(subjects, return_inverse=True)
    vectors = np.asarray(embeddings, dtype=np.float64)
    alike = np.bincount(person)
    found = np.empty(len(vectors) * (len(vectors) - 1) // 2 - int((alike * (alike - 1) // 2).sum()))
    filled = 0
    for rows, wanted in _comparable(person, both_ways=False):
        here = (vectors[rows] @ vectors.T)[wanted]
        found[filled : filled + len(here)] = here
        filled += len(here)
    return found


def equal_error_rate(genuine: NDArray[Any], impostor: NDArray[Any], raised: float = 0.0) -> float:
    """The rate, 0 to 1, where false rejection and false acceptance cross; linear between operating points.

    Args:
        genuine: (G,) similarities of one person's images; faster if sorted.
        impostor: (I,) similarities of different people.
        raised: added to the false-reject rate at every threshold, for sensitivity analysis.

    Raises:
        ValueError: there are no genuine or no impostor scores.
    """
    if not len(genuine) or not len(impostor):
        raise ValueError("an equal error rate needs genuine and impostor scores")
    own, others = _sorted(genuine), _sorted(impostor)

    def rates(threshold: float) -> tuple[float, float]:
        """False-reject and false-accept rates with the threshold at this score."""
        rejected = np.searchsorted(own, threshold, side="left") / len(own)
        return float(rejected) + raised, float(1 - np.searchsorted(others, threshold, side="left") / len(others))

    def crossed(threshold: float) -> bool:
        rejected, let_in = rates(threshold)
        return rejected >= let_in

    # The difference rises with the threshold, so bisection finds the first score where it is not negative. There may be
    # a hundred million impostors, too many for an array of thresholds.
    places = [bisect_left(scores, True, key=crossed) for scores in (own, others)]  # type: ignore[call-overload]
    above = [scores[place] for scores, place in zip((own, others), places, strict=True) if place < len(scores)]
    below = [scores[place - 1] for scores, place in zip((own, others), places, strict=True) if place]
    rejected, let_in = rates(min(above, default=np.inf))
    if rejected == let_in or not below:
        return rejected
    rejected_before, let_in_before = rates(max(below))
    gap_before = rejected_before - let_in_before
    share = -gap_before / (rejected - let_in - gap_before)
    return float(rejected_before + share * (rejected - rejected_before))


def _sorted(scores: NDArray[Any]) -> NDArray[np.float64]:
    scores = np.asarray(scores, dtype=np.float64)
    return scores if bool((scores[1:] >= scores[:-1]).all()) else np.sort(scores)


def tar_at_far(genuine: NDArray[Any], impostor: NDArray[Any], far: float) -> float | None:
    """The fraction of genuine pairs accepted where at most `far` of the impostors are; None with too few impostors."""
    refused = refused_at(impostor, far)
    if refused is None or not len(genuine):
        return None
    return float((np.asarray(genuine) > refused).mean())


def refused_at(impostor: NDArray[Any], far: float) -> float | None:
    """The highest score that is refused if at most `far` of the impostors (I,) are accepted: accept above it.

    None with too few impostors for the rate.
    """
    allowed = int(np.floor(far * len(impostor) + 1e-9))
    if allowed < TRUSTED:
        return None
    place = len(impostor) - 1 - allowed
    return float(np.partition(impostor, place)[place]) if place >= 0 else -np.inf
