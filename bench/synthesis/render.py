"""Renders photographs of synthetic people: a pinhole camera, rays marched to the head, cast shadows, and a sensor."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bench.synthesis.head import Column, head_map, ramp, surface_points, unit
from bench.synthesis.light import View, shade
from bench.synthesis.march import march, sphere
from bench.synthesis.surface import mouth_place
from bench.synthesis.traits import Traits, control_grid

Points = Sequence[tuple[float, float]]

_SUPER = 1.25  #: samples per side of each pixel
_SHELL = 1.75  #: radius of a sphere that contains the head and its hair
_MARCH = ((0.5, 12), (1.0, 3), (_SUPER, 2))  #: (samples per side of each pixel, marching steps), coarse to fine


def _columns(rows: Sequence[Traits]) -> dict[str, Tensor]:
    """Values by name, (B, 1); the control grids as (B, 9, 9)."""
    names = [name for name in rows[0] if not name.startswith(("relief", "mottle"))]
    table = torch.tensor([[row[name] for name in names] for row in rows], dtype=torch.float32)
    columns = {name: table[:, i : i + 1] for i, name in enumerate(names)}
    for kind in ("relief", "mottle"):
        if f"{kind}0" in rows[0]:
            grid = np.array([[row[f"{kind}{i}"] for i in range(81)] for row in rows], dtype=np.float32)
            columns[f"{kind}_grid"] = torch.from_numpy(control_grid(grid))
    return columns


def _rotation(shot: Column) -> Tensor:
    """Rotation from head to camera, (B, 3, 3): yaw, then pitch, then roll."""
    angles = [shot[name][:, 0] for name in ("yaw", "pitch", "roll")]
    (cy, cp, cr), (sy, sp, sr) = ([f(a) for a in angles] for f in (torch.cos, torch.sin))
    zero, one = torch.zeros_like(cy), torch.ones_like(cy)

    def matrix(*rows: Tensor) -> Tensor:
        return torch.stack(rows, 1).reshape(-1, 3, 3)

    yaw = matrix(cy, zero, sy, zero, one, zero, -sy, zero, cy)
    pitch = matrix(one, zero, zero, zero, cp, -sp, zero, sp, cp)
    roll = matrix(cr, -sr, zero, sr, cr, zero, zero, zero, one)
    return roll @ pitch @ yaw


def _face_points(who: Column, shot: Column, maps: Tensor) -> Tensor:
    """Eyes, nose tip and mouth corners in head space, (B, 5, 3), the image's left first."""
    mouth_y, mouth_x, rise = mouth_place(who, shot)
    mouth_x = 0.92 * mouth_x  # the visible end of the lips
    x = torch.cat((-who["eye_x"], who["eye_x"], 0 * mouth_x, -mouth_x, mouth_x), 1)
    nose = who["nose_y"] + who["nose_up"] + 0.05
    y = torch.cat((who["eye_y"], who["eye_y"], nose, *[mouth_y + 0.55 * rise] * 2), 1)
    return surface_points(maps, x, y)


def _project(points: Tensor, rotation: Tensor, distance: Tensor) -> Tensor:
    """Projects head points (B, N, 3) onto the plane through the head's centre, (B, N, 2); y up."""
    seen = points @ rotation.transpose(1, 2)
    return seen[..., :2] * (distance / (distance - seen[..., 2]))[..., None]


