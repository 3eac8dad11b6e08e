"""EER and TAR at FAR with 95 % intervals that account for both sampled genuine pairs and sampled impostors.

The intervals of the two rates are translated to the figure one at a time and combined as a root sum of squares: the
"method of variance estimates recovery" (MOVER), Zou and Donner (2008). Each rate has the interval of a proportion
(`bench.metrics.proportions`); for impostors with the effective size of all comparisons among few people.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.proportions import CHOSEN_THRESHOLDS, agresti_coull, effective_size, few_people, proportion
from bench.metrics.verification import TRUSTED, FoldAccuracy, Impostors, equal_error_rate
from bench.storage.records import Measure


def error_rates(
    genuine: NDArray[Any], owners: NDArray[Any], impostors: Impostors, fars: Sequence[float], eer: bool = True
) -> Mapping[str, Measure]:
    """`eer` if requested, and `tar_at_far_FAR` for each rate, with intervals; no value where the data is too small.

    Args:
        genuine: (G,) similarities of pairs of images of one person.
        owners: (G,) the person of each pair.
        impostors: similarities of different people.
        fars: false-accept rates, 0 to 1.

    Raises:
        ValueError: the EER is requested and there are no genuine or no impostor scores.
    """
    trial = _Trial(np.asarray(genuine, dtype=np.float64), np.asarray(owners), impostors)
    found = {"eer": trial.eer()} if eer else {}
    return found | {f"tar_at_far_{far:g}": trial.tar(far) for far in fars}


def accuracy_share(decisions: FoldAccuracy, owners: NDArray[Any], genuine: NDArray[np.bool_]) -> Measure:
    """The mean accuracy over folds with its interval.

    Args:
        owners: (P, 2) the two people of each pair.
        genuine: (P,) True where both images show the same person.
    """
    share = proportion(decisions.correct, owners, weights=decisions.weights, kinds=genuine, inflation=CHOSEN_THRESHOLDS)
    return replace(share, value=decisions.accuracy)


@dataclass(frozen=True, eq=False)
class _Trial:
    """Genuine and impostor similarities; the impostors are sorted once for all figures."""

    genuine: NDArray[np.float64]
    owners: NDArray[Any]
    impostors: Impostors

    @cached_property
    def _own(self) -> NDArray[np.float64]:
        return np.sort(self.genuine)

    @cached_property
    def _others(self) -> NDArray[np.float64]:
        return np.sort(self.impostors.similarity)

    def _impostor_size(self, accepted: int) -> float:
        """Effective number of impostor comparisons at the threshold that accepts so many of them.

        Very few acceptances say nothing about whether the same people are accepted repeatedly, so it looks at `TRUSTED`
        comparisons or more.
        """
        count = len(self._others)
        place = count - min(max(accepted, TRUSTED), count)
        let_in, taken = self.impostors.accepted([self._others[place], -math.inf])
        people = int((taken > 0).sum())
        rate = float(let_in.sum() / taken.sum())
        alone = count * rate * (1 - rate)
        if alone == 0 or people < 2:
            return float(min(people, count))
        # Summed by person as in `proportions`: each comparison counts for both people, and is subtracted once.
        together = float(((let_in - rate * taken) ** 2).sum()) - alone
        worth = count * alone / max(alone, together * people / (people - 1))
        return max(worth * few_people(count, people), 1.0)

    def _genuine_size(self, passed: NDArray[np.bool_]) -> float:
        return effective_size(passed, self.owners)

    def tar(self, far: float) -> Measure:
        """The fraction of genuine pairs above the threshold that accepts at most `far` of the impostors."""
        count = len(self._others)
        allowed = math.floor(far * count + 1e-9)
        if allowed < TRUSTED or not len(self._own):
            note = f"too few impostor pairs ({count}) for this rate"
            return Measure(None, n=len(self._own), note=note)
        passed = self.genuine > self._refused(allowed)
        value = float(passed.mean())
        low, high = agresti_coull(value, self._genuine_size(passed))
        rate_low, rate_high = agresti_coull(min(far, 1.0), self._impostor_size(allowed))
        # The thresholds that would accept that many, had the impostors been sampled differently.
        fewer, more = (float((self.genuine > self._refused(round(r * count))).mean()) for r in (rate_low, rate_high))
        return _joined(value, (low, fewer), (high, more), len(passed))

    def _refused(self, allowed: int) -> float:
        """The similarity of the highest-scoring impostor that is rejected, if so many are accepted."""
        place = len(self._others) - 1 - allowed
        return float(self._others[place]) if place >= 0 else -math.inf

    def eer(self) -> Measure:
        """The point where the false-reject and false-accept rates cross."""
        value = self._eer(0.0)
        count = len(self._others)
        let_in = min(round(value * count), count)
        threshold = self._others[count - let_in] if let_in else np.nextafter(self._others[-1], math.inf)
        own = agresti_coull(value, self._genuine_size(self.genuine >= threshold))
        others = agresti_coull(value, self._impostor_size(let_in))
        # Raising false acceptance by some amount moves the crossing like lowering false rejection, but higher by it.
        lows, highs = ((self._eer(own[k] - value), self._eer(value - others[k]) + others[k] - value) for k in (0, 1))
        return _joined(value, lows, highs, len(self._own))

    def _eer(self, raised: float) -> float:
        return equal_error_rate(self._own, self._others, raised)


def _joined(value: float, lows: tuple[float, float], highs: tuple[float, float], count: int) -> Measure:
    """The interval from both sources of error, combined as a root sum of squares."""
    down, up = (math.hypot(*(value - end for end in ends)) for ends in (lows, highs))
    return Measure(value, max(0.0, value - down), min(1.0, value + up), count)
