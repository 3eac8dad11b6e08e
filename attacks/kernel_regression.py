"""Kernel regression from templates to pixels: the closed form that came before decoders."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.own_templates import own_templates
from bench.toolkit.progress import track

_BATCH = 50
_SKETCH = 16384  #: larger templates are hashed to so many entries, which keeps inner products to about one percent
_COMPONENTS = 256  #: principal components of the faces on which settings are compared
_SPREADS = (0.125, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0)  #: tried gammas, over the median squared distance
_RIDGES = (1e-6, 1e-5, 1e-4, 1e-3, 1e-2, 1e-1, 1.0, 10.0)  #: tried lambdas, times the mean of the kernel's diagonal


@dataclass(frozen=True, kw_only=True)
class KernelRegression(ReconstructionAttack):
    """f = mean + k(t)' (K + lambda I)^-1 (F - mean), with K_ij = exp(-gamma |t_i - t_j|^2) of the attacker's own pairs.

    `t` are templates of own faces F, as the level allows: the client's features, templates of a copy of the defence, or
    of the real system. With `kernel = "linear"`, K is the inner product: linear ridge regression. gamma and lambda are
    chosen by the squared error on own people who were left out, in closed form. No step of training, so it is a
    yardstick for trained decoders: what pairs alone are worth.

    Source: Mignon and Jurie, Reconstructing faces from their signatures using RBF regression (BMVC 2013); the choice of
    the settings and the hashing of large templates are ours.
    """

    yardstick: ClassVar[bool] = True

    knowledge: Literal["encoder", "algorithm", "enrolment"] = "encoder"  #: written NAME@LEVEL in bench.toml
    kernel: Literal["rbf", "linear"] = "rbf"  #: Gaussian of the distance, or the inner product
    #: what is stolen; own embeddings need a login
    leaks: Literal["template", "embedding"] = "template"  # type: ignore[misc]
    faces: int = 1600  #: maximum number of own faces; memory and time grow with its square and cube

    def __post_init__(self) -> None:
        if self.faces < 4:
            raise ValueError("faces must be at least 4")

    @property
    def level(self) -> Knowledge:
        """As `knowledge` says; own embeddings need a login."""
        return Knowledge.ENROLMENT if self.leaks == "embedding" else Knowledge[self.knowledge.upper()]

    @property
    def asks_surrogate(self) -> bool:
        """At level `algorithm` alone: who may enrol has the real system."""
        return self.level == Knowledge.ALGORITHM

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Solves for the weights; stores the own faces (uint8) and their hashed templates (half precision).

        Raises:
            ValueError: fewer than 4 public faces.
        """
        own = public.subset(range(min(len(public), self.faces)))
        if len(own) < 4:
            raise ValueError(f"kernel_regression needs at least 4 public faces, got {len(own)}")
        see, size = self._templates(oracle, rng)
        parts = np.array_split(np.arange(len(own)), max(1, len(own) // size))
        known, pictures = [], []
        for rows in track(parts, "pairs for kernel regression", len(parts)):
            images = own.batch(rows, oracle.device)
            known.append(_hashed(see(images, [f"own {row}" for row in rows])).cpu())
            pictures.append((images * 255).round().to(torch.uint8).cpu())
        templates, faces = torch.cat(known), torch.cat(pictures)
        centre = templates.mean(0)
        templates = (templates - centre).half()
        squares = _squared_distances(templates, templates)
        people = own.subjects or own.names
        chosen = _chosen(self.kernel, templates, squares, _codes(faces), people)
        kernel = _kernel(self.kernel, templates, templates, chosen["gamma"])
        kernel.diagonal().add_(chosen["lambda"])
        weights = torch.linalg.inv(kernel.double()).float()
        gamma = torch.tensor(chosen["gamma"])
        tensors = {"faces": faces, "templates": templates, "centre": centre, "weights": weights, "gamma": gamma}
        return State(tensors, {"faces": len(own), **{name: float(f"{value:.4g}") for name, value in chosen.items()}})

    def _templates(self, oracle: Oracle, rng: Rng) -> tuple[Callable[[Tensor, Sequence[str]], Tensor], int]:
        """Own images and names to what would be stolen of them, and the size of a batch."""
        if self.leaks == "embedding":
            return lambda images, _: oracle.embed(images), _BATCH
        if self.level == Knowledge.ENCODER:
            return lambda images, _: oracle.encode(images), _BATCH
        return own_templates(oracle, rng.child("protect")), oracle.defense.protect_batch or _BATCH

    def prepare(self, oracle: Oracle, state: State | None) -> dict[str, Tensor]:
        """The state on the oracle's device, with the faces as rows of pixels around their mean."""
        if state is None:
            raise ValueError("KernelRegression has no trained state")
        ready = {name: value.to(oracle.device) for name, value in state.tensors.items()}
        pixels = ready.pop("faces").flatten(1).float() / 255
        ready["mean"] = pixels.mean(0)
        ready["pixels"] = pixels - ready["mean"]
        return ready

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """One row of the kernel per template, two products; no query."""
        stolen = _hashed(leak.values) - state["centre"]
        row = _kernel(self.kernel, stolen, state["templates"], float(state["gamma"]))
        images: Tensor = state["mean"] + row @ state["weights"] @ state["pixels"]
        return images.reshape(-1, 3, *oracle.image_size)


def _hashed(values: Tensor) -> Tensor:
    """Templates as rows; large ones are added up in random groups with random signs (feature hashing)."""
    rows = values.flatten(1).float()
    if rows.shape[1] <= _SKETCH:
        return rows
    generator = Rng(0).child("hash", rows.shape[1]).torch()
    group = torch.randint(_SKETCH, (rows.shape[1],), generator=generator).to(rows.device)
    sign = (2 * torch.randint(2, (rows.shape[1],), generator=generator) - 1).to(rows)
    return torch.zeros(len(rows), _SKETCH, device=rows.device).index_add_(1, group, rows * sign)


def _squared_distances(one: Tensor, other: Tensor) -> Tensor:
    one, other = one.float(), other.float()
    return (one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T).clamp_min(0)


def _kernel(kind: str, one: Tensor, other: Tensor, gamma: float) -> Tensor:
    """(N, M) between centred templates (N, D) and (M, D)."""
    if kind == "linear":
        return one.float() @ other.float().T
    return torch.exp(-gamma * _squared_distances(one, other))


def _codes(faces: Tensor) -> NDArray[np.float64]:
    """Principal components (N, at most 256) of the faces' pixels, which stand for them when settings are compared."""
    pixels = faces.flatten(1).float() / 255
    pixels -= pixels.mean(0)
    values, vectors = np.linalg.eigh((pixels @ pixels.T).double().numpy())
    found: NDArray[np.float64] = vectors[:, -_COMPONENTS:] * np.sqrt(np.maximum(values[-_COMPONENTS:], 0))
    return found


def _chosen(
    kind: str, templates: Tensor, squares: Tensor, codes: NDArray[np.float64], people: Sequence[str]
) -> dict[str, float]:
    """gamma and lambda with the least squared error on people who are left out, one at a time, in closed form.

    With the smoother H = K (K + lambda I)^-1, what is left of the rows S of one person without them is
    (I - H_SS)^-1 (F - H F)_S.
    """
    members: dict[str, list[int]] = defaultdict(list)
    for row, person in enumerate(people):
        members[person].append(row)
    typical = float(squares[squares > 0].median()) if bool((squares > 0).any()) else 1.0
    best = {"gamma": 0.0, "lambda": 0.0, "left_out_mse": np.inf}
    for spread in (1.0,) if kind == "linear" else _SPREADS:
        gamma = spread / typical
        kernel = _kernel(kind, templates, templates, gamma).double().numpy()
        values, vectors = np.linalg.eigh(kernel)
        values = np.maximum(values, 0)
        seen = vectors.T @ codes
        for ridge in _RIDGES:
            weight = ridge * float(np.trace(kernel)) / len(kernel)
            shrunk = values / (values + weight)
            left = codes - vectors @ (shrunk[:, None] * seen)
            error = 0.0
            for rows in members.values():
                block = np.eye(len(rows)) - (vectors[rows] * shrunk) @ vectors[rows].T
                error += float(np.square(np.linalg.solve(block + 1e-9 * np.eye(len(rows)), left[rows])).sum())
            if error / len(codes) < best["left_out_mse"]:
                best = {"gamma": gamma, "lambda": weight, "left_out_mse": error / len(codes)}
    return best
