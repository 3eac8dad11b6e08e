"""Inversion by linear algebra, where the client's step is an affine map: conjugate gradients, little learned."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from scipy.ndimage import median_filter
from torch import Tensor

from bench.contracts import (
    Defense,
    FaceSet,
    ImageRng,
    Knowledge,
    Leak,
    Oracle,
    ReconstructionAttack,
    Rng,
    State,
    System,
)
from bench.errors import NotApplicable
from bench.toolkit.block_dct import dct_matrix
from bench.toolkit.progress import track

_BATCH = 8  #: images solved side by side
_AFFINE = 1e-3  #: largest relative departure from an affine map that counts as rounding
_PROBES = 8  #: random images by which the map's spectrum is estimated
_SOLVED = 0.02  #: converged: so much of the template's departure from the mean face's is left unexplained
_QUANTILES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)


@dataclass(frozen=True, kw_only=True)
class LinearInversion(ReconstructionAttack):
    """Least squares through the client's map A x + b, by preconditioned conjugate gradients on the normal equations.

    Nothing is known of the map but that it is affine, which is probed: A is applied by `encode`, its transpose by the
    gradient. Client's steps treat all places alike, so the preconditioner is diagonal in the cosine basis, estimated by
    random probes. What A does not see (say, an image's mean where a frequency split keeps the lowest frequencies to
    itself) is estimated from what it does see, by a ridge regression on the attacker's public faces.
    """

    wants_affine: ClassVar[bool] = True

    iterations: int = 40  #: at most
    tolerance: float = 2e-3  #: it stops where the relative residual is below this
    calibration: int = 96  #: public faces solved to learn what the map hides
    ridge: float = 1.0
    images: int | None = None  #: attacked; None: all

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.calibration < 2 or self.ridge <= 0 or self.tolerance < 0:
            raise ValueError(
                "iterations must be at least 1, calibration at least 2, ridge above 0, and tolerance at least 0"
            )

    @property
    def level(self) -> Knowledge:
        """An own copy of the client's step, with gradients; no query to the system."""
        return Knowledge.ALGORITHM

    @property
    def asks_surrogate(self) -> bool:
        """The copy of the client's step."""
        return True

    def subset(self, defense: Defense) -> int | None:
        """As set."""
        return self.images

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Sees that the client's step is affine, estimates its spectrum, and learns to guess what it hides.

        Raises:
            NotApplicable: it is not affine.
        """
        system = oracle.surrogate
        departure = _departure(system, public, oracle.device)
        if departure > _AFFINE:
            raise NotApplicable(f"the client's step is not affine (departs by {departure:.2g})")
        chunks = [public.batch(slice(i, i + 50)).sum(0) for i in range(0, len(public), 50)]
        mean = torch.stack(chunks).sum(0) / len(public)
        spectrum = _spectrum(system, mean.to(oracle.device), rng)
        state = State({"start": mean, "spectrum": spectrum.cpu()})
        faces = public.subset(range(min(len(public), self.calibration)))
        truth = faces.batch(slice(None))
        with torch.no_grad():
            leaked = [system.encode(truth[i : i + _BATCH].to(oracle.device)) for i in range(0, len(truth), _BATCH)]
        solved = torch.cat([self._solve(system, state, some)[0] for some in leaked]).cpu()
        hidden = truth - solved
        features = _features(solved)
        centre = features.mean(0)
        penalty = self.ridge * torch.eye(features.shape[1], dtype=features.dtype)
        gram = (features - centre).T @ (features - centre) + penalty
        offset = hidden.mean(0)
        weights = torch.linalg.solve(gram, (features - centre).T @ (hidden - offset).flatten(1).double())
        learned = {"centre": centre, "offset": offset, "weights": weights.float()}
        info = {"departure_from_affine": departure, "hidden_rms": float(hidden.square().mean().sqrt())}
        return State({**state.tensors, **learned}, info)

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Solves for each image on its own, a few side by side, and adds the guess of what the template lacks."""
        system, learned = oracle.surrogate, state.tensors
        parts = []
        for first in track(range(0, len(leak.values), _BATCH), "solving", -(-len(leak.values) // _BATCH)):
            solved, residual = self._solve(system, state, leak.values[first : first + _BATCH])
            oracle.report(relative_residual=residual, converged=(residual < _SOLVED).float())
            guess = (_features(solved.cpu()) - learned["centre"]).float() @ learned["weights"]
            parts.append(solved + (learned["offset"] + guess.reshape(solved.shape)).to(solved))
        return torch.cat(parts)

    def _solve(self, system: System, state: State, stolen: Tensor) -> tuple[Tensor, Tensor]:
        """(images, what is left of the template's departure from the mean face's, as a share)."""
        start = state.tensors["start"].to(stolen.device).expand(len(stolen), -1, -1, -1)
        spectrum = state.tensors["spectrum"].to(stolen.device)
        forward, adjoint, missing = _maps(system, start, stolen)

        def precondition(gradient: Tensor) -> Tensor:
            return _cosine(_cosine(gradient) / spectrum, inverse=True)

        step = torch.zeros_like(start)
        residual = adjoint(missing)
        direction = precondition(residual)
        norm = _dot(residual, direction)
        first = _dot(missing, missing).clamp_min(1e-20)
        for _ in range(self.iterations):
            solved = _dot(missing, missing) < self.tolerance**2 * first
            if bool(solved.all()):
                break
            seen = forward(direction)
            scale = torch.where(solved, 0, norm / _dot(seen, seen).clamp_min(1e-20))  # not a batch mate's affair
            step += _like(scale, step) * direction
            missing = missing - _like(scale, missing) * seen
            residual = adjoint(missing)
            better = precondition(residual)
            following = _dot(residual, better)
            direction = better + _like(following / norm.clamp_min(1e-20), direction) * direction
            norm = following
        return start + step, (_dot(missing, missing) / first).sqrt()


def _departure(system: System, public: FaceSet, device: torch.device) -> float:
    """How far the client's step is from affine between two faces, relative to their distance."""
    one, other = (public.batch(slice(i, i + 1), device) for i in (0, len(public) - 1))
    with torch.no_grad():
        ends = [system.encode(image) for image in (one, other)]
        between = system.encode(0.3 * one + 0.7 * other)
    apart = (ends[0] - ends[1]).norm().clamp_min(1e-12)
    return float((between - 0.3 * ends[0] - 0.7 * ends[1]).norm() / apart)


def _maps(
    system: System, start: Tensor, stolen: Tensor
) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], Tensor]:
    """(A, its transpose, what the start's template lacks of the stolen one), all on float32 batches."""
    origin = start.clone().requires_grad_()
    with torch.enable_grad():
        # One graph serves all steps: the map is affine, so its gradient is the same everywhere.
        there = system.encode(origin)

    def forward(direction: Tensor) -> Tensor:
        with torch.no_grad():
            return system.encode(start + direction) - there.detach()

    def adjoint(value: Tensor) -> Tensor:
        return torch.autograd.grad(there, origin, value, retain_graph=True)[0]

    return forward, adjoint, stolen - there.detach()


