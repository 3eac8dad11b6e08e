"""Fisher information of noisy features, and the floor that follows, where both are known in closed form."""

import numpy as np
import pytest
import torch
from torch import Tensor

from bench.contracts import FaceSet, Rng
from bench.toolkit.fisher import information_trace, van_trees

SIZE, DIRECTIONS, SIGMA, CPU = 3 * 12 * 10, 6, 0.3, torch.device("cpu")


@pytest.fixture(scope="module")
def faces() -> FaceSet:
    """Grey plus a few orthogonal directions with normal weights, in 8 bits."""
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.normal(size=(SIZE, DIRECTIONS)))[0]
    weights = rng.normal(size=(600, DIRECTIONS)) * np.linspace(0.8, 0.4, DIRECTIONS)
    pixels = (0.5 + weights @ basis.T).reshape(-1, 12, 10, 3)
    stored = np.rint(255 * pixels.clip(0, 1)).astype(np.uint8)
    names = tuple(map(str, range(600)))
    return FaceSet(stored, np.arange(600), names, names, np.ones(600, bool))


def _mixed(images: Tensor) -> Tensor:
    return images.flatten(1) @ (torch.randn(SIZE, 200, generator=torch.Generator().manual_seed(3)) / 10)


def _weight(values: Tensor) -> Tensor:
    return torch.full_like(values, SIGMA**-2)


def test_hutchinson_finds_the_trace_of_a_linear_map(faces: FaceSet) -> None:
    jacobian = _mixed(torch.eye(SIZE).reshape(SIZE, 3, 12, 10))
    wanted = float(jacobian.square().sum()) / SIGMA**2
    found = information_trace(_mixed, _weight, faces.subset(range(4)), 50, Rng(0), CPU)
    assert found.shape == (4,)
    assert float(found.mean()) == pytest.approx(wanted, rel=0.05)


def test_the_best_attacker_of_gaussian_faces_attains_the_floor(faces: FaceSet) -> None:
    public, victims = faces.subset(range(400)), faces.subset(range(400, 600))
    floor = van_trees(_mixed, _weight, public, 2, Rng(0), CPU)
    assert floor is not None
    images = victims.batch(slice(0, 200)).flatten(1).double()
    pixels = public.batch(slice(0, 400)).flatten(1).double()
    mean, covariance = pixels.mean(0), torch.cov(pixels.T) + 1e-9 * torch.eye(SIZE)
    mixing = _mixed(torch.eye(SIZE).reshape(SIZE, 3, 12, 10)).double()
    templates = images @ mixing + SIGMA * torch.randn(200, 200, generator=torch.Generator().manual_seed(1))
    seen = mixing.T @ covariance @ mixing + SIGMA**2 * torch.eye(200)
    guess = mean + (templates - mean @ mixing) @ torch.linalg.solve(seen, mixing.T @ covariance)
    error = float((guess - images).square().mean())
    assert floor.mse == pytest.approx(error, rel=0.1)
    assert floor.mse < floor.mse_isotropic < 1.1 * floor.mse, "these faces hardly vary in other directions"
    assert 1.5 * floor.mse < floor.prior_mse, "the templates tell something"
    assert error < 1 / floor.dfil, "a biased attacker may be below the bound on unbiased ones"


def test_faces_that_vary_in_all_directions_have_a_floor_in_all() -> None:
    """Independent pixels, seen in plain noise: the best attacker's error is known."""
    rng = np.random.default_rng(1)
    pixels = np.rint(255 * (0.5 + 0.1 * rng.normal(size=(400, 12, 10, 3))).clip(0, 1)).astype(np.uint8)
    names = tuple(map(str, range(400)))
    noise = FaceSet(pixels, np.arange(400), names, names, np.ones(400, bool))
    floor = van_trees(lambda images: images.flatten(1), _weight, noise, 2, Rng(0), CPU)
    assert floor is not None
    assert floor.mse_isotropic == pytest.approx(1 / (SIGMA**-2 + 0.1**-2), rel=0.1)
    assert floor.mse < 0.4 * floor.mse_isotropic


def test_too_few_faces_give_no_floor(faces: FaceSet) -> None:
    assert van_trees(_mixed, _weight, faces.subset(range(7)), 2, Rng(0), CPU) is None
