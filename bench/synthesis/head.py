"""The shape of the head: a star-shaped surface, radius by direction, on Lambert's equal-area map of directions.

The map's coordinates (X, Y) are in [-2, 2]: (0, 0) looks straight ahead (+z), the circle of radius sqrt(2) is the
profile's plane, and the circle of radius 2 the back of the head. Near the centre they are angles in radians. Features
are bumps, products of a Gaussian in X and a Gaussian in Y, so a whole head takes a few matrix products.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn import functional

GRID = 152  #: samples per side of the map
_SPAN = 1.99
_CONTROL = 9  #: control points per side of the individual relief

Column = Mapping[str, Tensor]  #: trait or shot value by name, each (B, 1)


def ramp(low: float | Tensor, high: float | Tensor, x: Tensor) -> Tensor:
    """Smooth step from 0 at `low` to 1 at `high`."""
    t = ((x - low) / (high - low)).clamp(0, 1)
    return t * t * (3 - 2 * t)


def spot(square: Tensor) -> Tensor:
    """Approximates exp(-square) at a third of its cost; 0 from 4 on."""
    half = (1 - square / 4).clamp_min(0).square()
    return half * half


def unit(vectors: Tensor) -> Tensor:
    """Normalises vectors (B, 3, ...); several times as fast as `functional.normalize` over a middle dimension."""
    a, b, c = vectors.unbind(1)
    return vectors * (a * a + b * b + c * c).clamp_min(1e-12).rsqrt()[:, None]


def span(mask: Tensor) -> slice:
    """The range from the first to the last of P points where any of (B, P) is set; slicing it makes no copy."""
    places = mask.any(0).nonzero()
    return slice(int(places[0]), int(places[-1]) + 1) if len(places) else slice(0, 0)


def directions(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Unit vectors of points on the map."""
    square = (x * x + y * y).clamp_max(3.99)
    shrink = (1 - square / 4).sqrt()
    return x * shrink, y * shrink, 1 - square / 2


def on_map(x: Tensor, y: Tensor, z: Tensor) -> tuple[Tensor, Tensor]:
    """Map coordinates of unit vectors."""
    stretch = (2 / (1 + z).clamp_min(5e-3)).sqrt()
    return x * stretch, y * stretch


