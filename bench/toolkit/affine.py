"""Least squares through an affine client: a test of affinity, the transposed map, and the most likely face."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from scipy.ndimage import median_filter
from torch import Tensor

from bench.contracts import FaceSet, Rng
from bench.toolkit.block_dct import dct_matrix

Encode = Callable[[Tensor], Tensor]

AFFINE = 1e-3  #: largest relative deviation from an affine map that is attributed to rounding
_PROBES = 8  #: number of random images used to estimate a map's spectrum
_BATCH = 50


def departure(encode: Encode, public: FaceSet, device: torch.device) -> float:
    """The deviation of a client from an affine map between two faces, relative to their distance."""
    one, other = (public.batch(slice(i, i + 1), device) for i in (0, len(public) - 1))
    with torch.no_grad():
        ends = [encode(image) for image in (one, other)]
        between = encode(0.3 * one + 0.7 * other)
    apart = (ends[0] - ends[1]).norm().clamp_min(1e-12)
    return float((between - 0.3 * ends[0] - 0.7 * ends[1]).norm() / apart)


def maps(encode: Encode, start: Tensor) -> tuple[Encode, Encode, Tensor]:
    """Returns (A, its transpose, the template of `start`), all for float32 batches of the size of `start`."""
    origin = start.clone().requires_grad_()
    with torch.enable_grad():
        # One graph serves all steps: the map is affine, so its gradient is the same everywhere.
        there = encode(origin)

    def forward(direction: Tensor) -> Tensor:
        with torch.no_grad():
            return encode(start + direction) - there.detach()

    def adjoint(value: Tensor) -> Tensor:
        return torch.autograd.grad(there, origin, value, retain_graph=True)[0]

    return forward, adjoint, there.detach()


def cosine(images: Tensor, inverse: bool = False) -> Tensor:
    """Orthonormal DCT-II of whole planes."""
    rows, columns = (dct_matrix(side).to(images) for side in images.shape[-2:])
    return rows.T @ images @ columns if inverse else rows @ images @ columns.T


def spectrum(
    encode: Encode,
    start: Tensor,
    rng: Rng,
    weight: Tensor | float = 1.0,
    to_waves: Encode = cosine,
) -> Tensor:
    """Diagonal of A^T W A in the cosine basis, (3, H, W), estimated with random probes, smoothed and bounded from
    below.

    Args:
        start: (3, H, W).
        weight: W, broadcastable to the template of one image.
        to_waves: the transform to the basis.
    """
    noise = torch.randn(_PROBES, *start.shape, generator=rng.child("probes").torch()).to(start)
    forward, adjoint, _ = maps(encode, start.expand(_PROBES, -1, -1, -1))
    diagonal = (to_waves(noise) * to_waves(adjoint(weight * forward(noise)))).mean(0)
    smooth = torch.stack([torch.from_numpy(median_filter(p.abs().cpu().numpy(), 5, mode="nearest")) for p in diagonal])
    return smooth.clamp_min(float(smooth.max()) * 1e-7).to(start)


@dataclass(frozen=True, eq=False)
class FacePrior:
    """A Gaussian-process prior of faces: a mean face, and independent waves in independent colour directions."""

    mean: Tensor  #: (3, H, W)
    colours: Tensor  #: (3, 3): the columns are the colour directions in which faces vary independently
    power: Tensor  #: (3, H, W): variance of each wave in each colour direction

    @classmethod
    def of(cls, faces: FaceSet) -> Self:
        """Estimates the prior from public faces; smooths it, because there are fewer faces than waves."""
        parts = [faces.batch(slice(first, first + _BATCH)) for first in range(0, len(faces), _BATCH)]
        mean = torch.stack([part.sum(0) for part in parts]).sum(0) / len(faces)
        covariance = torch.stack([torch.einsum("bchw,bdhw->cd", part - mean, part - mean) for part in parts]).sum(0)
        colours = torch.linalg.eigh(covariance.double()).eigenvectors.float()
        flat = cls(mean, colours, torch.ones_like(mean))
        power = torch.stack([flat.to_waves(part - mean).square().sum(0) for part in parts]).sum(0) / len(faces)
        return cls(mean, colours, torch.from_numpy(median_filter(power.numpy(), (1, 3, 3))).clamp_min(1e-9))

    def to(self, device: torch.device) -> Self:
        """Returns the prior on another device."""
        return type(self)(self.mean.to(device), self.colours.to(device), self.power.to(device))

    def to_waves(self, images: Tensor) -> Tensor:
        """Coordinates of deviations from the mean, (B, 3, H, W), in the prior's own orthonormal basis."""
        return cosine(torch.einsum("cd,bchw->bdhw", self.colours, images))

    def to_images(self, waves: Tensor) -> Tensor:
        """The inverse of `to_waves`."""
        return torch.einsum("cd,bdhw->bchw", self.colours, cosine(waves, inverse=True))


def likeliest(
    encode: Encode, prior: FacePrior, stolen: Tensor, weight: Tensor, seen: Tensor, iterations: int
) -> tuple[Tensor, Tensor]:
    """The most likely faces behind templates with Gaussian noise: a Wiener filter through the client's map.

    Preconditioned conjugate gradients on (A^T W A + P^-1) x = A^T W (t - A m), with the prior's mean m and power P.

    Args:
        encode: affine map from images (B, 3, H, W) to templates of the shape of `stolen`.
        weight: W, the noise's inverse variance, broadcastable to `stolen`.
        seen: `spectrum` of the map, in the prior's basis.

    Returns:
        Images (B, 3, H, W), not clamped, and the relative residual of the equations, (B,).
    """
    forward, adjoint, there = maps(encode, prior.mean.expand(len(stolen), -1, -1, -1))
    step = torch.zeros_like(prior.mean.expand(len(stolen), -1, -1, -1))
    residual = adjoint(weight * (stolen - there))

    def precondition(gradient: Tensor) -> Tensor:
        return prior.to_images(prior.to_waves(gradient) / (seen + 1 / prior.power))

    better = precondition(residual)
    direction = better
    norm = first = dot(residual, better)
    for _ in range(iterations):
        through = adjoint(weight * forward(direction)) + prior.to_images(prior.to_waves(direction) / prior.power)
        scale = like(norm / dot(direction, through).clamp_min(1e-20), step)
        step = step + scale * direction
        residual = residual - scale * through
        better = precondition(residual)
        following = dot(residual, better)
        direction = better + like(following / norm.clamp_min(1e-20), direction) * direction
        norm = following
    return prior.mean + step, (norm / first.clamp_min(1e-20)).clamp_min(0).sqrt()


def dot(one: Tensor, other: Tensor) -> Tensor:
    """Inner products over a batch, (B,)."""
    return (one.flatten(1) * other.flatten(1)).sum(1)


def like(values: Tensor, tensor: Tensor) -> Tensor:
    """One value per image, shaped to multiply `tensor`."""
    return values.reshape(-1, *[1] * (tensor.ndim - 1))
