"""Detects noise of few values or of bounded size from residues, and subtracts it.

A defence that moves every entry of a feature by one of a few values can be corrected like a code. (Sign gradient
descent with a step as large as its bound moves it by -epsilon, 0 or +epsilon.) If a guess of the feature is accurate to
half a step, the noise is the value nearest to template - guess. This module only uses such residues.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Family = Literal["none", "three", "two", "lattice", "box"]

_BINS = 80  #: bins of the histogram of sizes
_REACH = 4.0  #: upper edge of the histogram, in units of the residues' rms
_ROUNDS = 25  #: iterations of expectation maximisation
_SPACINGS = np.geomspace(0.3, 2.0, 36)  #: candidate spacings, in units of the residues' rms
_NARROW = np.geomspace(0.12, 0.5, 12)  #: the same for a lattice of many values
_POINTS = 31  #: points that represent a box
_GAIN = 0.006  #: minimum gain in nats per residue over no law
_TOLD = 0.6  #: minimum share of guesses accurate enough to distinguish the values

#: From the simplest law to the most flexible, since many values can imitate few. A law is accepted if its gain is this
#: share of the best law's gain.
_NEARLY: dict[Family, float] = {"box": 0.93, "two": 0.85, "three": 0.85, "lattice": 0.0}
_FINER = np.linspace(0.96, 1.04, 9)  #: factors for the finer search of its spacing


@dataclass(frozen=True)
class NoiseLaw:
    """Noise whose entries are integer multiples of `spacing`, up to `most`; for a box, any value up to `spacing`.

    Attributes:
        family: `three` is -spacing, 0, +spacing; `two` lacks the 0; `none` means that there is nothing to correct.
        told: share of the guesses that are accurate enough to distinguish adjacent values.
        gain: nats per residue by which this law explains the residues better than no law.
    """

    family: Family
    spacing: float = 0.0
    most: int = 0
    told: float = 0.0
    gain: float = 0.0

    @property
    def values(self) -> int:
        """The number of values of the noise; 0 if it takes any value within a bound, or is unknown."""
        return {"none": 0, "box": 0, "two": 2}.get(self.family, 2 * self.most + 1)

    def nearest(self, residue: Tensor) -> Tensor:
        """The noise nearest to template - guess; for a box, the residue clipped to it."""
        if self.family == "none":
            return residue * 0
        if self.family == "box":
            return residue.clamp(-self.spacing, self.spacing)
        if self.family == "two":
            return residue.sign() * self.spacing
        return (residue / self.spacing).round_().clamp_(-self.most, self.most) * self.spacing


def noise_law(residues: Tensor) -> NoiseLaw:
    """The law that best explains residues (template - guess, any shape), or `none`.

    Each law is the noise plus the guess's error, a mixture of a narrow and a wide normal distribution. Expectation
    maximisation fits its weights and widths to the histogram; a grid search finds its most likely spacing.
    """
    values = residues.float().flatten().cpu().numpy()
    scale = float(np.sqrt(np.square(values, dtype=np.float64).mean()))
    if not scale > 0:
        return NoiseLaw("none")
    # The noise is symmetric, so the histogram of absolute values is sufficient.
    counts, edges = np.histogram(np.abs(values), _BINS, (0, _REACH * scale))
    middles = (edges[1:] + edges[:-1]) / 2 / scale
    share = counts / max(1, counts.sum())
    plain, _ = _explained(share, middles, np.zeros(1), fixed=True)
    likeliest: dict[Family, NoiseLaw] = {}

    def consider(family: Family, spacings: NDArray[np.float64]) -> None:
        for spacing in spacings:
            places = _places(family, spacing)
            likelihood, told = _explained(share, middles, places, fixed=family == "box")
            without = plain
            if family == "lattice":  # many values imitate any smooth distribution, wherever they lie
                without = max(plain, _explained(share, middles, places[:-1] + spacing / 2, fixed=False)[0])
            law = NoiseLaw(family, float(spacing) * scale, len(places) // 2, told, likelihood - without)
            best = likeliest.get(family)
            if law.gain > (best.gain if best else _GAIN) and (family == "box" or told > _TOLD):
                likeliest[family] = law

    for family in _NEARLY:
        consider(family, _NARROW if family == "lattice" else _SPACINGS)
    most = max((law.gain for law in likeliest.values()), default=0.0)
    for family, enough in _NEARLY.items():
        if family in likeliest and likeliest[family].gain >= enough * most:
            consider(family, likeliest[family].spacing / scale * _FINER)
            return likeliest[family]
    return NoiseLaw("none")


def _places(family: Family, spacing: float) -> NDArray[np.float64]:
    """The values of the noise; for a box, points that represent it."""
    if family == "box":
        return np.linspace(-spacing, spacing, _POINTS, dtype=np.float64)
    if family == "two":
        return np.array([-spacing, spacing], dtype=np.float64)
    most = int(_REACH / spacing) if family == "lattice" else 1
    return np.arange(-most, most + 1, dtype=np.float64) * spacing


def _explained(
    share: NDArray[np.float64], middles: NDArray[np.float64], places: NDArray[np.float64], fixed: bool
) -> tuple[float, float]:
    """Returns (log-likelihood in nats per residue, share of the guesses with an error below half a spacing).

    Args:
        fixed: keep all values equally likely.
    """
    gap = float(places[1] - places[0]) if len(places) > 1 else 1.0
    widths = np.array([0.15 * gap, 0.4 * gap, 1.0]) if not fixed else np.array([0.1, 0.4, 1.0])
    mixing, weights = np.full(len(widths), 1 / len(widths)), np.full(len(places), 1 / len(places))
    squares = np.square(middles[:, None] - places)
    width = middles[1] - middles[0]
    total = np.zeros(len(middles))
    for _ in range(_ROUNDS):
        # (bins, places, widths): likelihood of a bin's residues under each component.
        density = np.exp(-0.5 * squares[..., None] / np.square(widths)) / (widths * math.sqrt(2 * math.pi)) * width
        joint = density * weights[:, None] * mixing
        total = joint.sum((1, 2)) + 1e-12
        mass = joint * (share / total)[:, None, None]
        mixing = mass.sum((0, 1))
        spread = (mass * squares[..., None]).sum((0, 1)) / np.maximum(mixing, 1e-12)
        widths = np.sqrt(np.maximum(spread, np.square(width / 2)))
        if not fixed:
            weights = mass.sum((0, 2))
            weights = (weights + weights[::-1]) / 2
        mixing, weights = mixing / mixing.sum(), weights / weights.sum()
    near = float(sum(m * math.erf(gap / 2 / math.sqrt(2) / w) for m, w in zip(mixing, widths, strict=True)))
    return float((share * np.log(total)).sum()), near