def _bumps(who: Column, shot: Column, axis: Tensor) -> Tensor:
    """The relief of all features, (B, G, G) over (Y, X)."""
    across: list[Tensor] = []
    along: list[Tensor] = []
    age = ((shot["age"] - 25) / 45).clamp(0, 1.2)
    smile = shot["smile"]

    def bump(x: Tensor | float, y: Tensor | float, sx: Tensor | float, sy: Tensor | float, height: Tensor) -> None:
        """A bump in the middle, or, if x is not 0, one on each side."""
        column = torch.exp(-(((axis - x) / sx) ** 2) / 2)
        if not (isinstance(x, float) and x == 0.0):
            column = column + torch.exp(-(((axis + x) / sx) ** 2) / 2)
        across.append((column * height).expand(len(height), -1))
        along.append(torch.exp(-(((axis - y) / sy) ** 2) / 2).expand(len(height), -1))

    one = torch.ones_like(age)
    eye_x, eye_y = who["eye_x"], who["eye_y"]
    bump(0.0, who["forehead_y"], 0.34, 0.20, who["forehead"])
    bump(eye_x - 0.04, eye_y + who["brow_y"] - 0.03, 0.15, 0.06, who["brow_ridge"])
    bump(eye_x, eye_y, 0.145, 0.095, -who["eye_depth"])
    bump(eye_x - 0.19, eye_y + 0.01, 0.05, 0.06, -0.035 * one)
    bump(eye_x, eye_y, 0.085, 0.06, 0.5 * who["eye_depth"] + 0.012)
    bump(eye_x, eye_y - 0.115, 0.10, 0.028, (who["eye_bag"] + 0.6 * age) * 0.014)
    # The nose: a ridge from between the eyes to the overhanging tip, with wings on both sides.
    nose_y, bridge = who["nose_y"], who["nose_bridge"]
    rise = (eye_y - nose_y).clamp_min(0.25)
    for step, share in enumerate((0.0, 0.25, 0.5, 0.75)):
        height = bridge * (0.55 + 0.75 * share) + who["nose_hump"] * (1 - abs(step - 1.3) / 2)
        bump(0.0, eye_y - rise * share, who["nose_bridge_width"] * (1 + 0.2 * share), rise * 0.17, 0.62 * height)
    bump(0.0, nose_y + who["nose_up"] + 0.02, who["nose_tip_size"], 0.055, who["nose_tip"])
    bump(who["nose_width"], nose_y - 0.015, 0.042, 0.05, 0.6 * who["nose_tip"] + 0.035)
    bump(0.0, nose_y - 0.085, 0.10, 0.035, -0.035 * one)
    bump(0.42, who["cheekbone_y"] + 0.02 * smile, 0.17, 0.12, who["cheekbone"] + 0.022 * smile)
    bump(0.52, -0.55, 0.16, 0.16, who["cheek"] - 0.012 * age)
    # The mouth.
    mouth_y = who["mouth_y"] + 0.35 * (nose_y + 0.36)
    bump(0.0, mouth_y + 0.02, 0.20, 0.13, who["muzzle"])
    bump(0.0, mouth_y + 0.03, 0.12, 0.024, who["lip_fill"])
    bump(0.0, mouth_y - 0.045 - 0.05 * shot["open"], 0.10, 0.03, who["lip_fill"] * 1.25)
    bump(0.0, mouth_y - 0.008, 0.14, 0.012, -0.020 * one)
    bump(0.0, mouth_y + 0.10, 0.022, 0.05, -0.012 * who["philtrum"])
    bump(0.0, mouth_y - 0.14, 0.12, 0.04, -0.030 * one)
    bump(who["mouth_width"] + 0.05, mouth_y + 0.03 * smile, 0.05, 0.06, 0.012 * smile)
    bump(0.0, who["chin_y"], who["chin_width"], 0.09, who["chin_size"])
    bump(0.0, -0.84, 0.30, 0.20, 0.045 * one)
    bump(0.92, -0.78, 0.20, 0.20, who["jaw_corner"] + 0.02 * age)
    bump(0.55, -0.98, 0.16, 0.10, 0.035 * age)
    bump(0.88, 0.30, 0.16, 0.2, -0.025 * one)
    # The ears stand off the sides.
    bump(1.44 * one, -0.05, 0.05, who["ear_size"], who["ear"])
    bump(1.41 * one, -0.04, 0.025, who["ear_size"] * 0.5, -0.45 * who["ear"])
    relief = torch.stack(along, 2) @ torch.stack(across, 1)

    control = torch.linspace(-1.2, 1.2, _CONTROL)
    basis = torch.exp(-(((axis[..., None] - control) / 0.21) ** 2) / 2)[0]
    own = who["relief_grid"]
    own = 0.75 * (own + own.flip(-1)) / 2 + 0.18 * own  # nearly symmetric, like real faces
    return relief + 0.031 * basis @ own @ basis.T


def _skull(who: Column, nx: Tensor, ny: Tensor, nz: Tensor) -> Tensor:
    """A superellipsoid with a tapered jaw and a back longer than its front; (B, G, G)."""
    jaw = 1 - who["jaw_taper"][..., None] * ramp(-0.1, -0.95, ny)
    width = who["head_width"][..., None] * jaw
    depth = who["head_depth"][..., None] * (1 + 0.16 * ramp(0.0, -0.8, nz) * ramp(-0.7, 0.1, ny))
    height = who["head_height"][..., None] * (1 - 0.04 * ramp(-0.2, 0.8, ny))
    power = who["roundness"][..., None]

    def part(value: Tensor) -> Tensor:
        return value.abs().clamp_min(1e-4).log2().mul(power).exp2()

    total = part(nx / width) + part(ny / height) + part(nz / depth)
    return (-total.log2() / power).exp2()


