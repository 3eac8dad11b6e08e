"""EER and TAR at FAR with 95 % intervals: genuine pairs and impostors are both drawn by chance.

The intervals of the two rates are carried over to the figure one at a time, and their reaches added as squares: "method
of variance estimates recovery", Zou and Donner (2008). Either rate's own interval is that of a share
(`bench.metrics.proportions`), for impostors with the effective size that all comparisons among few people are worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bench.metrics.proportions import agresti_coull, effective_size, few_people
from bench.metrics.verification import TRUSTED, Impostors, equal_error_rate
from bench.storage.records import Measure


def error_rates(
    genuine: NDArray[Any], owners: NDArray[Any], impostors: Impostors, fars: Sequence[float], eer: bool = True
) -> Mapping[str, Measure]:
    """`eer`, if wanted, and `tar_at_far_FAR` of each rate, with intervals; no value where too little is behind one.

    Args:
        genuine: (G,) similarities of pairs of one person's images.
        owners: (G,) whose they are.
        impostors: of different people.
        fars: false-accept rates, 0 to 1.

    Raises:
        ValueError: the EER is wanted, and there are no genuine or no impostor scores.
    """
    trial = _Trial(np.asarray(genuine, dtype=np.float64), np.asarray(owners), impostors)
    found = {"eer": trial.eer()} if eer else {}
    return found | {f"tar_at_far_{far:g}": trial.tar(far) for far in fars}


@dataclass(frozen=True, eq=False)
class _Trial:
    """Genuine and impostor similarities, the impostors sorted once for all figures."""

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
        """How many independent comparisons the impostors are worth where so many are let in.

        Nobody let in says nothing about whether the same people are let in again and again: at least `TRUSTED` are
        looked at.
        """
        count = len(self._others)
        place = count - min(max(accepted, TRUSTED), count)
        let_in, taken = self.impostors.accepted([self._others[place], -math.inf])
        people = int((taken > 0).sum())
        rate = float(let_in.sum() / taken.sum())
        alone = count * rate * (1 - rate)
        if alone == 0 or people < 2:
            return float(min(people, count))
        # By person as in `proportions`: each comparison counts with both of its people, and once too often.
        together = float(((let_in - rate * taken) ** 2).sum()) - alone
        worth = count * alone / max(alone, together * people / (people - 1))
        return max(worth * few_people(count, people), 1.0)

    def _genuine_size(self, passed: NDArray[np.bool_]) -> float:
        return effective_size(passed, self.owners)

    def tar(self, far: float) -> Measure:
        """Share of genuine pairs above the threshold that lets in at most `far` of the impostors."""
        count = len(self._others)
        allowed = math.floor(far * count + 1e-9)
        if allowed < TRUSTED or not len(self._own):
            note = f"too few impostor pairs ({count}) for this rate"
            return Measure(None, n=len(self._own), note=note)
        passed = self.genuine > self._refused(allowed)
        value = float(passed.mean())
        low, high = agresti_coull(value, self._genuine_size(passed))
        rate_low, rate_high = agresti_coull(min(far, 1.0), self._impostor_size(allowed))
        # With another threshold: the one that would let in that many, had the impostors been others.
        fewer, more = (float((self.genuine > self._refused(round(r * count))).mean()) for r in (rate_low, rate_high))
        return _joined(value, (low, fewer), (high, more), len(passed))

    def _refused(self, allowed: int) -> float:
        """The highest impostor's similarity that is not let in, where so many are."""
        place = len(self._others) - 1 - allowed
        return float(self._others[place]) if place >= 0 else -math.inf

    def eer(self) -> Measure:
        """Where false rejection and false acceptance cross."""
        value = self._eer(0.0)
        count = len(self._others)
        let_in = min(round(value * count), count)
        threshold = self._others[count - let_in] if let_in else np.nextafter(self._others[-1], math.inf)
        own = agresti_coull(value, self._genuine_size(self.genuine >= threshold))
        others = agresti_coull(value, self._impostor_size(let_in))
        # False acceptances raised by some amount cross where false rejections lowered by it do, that much higher.
        lows, highs = ((self._eer(own[k] - value), self._eer(value - others[k]) + others[k] - value) for k in (0, 1))
        return _joined(value, lows, highs, len(self._own))

    def _eer(self, raised: float) -> float:
        return equal_error_rate(self._own, self._others, raised)


def _joined(value: float, lows: tuple[float, float], highs: tuple[float, float], count: int) -> Measure:
    """The interval that reaches as far as both causes together, at a right angle."""
    down, up = (math.hypot(*(value - end for end in ends)) for ends in (lows, highs))
    return Measure(value, max(0.0, value - down), min(1.0, value + up), count)
