"""How many pairs or images an evaluation needs to see a difference: normal approximations, for planning a run.

Two systems are compared on the same pairs or images (paired) or on different ones (unpaired). The test is two-sided, at
a level of 5 % unless told, and finds a true difference with a probability of 80 % unless told. Proportions, unpaired:
Fleiss, Levin and Paik (2003), section 4.2; paired: Connor (1987), for McNemar's test; means: the same with a standard
deviation. Observations that are alike (several images of one person, people in several pairs, thresholds that were
chosen on other folds) count through `effect`, the design effect (Kish 1965).
"""

from __future__ import annotations

import math

from scipy.special import ndtri


def decisions_needed(
    share: float,
    difference: float,
    *,
    correlation: float | None = None,
    effect: float = 1.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int:
    """Number of decisions (pairs to verify, logins) with each system.

    Args:
        share: true proportion under the better system, in (0, 1), such as an accuracy of .97.
        difference: by how much it is lower under the other, in (0, `share`).
        correlation: of the two systems' decisions on the same pair; None: they decide on different pairs.
        effect: design effect, at least 1.
        alpha: level of the test; with several comparisons, .05 divided by their number (Bonferroni, Holm's first step).

    Raises:
        ValueError: an argument is out of range.
    """
    other = share - difference
    _check(0 < difference < share < 1, correlation, effect, power, alpha)
    variances = share * (1 - share), other * (1 - other)
    if correlation is None:
        return math.ceil(effect * (_z(alpha, power) ** 2) * sum(variances) / difference**2)
    independent = share * (1 - other) + other * (1 - share)
    # Decisions that differ must at least make up the difference, however alike the systems are.
    differ = max(difference, independent - 2 * correlation * math.sqrt(variances[0] * variances[1]))
    surely, found = float(ndtri(1 - alpha / 2)), float(ndtri(power))
    count = (surely * math.sqrt(differ) + found * math.sqrt(differ - difference**2)) ** 2 / difference**2
    return math.ceil(effect * count)


def images_needed(
    deviation: float,
    difference: float,
    *,
    correlation: float | None = None,
    effect: float = 1.0,
    power: float = 0.8,
    alpha: float = 0.05,
) -> int:
    """Number of images with each system, to see a difference of the means of a score such as SSIM.

    Args:
        deviation: standard deviation of the score between images, above 0.
        difference: the true difference of the means, above 0.
        correlation: of the two systems' scores of the same image; None: they have different images.
        effect: design effect, at least 1: with k images of each person, 1 + (k - 1) * their correlation.
        alpha: as for `decisions_needed`.

    Raises:
        ValueError: an argument is out of range.
    """
    _check(deviation > 0 and difference > 0, correlation, effect, power, alpha)
    variance = 2 * deviation**2 * (1 - (correlation or 0.0))
    return math.ceil(effect * _z(alpha, power) ** 2 * variance / difference**2)


def _z(alpha: float, power: float) -> float:
    return float(ndtri(1 - alpha / 2) + ndtri(power))


def _check(sizes: bool, correlation: float | None, effect: float, power: float, alpha: float) -> None:
    if (
        not sizes
        or not effect >= 1
        or not 0 < alpha < power < 1
        or (correlation is not None and not -1 < correlation < 1)
    ):
        raise ValueError("out of range: see the docstring for what each argument may be")
