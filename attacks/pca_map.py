"""The best linear guess: the most likely face under a PCA prior and a linear Gaussian model of templates."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.progress import track

_BATCH = 50
_HELD_OUT = 40  #: maximum number of public faces on which the correlation of errors is measured
_FACTORS = (1.0, 10.0, 100.0, 1e3, 1e4)  #: tried inflations of the errors' variance


@dataclass(frozen=True, kw_only=True)
class PcaMap(ReconstructionAttack):
    """Closed-form maximum a posteriori: argmin_c sum_f (t - b - A c)_f^2 / (k s_f^2) + sum_i c_i^2 / p_i.

    The face is mean + sum_i c_i u_i, with the principal components u_i and variances p_i of the attacker's public
    faces. A, b and s_f are the least-squares fit of templates on c over public faces, so the map is probed by queries.
    For an affine client, faces from the prior and Gaussian noise this is the optimum of all attacks in squared error;
    for other clients it is the optimum of linear ones up to the model of errors. These are taken as independent; since
    they are not, their variance is multiplied by k, chosen on held-out public faces. Trained decoders should do better.

    At level `encoder`, t are the client's features; at `enrolment`, templates of own faces, so that s_f includes the
    defence's noise.

    Source: linear Gaussian estimation (Kay, Fundamentals of Statistical Signal Processing, chapter 12).
    """

    yardstick: ClassVar[bool] = True

    knowledge: Literal["encoder", "enrolment"] = "encoder"  #: written NAME@LEVEL in bench.toml
    components: int = 128  #: maximum number of principal components; at most a quarter of the public faces are used

    def __post_init__(self) -> None:
        if self.components < 1:
            raise ValueError("components must be at least 1")

    @property
    def level(self) -> Knowledge:
        """By default, a client device as a black box."""
        return Knowledge[self.knowledge.upper()]

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Fits prior and map on all but a few public faces, each of which is queried once, and chooses k on these.

        Raises:
            ValueError: fewer than 8 public faces.
        """
        if len(public) < 8:
            raise ValueError(f"pca_map needs at least 8 public faces, got {len(public)}")
        order = rng.child("split").numpy().permutation(len(public))
        held = public.subset(order[: min(_HELD_OUT, len(public) // 8)])
        seen = public.subset(order[len(held) :])
        mean, basis = _principal(seen, min(self.components, len(seen) // 4), oracle.device)
        chunks = track(list(self._templates(oracle, seen)), "probing the map", -(-len(seen) // _BATCH))
        sums: list[Tensor] = []
        for images, templates in chunks:
            codes, values = (images.flatten(1) - mean) @ basis.T, templates.flatten(1).float()
            more = [values.sum(0), values.square().sum(0), codes.T @ values, codes.square().sum(0)]
            sums = [one + other for one, other in zip(sums, more, strict=True)] if sums else more
        (total, square, cross, power), count = sums, len(seen)
        offset = total / count
        matrix = cross / power[:, None]  # codes are uncorrelated and centred, so least squares is a division
        left = (square - count * offset.square() - (matrix.square() * power[:, None]).sum(0)).clamp_min(0)
        variance = left / max(1, count - len(power) - 1)
        variance = variance.clamp_min(1e-6 * float(variance.mean()) + 1e-12)
        weighed = matrix / variance
        gram = (weighed @ matrix.T).double()
        inverse = torch.diag(count / power.double())
        truth, stolen = (torch.cat(some) for some in zip(*self._templates(oracle, held), strict=True))
        codes = (stolen.flatten(1).float() - offset) @ weighed.T
        errors = {}
        for factor in _FACTORS:
            solved = torch.linalg.solve(gram + factor * inverse, codes.T.double()).T.float()
            errors[factor] = float((mean + solved @ basis - truth.flatten(1)).square().mean())
        factor = min(errors, key=errors.__getitem__)
        estimator = torch.linalg.solve(gram + factor * inverse, weighed.double()).float()
        learned = {"mean": mean, "basis": basis, "offset": offset, "estimator": estimator}
        info = {"components": len(basis), "factor": factor, "held_out_mse": round(errors[factor], 6)}
        return State({name: value.cpu().contiguous() for name, value in learned.items()}, info)

    def _templates(self, oracle: Oracle, faces: FaceSet) -> Iterator[tuple[Tensor, Tensor]]:
        """Pairs of images and their templates, by batches."""
        for first in range(0, len(faces), _BATCH):
            images = faces.batch(slice(first, first + _BATCH), oracle.device)
            if self.level >= Knowledge.ENROLMENT:
                yield images, oracle.enrol(images, [f"own {first + i}" for i in range(len(images))])
            else:
                yield images, oracle.encode(images)

    def prepare(self, oracle: Oracle, state: State | None) -> dict[str, Tensor]:
        """The learned matrices on the oracle's device."""
        if state is None:
            raise ValueError("PcaMap has no trained state")
        return {name: value.to(oracle.device) for name, value in state.tensors.items()}

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Two matrix products; no query."""
        codes = (leak.values.flatten(1).float() - state["offset"]) @ state["estimator"].T
        images: Tensor = (state["mean"] + codes @ state["basis"]).reshape(-1, 3, *oracle.image_size)
        return images


def _principal(faces: FaceSet, count: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """(mean (P,), principal components (count, P) of unit length) of the faces' pixels."""
    pixels = torch.cat([faces.batch(slice(i, i + _BATCH), device).flatten(1) for i in range(0, len(faces), _BATCH)])
    mean = pixels.mean(0)
    pixels -= mean
    values, vectors = torch.linalg.eigh((pixels @ pixels.T).double())
    values, vectors = values[-count:].flip(0), vectors[:, -count:].flip(1)
    kept = values > 1e-9 * values[0]
    basis = (vectors[:, kept] / values[kept].sqrt()).T.float() @ pixels
    return mean, basis
