"""Noise of few values, or of bounded size: what gives it away, and how it is taken off again.

A defence that moves every entry of a feature by one of a few values (sign gradient descent whose step is its bound
moves it by -epsilon, 0 or +epsilon) can be corrected like a code: with a guess of the feature that is right to half a
step, the noise is the value nearest to template - guess. All of it is read off such residues alone.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

Family = Literal["none", "three", "two", "lattice", "box"]

_BINS = 80  #: of the histogram of sizes
_REACH = 4.0  #: its edge, in units of the residues' rms
_ROUNDS = 25  #: of expectation and maximisation
_SPACINGS = np.geomspace(0.3, 2.0, 36)  #: candidates, in units of the residues' rms
_NARROW = np.geomspace(0.12, 0.5, 12)  #: the same for a lattice of many values
_POINTS = 31  #: that stand for a box
_GAIN = 0.002  #: nats a residue by which a law has to explain them better than no law
_TOLD = 0.6  #: share of the guesses that have to be near enough to tell values apart

#: The simplest law first: many values can always imitate few. It is believed if it explains this share of what the best
#: law does.
_NEARLY: dict[Family, float] = {"box": 0.93, "two": 0.85, "three": 0.85, "lattice": 0.0}
_FINER = np.linspace(0.96, 1.04, 9)  #: then its spacing is looked for more closely


@dataclass(frozen=True)
class NoiseLaw:
    """Noise whose entries are `spacing` times a whole number up to `most`; or anything up to `spacing`, for a box.

    Attributes:
        family: `three` is -spacing, 0, +spacing; `two` lacks the 0; `none` says that there is nothing to correct.
        told: share of the guesses that are near enough to tell one value from the next.
        gain: nats a residue by which this explains the residues better than no law does.
    """

    family: Family
    spacing: float = 0.0
    most: int = 0
    told: float = 0.0
    gain: float = 0.0

    @property
    def values(self) -> int:
        """How many values the noise has; 0 where it has any value within a bound, or none is known."""
        return {"none": 0, "box": 0, "two": 2}.get(self.family, 2 * self.most + 1)

    def nearest(self, residue: Tensor) -> Tensor:
        """The noise nearest to template - guess; for a box the part of it that fits in."""
        if self.family == "none":
            return residue * 0
        if self.family == "box":
            return residue.clamp(-self.spacing, self.spacing)
        if self.family == "two":
            return residue.sign() * self.spacing
        return (residue / self.spacing).round_().clamp_(-self.most, self.most) * self.spacing


def noise_law(residues: Tensor) -> NoiseLaw:
    """The law that explains residues (template - guess, any shape) best, or `none`.

    Each law is noise plus the guess's error, a mixture of a narrow and a wide normal distribution; its weights and
    widths are fitted to the histogram by expectation and maximisation, its spacing is the likeliest of a grid.
    """
    values = residues.float().flatten().cpu().numpy()
    scale = float(np.sqrt(np.square(values, dtype=np.float64).mean()))
    if not scale > 0:
        return NoiseLaw("none")
    # Noise has no side that it prefers, so one half of the histogram says it all.
    counts, edges = np.histogram(np.abs(values), _BINS, (0, _REACH * scale))
    middles = (edges[1:] + edges[:-1]) / 2 / scale
    share = counts / max(1, counts.sum())
    plain, _ = _explained(share, middles, np.zeros(1), fixed=True)
    likeliest: dict[Family, NoiseLaw] = {}

    def consider(family: Family, spacings: NDArray[np.float64]) -> None:
        for spacing in spacings:
            places = _places(family, spacing)
            likelihood, told = _explained(share, middles, places, fixed=family == "box")
            law = NoiseLaw(family, float(spacing) * scale, len(places) // 2, told, likelihood - plain)
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
    """Where the noise's values lie; for a box, points that stand for it."""
    if family == "box":
        return np.linspace(-spacing, spacing, _POINTS, dtype=np.float64)
    if family == "two":
        return np.array([-spacing, spacing], dtype=np.float64)
    most = int(_REACH / spacing) if family == "lattice" else 1
    return np.arange(-most, most + 1, dtype=np.float64) * spacing


def _explained(
    share: NDArray[np.float64], middles: NDArray[np.float64], places: NDArray[np.float64], fixed: bool
) -> tuple[float, float]:
    """(nats a residue, share of the guesses whose error is below half a spacing).

    Args:
        fixed: all places are equally likely.
    """
    gap = float(places[1] - places[0]) if len(places) > 1 else 1.0
    widths = np.array([0.15 * gap, 0.4 * gap, 1.0]) if not fixed else np.array([0.1, 0.4, 1.0])
    mixing, weights = np.full(len(widths), 1 / len(widths)), np.full(len(places), 1 / len(places))
    squares = np.square(middles[:, None] - places)
    width = middles[1] - middles[0]
    total = np.zeros(len(middles))
    for _ in range(_ROUNDS):
        # (bins, places, widths): how likely a bin's residues are of each kind.
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