def _spectrum(system: System, start: Tensor, rng: Rng) -> Tensor:
    """(3, H, W): the diagonal of A^T A in the cosine basis, by random probes, smoothed and kept above rounding."""
    noise = torch.randn(_PROBES, *start.shape, generator=rng.child("probes").torch()).to(start)
    origin = start.expand(_PROBES, -1, -1, -1)
    with torch.no_grad():
        template = system.encode(origin)
    forward, adjoint, _ = _maps(system, origin, template)
    diagonal = (_cosine(noise) * _cosine(adjoint(forward(noise)))).mean(0)
    smooth = torch.stack([torch.from_numpy(median_filter(p.abs().cpu().numpy(), 5, mode="nearest")) for p in diagonal])
    return smooth.clamp_min(float(smooth.max()) * 1e-7).to(start)


def _cosine(images: Tensor, inverse: bool = False) -> Tensor:
    """Orthonormal DCT-II of whole planes."""
    rows, columns = (dct_matrix(side).to(images) for side in images.shape[-2:])
    return rows.T @ images @ columns if inverse else rows @ images @ columns.T


def _features(solved: Tensor) -> Tensor:
    """(B, F) float64: how each plane's values are spread about their mean; a plane that reaches far up was dark."""
    planes = solved.flatten(2).double()
    planes = planes - planes.mean(2, keepdim=True)
    levels = torch.quantile(planes, torch.tensor(_QUANTILES, dtype=torch.float64), dim=2).permute(1, 2, 0)
    return torch.cat([levels.flatten(1), solved.double().mean((2, 3))], 1)


def _dot(one: Tensor, other: Tensor) -> Tensor:
    return (one.flatten(1) * other.flatten(1)).sum(1)


def _like(values: Tensor, tensor: Tensor) -> Tensor:
    return values.reshape(-1, *[1] * (tensor.ndim - 1))