def _similarity(plane: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares similarity (Umeyama without reflection) of pixels to the plane, as complex (scale, shift), (B,).

    Pixel rows run downwards, the plane's y upwards.
    """
    source = torch.complex(pixels[..., 0], -pixels[..., 1])
    target = torch.complex(plane[..., 0], plane[..., 1])
    centre, middle = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    source, target = source - centre, target - middle
    scale = (source.conj() * target).sum(1) / (source.abs() ** 2).sum(1)
    return scale, (middle - scale[:, None] * centre)[:, 0]


def _frame(shot: Column, plane: Tensor, size: tuple[int, int], points: Points | None) -> tuple[Tensor, Tensor]:
    """Maps pixels to the camera's plane: with `points`, as a detector aligns a face; else as a photograph."""
    height, width = size
    if points is None:
        scale = torch.full((len(plane),), 3.5 / min(height, width), dtype=torch.complex64)
        # The head fills slightly less than half of the photograph.
        middle = torch.complex(shot["shift_x"] * 8, shot["shift_y"] * 8 - 0.12)[:, 0]
        return scale, middle - scale * torch.tensor(complex(width / 2, -height / 2))
    target = torch.tensor(points, dtype=torch.float32)[None].expand(len(plane), -1, -1)
    scale, shift = _similarity(plane, target)
    centre = torch.tensor(complex(float(target[0, :, 0].mean()), -float(target[0, :, 1].mean())))
    span = float((target[0, 1] - target[0, 0]).norm())
    turn = torch.polar(1 + shot["zoom"], shot["tilt"])[:, 0]
    nudge = torch.complex(shot["shift_x"], shot["shift_y"])[:, 0] * span
    return scale * turn, shift + scale * (centre + nudge - turn * centre)


def landmarks(
    people: Sequence[Traits], shots: Sequence[Traits], size: tuple[int, int], points: Points | None = None
) -> NDArray[np.float32]:
    """True eyes, nose tip and mouth corners, (B, 5, 2) as (x, y) pixels, of the images of `render`."""
    who, shot = _columns(people), _columns(shots)
    maps = head_map(who, shot)
    plane = _project(_face_points(who, shot, maps), _rotation(shot), shot["distance"])
    scale, shift = _frame(shot, plane, size, points)
    pixels = (torch.complex(plane[..., 0], plane[..., 1]) - shift[:, None]) / scale[:, None]
    return torch.stack((pixels.real, -pixels.imag), -1).numpy()


def render(
    people: Sequence[Traits], shots: Sequence[Traits], size: tuple[int, int], points: Points | None = None
) -> NDArray[np.uint8]:
    """Photographs (B, H, W, 3), uint8 RGB, one of each (person, shot).

    Args:
        size: (height, width) in pixels.
        points: target positions of a detector's five points, (x, y) pixels, as in `Alignment.points`; None: a
            photograph
            with the face in the middle.
    """
    with torch.inference_mode():
        images = [_render(people[i : i + 4], shots[i : i + 4], size, points) for i in range(0, len(people), 4)]
    return np.concatenate(images) if images else np.zeros((0, *size, 3), np.uint8)


def _render(
    people: Sequence[Traits], shots: Sequence[Traits], size: tuple[int, int], points: Points | None
) -> NDArray[np.uint8]:
    who, shot = _columns(people), _columns(shots)
    maps = head_map(who, shot)
    rotation, distance = _rotation(shot), shot["distance"]
    scale, shift = _frame(shot, _project(_face_points(who, shot, maps), rotation, distance), size, points)
    depth = None
    height, width = size
    for zoom, steps in _MARCH:
        previous = height, width
        height, width = round(size[0] * zoom), round(size[1] * zoom)
        rows, columns = torch.meshgrid(
            (torch.arange(height) + 0.5) * (size[0] / height) - 0.5,
            (torch.arange(width) + 0.5) * (size[1] / width) - 0.5,
            indexing="ij",
        )
        plane = scale[:, None] * torch.complex(columns, -rows).reshape(1, -1) + shift[:, None]
        across, up = plane.real.contiguous(), plane.imag.contiguous()  # this makes `stack` five times as fast
        rays = unit(torch.stack((across, up, -distance.expand_as(across)), 1))
        own = rotation.transpose(1, 2) @ rays  # in head space
        eye = rotation[:, 2] * distance  # the camera's position there, (B, 3)
        if depth is None:
            start = sphere(own, eye, _SHELL)
            depth = march(maps, eye, own, start, steps, 0.8)
        else:
            depth = functional.interpolate(depth.reshape(-1, 1, *previous), (height, width)).flatten(1)
            depth = march(maps, eye, own, depth, steps, 0.8)
    assert depth is not None
    rng = [np.random.default_rng(int(s["seed"])) for s in shots]
    colour = shade(View(who, shot, maps, rotation, plane, rays, own, eye, depth), rng).reshape(-1, 3, height, width)
    return _develop(functional.interpolate(colour, size, mode="bilinear", antialias=True), shot, rng)


def _develop(linear: Tensor, shot: Column, rng: Sequence[np.random.Generator]) -> NDArray[np.uint8]:
    """Exposure, occlusion, blur, noise and JPEG."""
    colour = (linear * shot["exposure"][..., None, None]).clamp_min(1e-6)
    colour = (colour / (1 + 0.18 * colour.clamp_min(0) ** 2)) ** (1 / 2.2)
    height, width = colour.shape[2:]
    grid = torch.linspace(-1, 1, height)[:, None], torch.linspace(-1, 1, width)[None]
    images = []
    for index, own in enumerate(rng):
        image = colour[index]
        if float(shot["occlusion"][index]) > 0.5:
            image = _in_the_way(image, grid, own)
        sigma = float(shot["blur"][index]) * width / 96
        if sigma > 0.25:
            image = _blurred(image, sigma)
        image = image + torch.from_numpy(own.normal(0, 1, image.shape).astype(np.float32)) * shot["noise"][index]
        pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
        with io.BytesIO() as buffer:
            Image.fromarray(np.ascontiguousarray(pixels)).save(buffer, "JPEG", quality=int(shot["jpeg"][index]))
            images.append(np.asarray(Image.open(buffer).convert("RGB")))
    return np.stack(images)


def _in_the_way(image: Tensor, grid: tuple[Tensor, Tensor], rng: np.random.Generator) -> Tensor:
    """An occluder (a scarf, a sleeve, a leaf): a soft-edged shape of one colour over a corner or the chin."""
    rows, columns = grid
    side = rng.uniform(-1.1, 1.1)
    centre = (rng.uniform(0.75, 1.05), side)
    angle = rng.uniform(0, np.pi)
    across, down = columns - centre[1], rows - centre[0]
    u = (across * np.cos(angle) + down * np.sin(angle)) / rng.uniform(0.3, 0.7)
    v = (down * np.cos(angle) - across * np.sin(angle)) / rng.uniform(0.25, 0.45)
    cover = ramp(1.1, 0.9, u * u + v * v)
    colour = torch.tensor(rng.uniform(0.1, 0.9, 3), dtype=torch.float32)[:, None, None]
    covered: Tensor = image + (colour * (1 - 0.25 * v.clamp(-1, 1)) - image) * cover
    return covered


def _blurred(image: Tensor, sigma: float) -> Tensor:
    reach = max(1, int(2.5 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(image[None], (reach,) * 4, mode="replicate")
    channels = image.shape[0]
    padded = functional.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
    smooth: Tensor = functional.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return smooth[0]