def _hair(who: Column, shot: Column, x: Tensor, y: Tensor, nx: Tensor, ny: Tensor, nz: Tensor) -> Tensor:
    """The density of hair, 0 to 1; (B, G, G)."""

    def wide(name: str, source: Column = who) -> Tensor:
        return source[name][..., None]

    age = ((shot["age"][..., None] - 30) / 40).clamp(0, 1)
    recede = age * wide("male") * 0.16
    line = wide("hairline") + shot["hair_day"][..., None] + recede * (1 + 1.2 * ramp(0.1, 0.5, x.abs()))
    line = line - wide("widow") * torch.exp(-((x / 0.14) ** 2)) + wide("temples") * ramp(0.2, 0.55, x.abs())
    line = line - wide("fringe") * torch.exp(-(((x - wide("hair_part")) / 0.75) ** 4))
    strands = 0.035 * torch.sin(19 * x + 5 * y + 7 * wide("hair_part")) * torch.sin(31 * x - 3 * wide("curl"))
    front = ramp(-0.03, 0.03, y - line + strands)
    # Beside the face, hair extends in front of the ear, and covers the back down to the nape.
    slant = 0.72 * ny - 0.69 * nz
    side = ramp(-0.03, 0.05, slant - (0.02 - 0.18 * ramp(0.55, 0.9, nx.abs())) + 0.4 * strands)
    burns = ramp(0.78, 0.9, nx.abs()) * ramp(-0.28, -0.15, ny) * ramp(-0.12, 0.1, nz) * wide("male")
    blend = ramp(0.25, 0.6, nz)
    inside = blend * front + (1 - blend) * torch.maximum(torch.minimum(side, ramp(-0.75, -0.5, ny)), burns)
    return inside * wide("hair_amount")


def _blurred(values: Tensor, factor: int) -> Tensor:
    """Smooths (B, G, G) over about twice `factor` samples."""
    small = functional.avg_pool2d(values[:, None], factor)
    small = functional.avg_pool2d(functional.pad(small, (1, 1, 1, 1), mode="replicate"), 3, 1)
    return functional.interpolate(small, values.shape[1:], mode="bilinear", align_corners=False)[:, 0]


def head_map(who: Column, shot: Column) -> Tensor:
    """The head as maps, (B, 7, G, G) over (Y, X): radius, normal (3), hollowness, hair, mottling."""
    axis = torch.linspace(-_SPAN, _SPAN, GRID)[None]
    y, x = torch.meshgrid(axis[0], axis[0], indexing="ij")
    nx, ny, nz = directions(x, y)
    skin = _skull(who, nx, ny, nz) + _bumps(who, shot, axis) * ramp(-0.7, -0.1, nz)
    hair = _hair(who, shot, x, y, nx, ny, nz)
    curl = who["curl"][..., None]
    lumps = torch.sin(11 * x + 3 * torch.sin(7 * y)) * torch.sin(12 * y + 2 * torch.sin(9 * x))
    streaks = torch.sin(34 * x + 4 * torch.sin(5 * y + 6 * who["hair_part"][..., None]))
    volume = who["hair_thick"][..., None] * (1 + 0.22 * curl * lumps + 0.03 * streaks)
    radius = skin + hair * volume * (0.65 + 0.5 * ramp(-0.2, 0.9, ny))
    # Normals: the cross product of the surface's two tangents.
    points = torch.stack((nx, ny, nz)) * radius[:, None]
    step = 2 * float(axis[0, 1] - axis[0, 0])
    padded = functional.pad(points, (1, 1, 1, 1), mode="replicate")
    along_x = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / step
    along_y = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / step
    normal = unit(torch.linalg.cross(along_x, along_y, dim=1))
    # Points lower than their surroundings see less of the sky.
    near, wide = _blurred(radius, 2), _blurred(radius, 4)
    hollow = (1 + 5.0 * (radius - near).clamp(-0.1, 0.03) + 1.6 * (radius - wide).clamp(-0.2, 0.06)).clamp(0.3, 1.15)
    control = torch.linspace(-1.2, 1.2, _CONTROL)
    basis = torch.exp(-(((axis[0][:, None] - control) / 0.19) ** 2) / 2)
    mottle = basis @ who["mottle_grid"] @ basis.T
    return torch.cat((radius[:, None], normal, torch.stack((hollow, hair, mottle), 1)), 1)


def sample(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Map values (B, C, P) at points (B, P)."""
    at = torch.view_as_real(torch.complex(x, y))[:, None] / _SPAN  # a quarter of the time of `stack`
    return functional.grid_sample(maps, at, align_corners=True, padding_mode="border")[:, :, 0]


def surface_points(maps: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Positions (B, P, 3) on the head of map points (B, P)."""
    radius = sample(maps[:, :1], x, y)[:, 0]
    return torch.stack(directions(x, y), -1) * radius[..., None]
