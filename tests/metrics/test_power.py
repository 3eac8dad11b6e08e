"""The numbers of pairs and images that a difference needs: simulated tests find it as often as promised."""

import re

import numpy as np
import pytest
from numpy.typing import NDArray
from support import ROOT

from bench.metrics.power import decisions_needed, images_needed

RUNS = 4000


def _found(differences: NDArray[np.float64], spread: NDArray[np.float64]) -> float:
    """Share of the runs in which a two-sided test at 5 % sees a difference."""
    return float((np.abs(differences) > 1.959964 * spread).mean())


def test_means_paired_and_not() -> None:
    rng = np.random.default_rng(0)
    for correlation in (None, 0.7):
        n = images_needed(0.05, 0.01, correlation=correlation)
        shared = rng.normal(size=(RUNS, n)) * (0 if correlation is None else np.sqrt(correlation))
        rest = np.sqrt(1 - (correlation or 0))
        one, other = (0.05 * (shared + rest * rng.normal(size=(RUNS, n))) for _ in range(2))
        gap = one + 0.01 - other
        assert _found(gap.mean(1), gap.std(1, ddof=1) / np.sqrt(n)) == pytest.approx(0.8, abs=0.025)


def test_proportions_paired_and_not() -> None:
    rng = np.random.default_rng(1)
    high, low = 0.97, 0.95
    n = decisions_needed(high, high - low)
    shares = [rng.binomial(n, p, RUNS) / n for p in (high, low)]
    spread = np.sqrt(sum(s * (1 - s) for s in shares) / n)
    assert _found(shares[0] - shares[1], spread) == pytest.approx(0.8, abs=0.025)

    n = decisions_needed(high, high - low, correlation=0.5)
    both = high * low + 0.5 * np.sqrt(high * (1 - high) * low * (1 - low))
    counts = rng.multinomial(n, [both, high - both, low - both, 1 - high - low + both], RUNS)
    gained, lost = counts[:, 1], counts[:, 2]
    found = _found((gained - lost).astype(float), np.sqrt(gained + lost))  # McNemar's test
    assert 0.78 <= found <= 0.85, "a little cautious where so few decisions differ"


def test_more_is_needed_where_less_is_known() -> None:
    assert decisions_needed(0.97, 0.01) > decisions_needed(0.97, 0.01, correlation=0.5) > decisions_needed(0.97, 0.03)
    assert images_needed(0.05, 0.01, effect=1.3) == pytest.approx(1.3 * images_needed(0.05, 0.01), abs=2)
    assert images_needed(0.05, 0.01, alpha=0.005) > images_needed(0.05, 0.01)
    assert decisions_needed(0.97, 0.01, correlation=0.99) >= decisions_needed(0.97, 0.01, correlation=0.999)
    for bad in (
        {"share": 1.0, "difference": 0.1},
        {"share": 0.9, "difference": 0.0},
        {"share": 0.9, "difference": 0.95},
    ):
        with pytest.raises(ValueError, match="out of range"):
            decisions_needed(**bad)
    with pytest.raises(ValueError, match="out of range"):
        images_needed(0.05, 0.01, correlation=1.0)
    with pytest.raises(ValueError, match="out of range"):
        images_needed(0.05, 0.01, effect=0.5)


def test_the_methods_page_has_these_numbers() -> None:
    text = (ROOT / "docs" / "methods.md").read_text()
    rows = re.findall(r"^\| (\d) points? \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert len(rows) == 3
    for points, *shown in rows:
        gap = int(points) / 100
        wanted = [decisions_needed(0.97, gap, correlation=c, effect=1.25) for c in (None, 0.3, 0.6)]
        assert [int(s.replace(",", "")) for s in shown] == wanted
    rows = re.findall(r"^\| (\.\d+) \| ([\d,]+) \| ([\d,]+) \| ([\d,]+) \|$", text, re.MULTILINE)
    assert len(rows) == 3
    for deviation, *shown in rows:
        wanted = [images_needed(float(deviation), 0.01, correlation=c) for c in (None, 0.3, 0.7)]
        assert [int(s.replace(",", "")) for s in shown] == wanted
