"""What noise is made of, read off residues that blur it."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from bench.toolkit.noise_law import NoiseLaw, noise_law

COUNT = 40_000


def _source(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _guess_error(size: float, seed: int = 1) -> Tensor:
    """Errors of a guess: small in most places, large in some."""
    source = _source(seed)
    return size * torch.randn(COUNT, generator=source) * (0.3 + 1.5 * torch.rand(COUNT, generator=source))


def _noise(kind: str, size: float, seed: int = 2) -> Tensor:
    source = _source(seed)
    drawn = torch.rand(COUNT, generator=source)
    normal = torch.randn(COUNT, generator=source)
    return {
        "none": torch.zeros(COUNT),
        "normal": 0.9 * size * normal,
        "two": size * torch.where(drawn < 0.5, -1.0, 1.0),
        "three": size * torch.where(drawn < 0.4, -1.0, torch.where(drawn < 0.6, 0.0, 1.0)),
        "lattice": size * (3 * normal).round(),
        "box": size * (2 * drawn - 1),
    }[kind]


@pytest.mark.parametrize("freedom", [2, 3, 5])
def test_errors_with_heavy_tails_are_no_lattice(freedom: float) -> None:
    source = _source(4)
    gamma = torch._standard_gamma(torch.full((COUNT,), freedom / 2), generator=source) / (freedom / 2)
    residues = 0.05 * torch.randn(COUNT, generator=source) / gamma.sqrt()
    assert noise_law(residues).family != "lattice"


@pytest.mark.parametrize("kind", ["two", "three", "lattice"])
def test_values_are_found_under_the_guess_error(kind: str) -> None:
    law = noise_law(_noise(kind, 0.2) + _guess_error(0.06))
    assert law.family == kind
    assert law.spacing == pytest.approx(0.2, rel=0.04)
    assert law.told > 0.7


@settings(max_examples=8, deadline=None)
@given(scale=st.floats(1e-3, 1e3), size=st.floats(0.5, 2.0))
def test_the_unit_of_features_does_not_matter(scale: float, size: float) -> None:
    law = noise_law(scale * (_noise("three", size) + _guess_error(0.25 * size)))
    assert (law.family, law.values) == ("three", 3)
    assert law.spacing == pytest.approx(scale * size, rel=0.05)


def test_a_bound_is_found_where_the_guess_is_good() -> None:
    law = noise_law(_noise("box", 0.2) + _guess_error(0.01))
    assert (law.family, law.values) == ("box", 0)
    assert law.spacing == pytest.approx(0.2, rel=0.1)


@pytest.mark.parametrize("kind", ["none", "normal"])
@pytest.mark.parametrize("error", [0.03, 0.15])
def test_nothing_is_found_where_nothing_is(kind: str, error: float) -> None:
    assert noise_law(_noise(kind, 0.2) + _guess_error(error)).family == "none"
    assert noise_law(torch.zeros(10)).family == "none"


def test_a_guess_that_is_too_far_off_finds_nothing_or_little() -> None:
    law = noise_law(_noise("three", 0.2) + _guess_error(0.6))
    assert law.family in ("none", "box")


def test_noise_is_taken_for_the_nearest_that_the_law_has() -> None:
    residue = torch.tensor([-0.75, -0.09, 0.02, 0.11, 0.31])

    def nearest(law: NoiseLaw) -> list[float]:
        return [round(value, 6) for value in law.nearest(residue.clone()).tolist()]

    assert nearest(NoiseLaw("three", 0.2, 1)) == [-0.2, 0.0, 0.0, 0.2, 0.2]
    assert nearest(NoiseLaw("two", 0.2, 1)) == [-0.2, -0.2, 0.2, 0.2, 0.2]
    assert nearest(NoiseLaw("lattice", 0.2, 3)) == [-0.6, 0.0, 0.0, 0.2, 0.4]
    assert nearest(NoiseLaw("box", 0.2)) == [-0.2, -0.09, 0.02, 0.11, 0.2]
    assert nearest(NoiseLaw("none")) == [0.0] * 5
