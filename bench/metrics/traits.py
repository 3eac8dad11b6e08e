"""Measures how well yes/no traits are inferred: balanced accuracy and calibration, with intervals over people.

Balanced accuracy is the mean of the shares of right answers among those where yes is true and where no is true: .5 is
chance, whatever the shares of both. The expected calibration error (ECE; Guo et al. 2017) is the mean distance between
the stated probability of yes and its frequency, in ten bins of equal width, weighted by their counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bench.metrics.bootstrap import resample_weights
from bench.metrics.proportions import proportion
from bench.storage.records import Measure

CHANCE = 0.5  #: balanced accuracy of answers that do not depend on the truth

_BINS = 10
_TAILS = (0.025, 0.975)


@dataclass(frozen=True, eq=False)
class Inferred:
    """One trait's answers, of the images in which it is known."""

    truth: NDArray[np.bool_] = field(repr=False)  #: (N,)
    probability: NDArray[np.float64] = field(repr=False)  #: (N,) of yes
    right: NDArray[np.bool_] = field(repr=False)  #: (N,) whether the decision is right
    owners: NDArray[np.object_] = field(repr=False)  #: (N,) the person in each image

    @classmethod
    def decided(
        cls,
        truth: NDArray[np.bool_],
        probability: NDArray[np.float64],
        owners: NDArray[np.object_],
        *,
        share: float,
        found: NDArray[np.bool_],
    ) -> Inferred:
        """Answers yes where yes is more probable than among the attacker's own faces.

        That is the best decision for balanced accuracy if the probabilities are right.

        Args:
            share: of yes among the attacker's own faces.
            found: (N,) whether the image shows a face; any answer for one that does not is wrong.
        """
        return cls(truth, probability, ((probability > share) == truth) & found, owners)

    @property
    def answerable(self) -> bool:
        """Whether both answers are true for somebody: otherwise there is no balanced accuracy."""
        return bool(self.truth.any() and not self.truth.all())


def balanced_accuracy(answers: Inferred) -> Measure:
    """The balanced accuracy, with its interval over people; without a value if only one answer is ever true."""
    if not answers.answerable:
        return Measure(None, n=len(answers.truth), note="unavailable: the same for all who are judged")
    yes = answers.truth.mean()
    weights = np.where(answers.truth, 1 / yes, 1 / (1 - yes))
    return proportion(answers.right, answers.owners, weights=weights, kinds=answers.truth)


def calibration_error(answers: Inferred, *, seed: int, resamples: int = 1000) -> Measure:
    """ECE of the probabilities, in [0, 1], with the bootstrap interval over people.

    Chance alone makes the ECE of few images larger than 0, and that of resamples larger still: the interval is that of
    the resamples, moved down by what their mean exceeds the ECE.
    """
    if not len(answers.truth):
        return Measure(None, note="unavailable: known of nobody who is judged")
    bins = np.minimum((answers.probability * _BINS).astype(np.int64), _BINS - 1)
    gaps = np.zeros((len(bins), _BINS))
    gaps[np.arange(len(bins)), bins] = answers.probability - answers.truth
    error = float(np.abs(gaps.mean(0)).sum())
    weights = resample_weights(answers.owners, seed, resamples)
    again = np.abs(weights @ gaps).sum(1) / weights.sum(1)
    again = again - (again.mean() - error)
    low, high = (float(np.clip(end, 0.0, 1.0)) for end in np.quantile(again, _TAILS))
    if not low < high:
        return Measure(error, n=len(bins), note="no interval: all resamples are the same")
    return Measure(error, min(low, error), max(high, error), len(bins))


def mean_accuracy(traits: Sequence[Inferred], *, seed: int, resamples: int = 1000) -> Measure:
    """The mean over traits of their balanced accuracies, with the bootstrap interval over people.

    Args:
        traits: (T,) traits of the same images.
    """
    some = [one for one in traits if one.answerable]
    if not some:
        return Measure(None, note="unavailable: no trait is recognised in clean features")
    everybody = np.unique(np.concatenate([one.owners for one in some]))
    # The same people are drawn for every trait, of which not all images need be known.
    drawn = resample_weights(everybody, seed, resamples)
    means = []
    for one in some:
        weights = drawn[:, np.searchsorted(everybody, one.owners)]
        with np.errstate(invalid="ignore"):
            shares = [(weights @ (one.right & kind)) / (weights @ kind) for kind in (one.truth, ~one.truth)]
        means.append(np.mean(shares, axis=0))
    again = np.mean(means, axis=0)
    again = again[np.isfinite(again)]
    value = float(np.mean([balanced_accuracy(one).value for one in some]))
    low, high = (float(end) for end in np.quantile(again, _TAILS)) if len(again) else (value, value)
    count = max(len(one.truth) for one in some)
    if not low < high:
        return Measure(value, n=count, note="no interval: all resamples are the same")
    return Measure(value, low, high, count)
