"""How well embeddings tell people apart: fold-wise accuracy, EER, TAR at FAR."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

_TRUSTED = 10  #: impostor pairs that a false-accept rate must stand for before it is reported


@dataclass(frozen=True, eq=False)
class FoldAccuracy:
    """LFW's protocol: each fold is decided with a threshold chosen on the others."""

    accuracy: float  #: mean over folds
    thresholds: tuple[float, ...]  #: by fold number
    correct: NDArray[np.bool_]  #: (P,)
    in_sample: bool  #: there was one fold only, and its threshold was chosen on it


def best_threshold(similarity: NDArray[Any], genuine: NDArray[np.bool_]) -> float:
    """The threshold (accept at or above) with most correct decisions; the middle of the best interval.

    Among equally good intervals the median one. An end interval gives its one score, nudged outwards by 1e-6.
    """
    order = np.argsort(similarity, kind="stable")
    scores, labels = np.asarray(similarity, dtype=np.float64)[order], genuine[order]
    # Accept everything from position k on: k impostors rejected rightly, genuine ones below k wrongly.
    right = np.concatenate([[0], np.cumsum(~labels)]) + labels.sum() - np.concatenate([[0], np.cumsum(labels)])
    edges = np.concatenate([[True], scores[1:] > scores[:-1], [True]])  # a threshold cannot part equal scores
    candidates = np.flatnonzero(edges & (right == right[edges].max()))
    k = int(candidates[len(candidates) // 2])
    if k == 0:
        return float(scores[0] - 1e-6)
    if k == len(scores):
        return float(scores[-1] + 1e-6)
    return float((scores[k - 1] + scores[k]) / 2)


def fold_accuracy(
    similarity: NDArray[Any], genuine: NDArray[np.bool_], fold: NDArray[np.int64], valid: NDArray[np.bool_]
) -> FoldAccuracy:
    """Accuracy of pairs (P,) in folds numbered from 0.

    A pair that is not `valid` (an image without a face) is never decided correctly and chooses no threshold.

    Raises:
        ValueError: no valid pairs to choose a threshold on.
    """
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
    return FoldAccuracy(accuracy, tuple(thresholds), correct, alone)


def accepted(similarity: NDArray[Any], fold: NDArray[np.int64], thresholds: tuple[float, ...]) -> NDArray[np.bool_]:
    """Whether each comparison passes at its fold's threshold."""
    passed: NDArray[np.bool_] = similarity >= np.array(thresholds)[fold]
    return passed


def all_impostors(embeddings: NDArray[Any], subjects: NDArray[Any]) -> NDArray[np.float64]:
    """Similarities of all pairs of different people, from unit embeddings (N, D)."""
    _, person = np.unique(subjects, return_inverse=True)
    rows, columns = np.triu_indices(len(embeddings), 1)
    different = person[rows] != person[columns]
    similarity = np.asarray(embeddings, dtype=np.float64) @ np.asarray(embeddings, dtype=np.float64).T
    found: NDArray[np.float64] = similarity[rows[different], columns[different]]
    return found


def equal_error_rate(genuine: NDArray[Any], impostor: NDArray[Any]) -> float:
    """Where false rejection and false acceptance cross, linearly between the operating points."""
    if not len(genuine) or not len(impostor):
        raise ValueError("an equal error rate needs genuine and impostor scores")
    thresholds = np.concatenate([np.unique(np.concatenate([genuine, impostor])), [np.inf]])
    rejected = np.searchsorted(np.sort(genuine), thresholds, side="left") / len(genuine)
    let_in = 1 - np.searchsorted(np.sort(impostor), thresholds, side="left") / len(impostor)
    gap = rejected - let_in  # rises from -1 to 1
    after = int(np.argmax(gap >= 0))
    if gap[after] == 0 or after == 0:
        return float(rejected[after])
    share = -gap[after - 1] / (gap[after] - gap[after - 1])
    return float(rejected[after - 1] + share * (rejected[after] - rejected[after - 1]))


def tar_at_far(genuine: NDArray[Any], impostor: NDArray[Any], far: float) -> float | None:
    """Share of genuine pairs accepted where at most `far` of the impostors are; None if too few stand behind it."""
    allowed = int(np.floor(far * len(impostor) + 1e-9))
    if allowed < _TRUSTED or not len(genuine):
        return None
    first_refused = np.sort(impostor)[::-1][allowed] if allowed < len(impostor) else -np.inf
    return float((np.asarray(genuine) > first_refused).mean())
