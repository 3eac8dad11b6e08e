"""Intersects rays with the head, by marching, and with ellipsoids, in closed form."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.synthesis.head import on_map, sample, unit


def sphere(rays: Tensor, eye: Tensor, radius: float) -> Tensor:
    """The depth at which rays (B, 3, P) enter a sphere around the origin, or pass nearest to it."""
    along = -(rays * eye[..., None]).sum(1)
    inside = radius**2 - ((eye**2).sum(1)[:, None] - along**2)
    return along - inside.clamp_min(0).sqrt()


def march(maps: Tensor, eye: Tensor, rays: Tensor, depth: Tensor, steps: int, stride: float) -> Tensor:
    """Marches along rays to the star-shaped surface."""
    for _ in range(steps):
        depth = depth + stride * gap(maps, eye[..., None] + rays * depth[:, None])
    return depth


def length(points: Tensor) -> Tensor:
    """Lengths of vectors (B, 3, P)."""
    a, b, c = points.unbind(1)
    return (a * a + b * b + c * c).sqrt().clamp_min(1e-4)


def gap(maps: Tensor, points: Tensor) -> Tensor:
    """The distance of points (B, 3, P) outside the head, along its radius."""
    far = length(points)
    x, y = on_map(*(points / far[:, None]).unbind(1))
    return far - sample(maps[:, :1], x, y)[:, 0]


class Quadric:
    """The depth (B, P) at which rays (B, 3, P) meet an ellipsoid, infinite where they do not."""

    def __init__(self, rays: Tensor, eye: Tensor, centre: Tensor, axes: Tensor) -> None:
        self._axes = axes[..., None]
        self._start, self._rays = (eye - centre)[..., None] / self._axes, rays / self._axes
        a = (self._rays * self._rays).sum(1)
        b, c = (self._start * self._rays).sum(1), (self._start * self._start).sum(1) - 1
        root = b * b - a * c
        self.depth = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / a, torch.inf)

    def normal(self, at: slice) -> Tensor:
        """(B, 3, Q), for a range of the rays."""
        depth = self.depth[:, at].clamp_max(1e3)[:, None]
        return unit((self._start + self._rays[:, :, at] * depth) / self._axes)
