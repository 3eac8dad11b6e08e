"""Inverts an affine client by linear algebra: conjugate gradients, with very little learning."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
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
from bench.toolkit.affine import AFFINE, cosine, departure, dot, like, maps, spectrum
from bench.toolkit.progress import track

_BATCH = 8  #: images solved in parallel
_SOLVED = (
    0.02  #: converged: at most this fraction of the template's difference from the mean face's template is unexplained
)
_QUANTILES = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)


@dataclass(frozen=True, kw_only=True)
class LinearInversion(ReconstructionAttack):
    """Solves least squares for the client's map A x + b by preconditioned conjugate gradients on the normal equations.

    The attack only assumes that the map is affine, and tests that. It applies A with `encode` and its transpose with
    the gradient. Clients treat all positions alike, so the preconditioner is diagonal in the cosine basis; random
    probes estimate it. A ridge regression on the attacker's public faces predicts what A discards (for example an
    image's mean, if a frequency split withholds the lowest frequencies) from what A passes on.
    """

    wants_affine: ClassVar[bool] = True

    iterations: int = 40  #: maximum number of iterations
    tolerance: float = 2e-3  #: stop when the relative residual is below this
    calibration: int = 96  #: public faces solved to learn what the map discards
    ridge: float = 1.0  #: penalty of the regression that predicts what the map discards
    images: int | None = None  #: images to attack; None: all

    def __post_init__(self) -> None:
        if self.iterations < 1 or self.calibration < 2 or self.ridge <= 0 or self.tolerance < 0:
            raise ValueError(
                "iterations must be at least 1, calibration at least 2, ridge above 0, and tolerance at least 0"
            )

    @property
    def level(self) -> Knowledge:
        """Needs its own copy of the client, with gradients; makes no query to the system."""
        return Knowledge.ALGORITHM

    @property
    def asks_surrogate(self) -> bool:
        """Returns the copy of the client."""
        return True

    def subset(self, defense: Defense) -> int | None:
        """As configured."""
        return self.images

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Tests that the client is affine, estimates its spectrum and learns to predict what it discards.

        Raises:
            NotApplicable: the client is not affine.
        """
        system = oracle.surrogate
        if type(oracle.defense).protect is not Defense.protect and not oracle.defense.adds_noise:
            raise NotApplicable("what is stored is no noisy copy of the client's features")
        apart = departure(system.encode, public, oracle.device)
        if apart > AFFINE:
            raise NotApplicable(f"the client's step is not affine (departs by {apart:.2g})")
        chunks = [public.batch(slice(i, i + 50)).sum(0) for i in range(0, len(public), 50)]
        mean = torch.stack(chunks).sum(0) / len(public)
        seen = spectrum(system.encode, mean.to(oracle.device), rng)
        state = State({"start": mean, "spectrum": seen.cpu()})
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
        info = {"departure_from_affine": apart, "hidden_rms": float(hidden.square().mean().sqrt())}
        return State({**state.tensors, **learned}, info)

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Solves for each image independently, a few in parallel, and predicts what the template lacks."""
        system, learned = oracle.surrogate, state.tensors
        parts = []
        for first in track(range(0, len(leak.values), _BATCH), "solving", -(-len(leak.values) // _BATCH)):
            solved, residual = self._solve(system, state, leak.values[first : first + _BATCH])
            oracle.report(relative_residual=residual, converged=(residual < _SOLVED).float())
            guess = (_features(solved.cpu()) - learned["centre"]).float() @ learned["weights"]
            parts.append(solved + (learned["offset"] + guess.reshape(solved.shape)).to(solved))
        return torch.cat(parts)

    def _solve(self, system: System, state: State, stolen: Tensor) -> tuple[Tensor, Tensor]:
        """Returns (images, the unexplained fraction of the template's difference from the mean face's)."""
        start = state.tensors["start"].to(stolen.device).expand(len(stolen), -1, -1, -1)
        seen = state.tensors["spectrum"].to(stolen.device)
        forward, adjoint, there = maps(system.encode, start)
        missing = stolen - there

        def precondition(gradient: Tensor) -> Tensor:
            return cosine(cosine(gradient) / seen, inverse=True)

        step = torch.zeros_like(start)
        residual = adjoint(missing)
        direction = precondition(residual)
        norm = dot(residual, direction)
        first = dot(missing, missing).clamp_min(1e-20)
        for _ in range(self.iterations):
            solved = dot(missing, missing) < self.tolerance**2 * first
            if bool(solved.all()):
                break
            through = forward(direction)
            scale = torch.where(
                solved, 0, norm / dot(through, through).clamp_min(1e-20)
            )  # independent of the other images in the batch
            step += like(scale, step) * direction
            missing = missing - like(scale, missing) * through
            residual = adjoint(missing)
            better = precondition(residual)
            following = dot(residual, better)
            direction = better + like(following / norm.clamp_min(1e-20), direction) * direction
            norm = following
        return start + step, (dot(missing, missing) / first).sqrt()


def _features(solved: Tensor) -> Tensor:
    """Regression inputs (B, F) float64: each plane's quantiles about its mean. A long upper tail means a dark plane."""
    planes = solved.flatten(2).double()
    planes = planes - planes.mean(2, keepdim=True)
    levels = torch.quantile(planes, torch.tensor(_QUANTILES, dtype=torch.float64), dim=2).permute(1, 2, 0)
    return torch.cat([levels.flatten(1), solved.double().mean((2, 3))], 1)
