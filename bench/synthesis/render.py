"""Photographs of synthetic people: a pinhole camera, rays marched to the head, light with cast shadows, a sensor."""

from __future__ import annotations

import io
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from bench.synthesis.head import Column, head_map, on_map, ramp, sample, surface_points, unit
from bench.synthesis.surface import hair_colour, mouth_place, paint, skin_tone
from bench.synthesis.traits import Traits, control_grid

Points = Sequence[tuple[float, float]]

_SUPER = 1.5  #: samples a side of each pixel
_SHELL = 1.75  #: a sphere that holds the head and its hair
_COARSE, _FINE = 12, 3  #: marching steps, at pixel and at sample resolution


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
    """Head to camera, (B, 3, 3): yaw, then pitch, then roll."""
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
    """Eyes, nose tip and mouth corners in the head's space, (B, 5, 3), the image's left first."""
    mouth_y, mouth_x, rise = mouth_place(who, shot)
    mouth_x = 0.92 * mouth_x  # where the lips are seen to end
    x = torch.cat((-who["eye_x"], who["eye_x"], 0 * mouth_x, -mouth_x, mouth_x), 1)
    nose = who["nose_y"] + who["nose_up"] + 0.05
    y = torch.cat((who["eye_y"], who["eye_y"], nose, *[mouth_y + 0.55 * rise] * 2), 1)
    return surface_points(maps, x, y)


def _project(points: Tensor, rotation: Tensor, distance: Tensor) -> Tensor:
    """Head points (B, N, 3) onto the plane through the head's centre, (B, N, 2); y up."""
    seen = points @ rotation.transpose(1, 2)
    return seen[..., :2] * (distance / (distance - seen[..., 2]))[..., None]


def _similarity(plane: Tensor, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Least-squares similarity (Umeyama without reflection) of pixels to the plane, as complex (scale, shift), (B,).

    Pixel rows run down, the plane's y up.
    """
    source = torch.complex(pixels[..., 0], -pixels[..., 1])
    target = torch.complex(plane[..., 0], plane[..., 1])
    centre, middle = source.mean(1, keepdim=True), target.mean(1, keepdim=True)
    source, target = source - centre, target - middle
    scale = (source.conj() * target).sum(1) / (source.abs() ** 2).sum(1)
    return scale, (middle - scale[:, None] * centre)[:, 0]


def _frame(shot: Column, plane: Tensor, size: tuple[int, int], points: Points | None) -> tuple[Tensor, Tensor]:
    """Pixels to the camera's plane. With `points`, as a detector would align the face, with its error; else a photo."""
    height, width = size
    if points is None:
        scale = torch.full((len(plane),), 3.5 / min(height, width), dtype=torch.complex64)
        # The head fills a little less than half of the photograph.
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
    """True eyes, nose tip and mouth corners, (B, 5, 2) as (x, y) pixels, of the images that `render` gives."""
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
        points: where a detector's five points go, (x, y) pixels, as in `Alignment.points`; None: a photograph in
            which the face takes up the middle.
    """
    with torch.inference_mode():
        images = [_render(people[i : i + 2], shots[i : i + 2], size, points) for i in range(0, len(people), 2)]
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
    for zoom in (1.0, _SUPER):
        previous = height, width
        height, width = round(size[0] * zoom), round(size[1] * zoom)
        rows, columns = torch.meshgrid(
            (torch.arange(height) + 0.5) * (size[0] / height) - 0.5,
            (torch.arange(width) + 0.5) * (size[1] / width) - 0.5,
            indexing="ij",
        )
        plane = scale[:, None] * torch.complex(columns, -rows).reshape(1, -1) + shift[:, None]
        rays = unit(torch.stack((plane.real, plane.imag, -distance.expand_as(plane.real)), 1))
        own = rotation.transpose(1, 2) @ rays  # in the head's space
        eye = rotation[:, 2] * distance  # the camera's place there, (B, 3)
        if depth is None:
            start = _sphere(own, eye, _SHELL)
            depth = _march(maps, eye, own, start, _COARSE, 0.8)
        else:
            depth = functional.interpolate(depth.reshape(-1, 1, *previous), (height, width)).flatten(1)
            depth = _march(maps, eye, own, depth, _FINE, 0.8)
    assert depth is not None
    rng = [np.random.default_rng(int(s["seed"])) for s in shots]
    grain = torch.from_numpy(np.stack([r.uniform(-1, 1, height * width).astype(np.float32) for r in rng]))
    colour = _shade(maps, who, shot, rotation, eye, own, rays, depth, grain, plane, rng)
    colour = colour.reshape(-1, 3, height, width)
    return _develop(functional.interpolate(colour, size, mode="area"), shot, rng)


def _sphere(rays: Tensor, eye: Tensor, radius: float) -> Tensor:
    """Where rays (B, 3, P) enter a sphere round the origin, or pass nearest to it."""
    along = -(rays * eye[..., None]).sum(1)
    inside = radius**2 - ((eye**2).sum(1)[:, None] - along**2)
    return along - inside.clamp_min(0).sqrt()


def _march(maps: Tensor, eye: Tensor, rays: Tensor, depth: Tensor, steps: int, stride: float) -> Tensor:
    """Walks along rays towards the star-shaped surface."""
    for _ in range(steps):
        depth = depth + stride * _gap(maps, eye[..., None] + rays * depth[:, None])
    return depth


def _length(points: Tensor) -> Tensor:
    a, b, c = points.unbind(1)
    return (a * a + b * b + c * c).sqrt().clamp_min(1e-4)


def _gap(maps: Tensor, points: Tensor) -> Tensor:
    """How far points (B, 3, P) lie outside of the head, along its radius."""
    length = _length(points)
    x, y = on_map(*(points / length[:, None]).unbind(1))
    return length - sample(maps[:, :1], x, y)[:, 0]


def _quadric(rays: Tensor, eye: Tensor, centre: Tensor, axes: Tensor) -> tuple[Tensor, Tensor]:
    """Depth at which rays meet an ellipsoid (infinite where they don't), and its normal there."""
    axes = axes[..., None]
    o, d = (eye - centre)[..., None] / axes, rays / axes
    a, b, c = (d * d).sum(1), (o * d).sum(1), (o * o).sum(1) - 1
    root = b * b - a * c
    depth = torch.where(root > 0, (-b - root.clamp_min(0).sqrt()) / a, torch.inf)
    normal = unit((o + d * depth.clamp_max(1e3)[:, None]) / axes)
    return depth, normal


def _shade(
    maps: Tensor, who: Column, shot: Column, rotation: Tensor, eye: Tensor, own: Tensor, rays: Tensor, depth: Tensor,
    grain: Tensor, plane: Tensor, rng: Sequence[np.random.Generator],
) -> Tensor:  # fmt: skip
    """Linear light (B, 3, P)."""
    points = eye[..., None] + own * depth[:, None]
    length = _length(points)
    nx, ny, nz = (points / length[:, None]).unbind(1)
    x, y = on_map(nx, ny, nz)
    found = sample(maps, x, y)
    hit = length - found[:, 0] < 0.12
    normal, hollow = unit(found[:, 1:4]), found[:, 4]
    albedo, gloss = paint(x, y, nz, found[:, 5], found[:, 6], who, shot, grain)
    head_depth = torch.where(hit, depth, torch.inf)

    light = unit(torch.cat((shot["light_x"], shot["light_y"], torch.full_like(shot["yaw"], 0.85)), 1))
    own_light = rotation.transpose(1, 2) @ light[..., None]  # (B, 3, 1)
    shadow = _shadow(maps, points + 0.03 * normal, own_light)
    linear = albedo.clamp_min(0) ** 2.2
    seen = _lit(linear, normal, own_light, rotation[:, 1], -own, gloss, shadow, hollow, shot)

    # Neck, shoulders and hanging hair; none of them turns with the head.
    camera = torch.cat((torch.zeros_like(shot["distance"]).expand(-1, 2), shot["distance"]), 1)
    tone = (skin_tone(who) * 0.93) ** 2.2
    cloth = torch.stack([shot[f"cloth_{c}"] for c in "rgb"], 1) ** 2.2
    strands = hair_colour(who, shot)
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    zero = torch.zeros_like(who["neck"])
    sway = 0.10 * torch.sin(shot["yaw"])
    neck_depth, neck_normal = _quadric(
        rays,
        camera,
        torch.cat((sway, zero - 1.15, zero - 0.20), 1),
        torch.cat((who["neck"], zero + 1.1, who["neck"]), 1),
    )
    parts.append((neck_depth, neck_normal, tone.expand(-1, -1, rays.shape[2]) * 0.8))
    body_depth, body_normal = _quadric(
        rays,
        camera,
        torch.cat((zero, zero - 2.3, zero - 0.3), 1),
        torch.cat((zero + 1.75 + who["neck"], zero + 0.85, zero + 0.75), 1),
    )
    parts.append((body_depth, body_normal, cloth.expand(-1, -1, rays.shape[2])))
    curtain = who["curtain"] > 0.5
    fall_depth, fall_normal = _quadric(
        own, eye, torch.cat((zero, zero - 0.45 * who["curtain_length"], zero - 0.42), 1),
        torch.cat((who["curtain_width"], zero + 0.55 + 0.62 * who["curtain_length"], zero + 0.62), 1),
    )  # fmt: skip
    at = eye[..., None] + own * fall_depth.clamp_max(1e3)[:, None]
    waves = (
        0.14 * torch.sin(38 * at[:, 0] + 5 * torch.sin(3 * at[:, 1]))
        + 0.16 * grain
        + 0.1 * torch.sin(71 * at[:, 0] - 4 * at[:, 1])
    )
    fall = (strands * (1 + waves[:, None])).clamp(0.012, 0.98) ** 2.2
    fall_depth = torch.where(curtain, fall_depth, torch.inf)
    fall_normal = rotation @ fall_normal
    parts.append((fall_depth, fall_normal, fall * 0.85))
    nearest = head_depth
    colour = _background(shot, plane, rng)
    colour = torch.where(hit[:, None], seen, colour)
    # The head shades what is under it.
    for part_depth, part_normal, part_linear in parts:
        front = part_depth < nearest
        under = (part_normal * 0).sum(1) + 0.55
        lit = _lit(
            part_linear,
            part_normal,
            light[..., None],
            torch.tensor([0.0, 1.0, 0.0]).expand(len(light), 3),
            -rays,
            torch.full_like(depth, 0.05),
            under,
            under + 0.25,
            shot,
        )
        colour = torch.where(front[:, None], lit, colour)
        nearest = torch.minimum(nearest, part_depth)
    return _glasses(colour, nearest, who, shot, maps, own, eye)


def _shadow(maps: Tensor, points: Tensor, light: Tensor) -> Tensor:
    """How much of the light reaches points (B, 3, P): 1 lit, 0 in the head's own shadow; soft by distance."""
    lit = torch.ones_like(points[:, 0])
    for far in (0.06, 0.14, 0.26, 0.45, 0.75):
        gap = _gap(maps, points + light * far)
        lit = torch.minimum(lit, (0.5 + gap / (0.35 * far)).clamp(0, 1))
    return lit


def _lit(
    albedo: Tensor, normal: Tensor, light: Tensor, up: Tensor, view: Tensor, gloss: Tensor, shadow: Tensor,
    hollow: Tensor, shot: Column,
) -> Tensor:  # fmt: skip
    """Wrapped diffuse light, a sky that is brighter above, and a highlight; linear (B, 3, P)."""
    toward = (normal * light).sum(1)
    wrap = 0.22
    direct = ((toward + wrap) / (1 + wrap)).clamp_min(0)
    red = (((toward + 0.45) / 1.45).clamp_min(0) - direct) * 0.25  # light that went through skin
    sky = 0.62 + 0.38 * (normal * up[..., None]).sum(1)
    warm = shot["warm"]
    tint = torch.stack((1 + warm, 1 + 0 * warm, 1 - warm), 1)
    half = unit(light + view)
    shine = (normal * half).sum(1).clamp_min(0) ** 18
    ambient = shot["ambient"] * hollow * sky
    direct_light = (shot["light"] * 1.05 * shadow * direct)[:, None] * tint
    scatter = (shot["light"] * shadow * red)[:, None] * torch.tensor([1.0, 0.35, 0.25])[None, :, None]
    return (
        albedo * (direct_light + scatter + ambient[:, None] * (2 - tint))
        + (0.40 * gloss * shine * shadow * shot["light"])[:, None]
    )


def _background(shot: Column, plane: Tensor, rng: Sequence[np.random.Generator]) -> Tensor:
    """Out-of-focus colours, linear (B, 3, P)."""
    one, two = (torch.stack([shot[f"{name}_{c}"] for c in "rgb"], 1) for name in ("back", "back2"))
    blobs = torch.from_numpy(np.stack([r.uniform(0, 1, (1, 5, 5)).astype(np.float32) for r in rng]))
    at = torch.stack((plane.real, plane.imag), -1)[:, None] / 3.0
    share = functional.grid_sample(blobs, at, mode="bicubic", padding_mode="border", align_corners=True)[:, :, 0]
    return (one + (two - one) * share.clamp(0, 1)).clamp(0.01, 1) ** 2.2


def _glasses(
    colour: Tensor, nearest: Tensor, who: Column, shot: Column, maps: Tensor, own: Tensor, eye: Tensor
) -> Tensor:
    """Frames on a plane before the eyes, and their arms; drawn where they are nearer than the face."""
    if not bool((shot["wears_glasses"] > 0.5).any()):
        return colour
    bridge = surface_points(maps, 0 * who["eye_x"], who["eye_y"] - 0.05)
    place = bridge[..., 2] + 0.10
    pupil = surface_points(maps, who["eye_x"], who["eye_y"])
    depth = (place - eye[:, 2:]) / own[:, 2].clamp(max=-1e-3)
    at_x, at_y = (eye[:, i : i + 1] + own[:, i] * depth for i in (0, 1))
    middle_x, middle_y = pupil[..., 0] * 1.02, pupil[..., 1] - 0.03
    power = who["glasses_round"]
    u = ((at_x.abs() - middle_x) / who["glasses_width"]).abs().clamp_min(1e-3)
    v = ((at_y - middle_y) / who["glasses_height"]).abs().clamp_min(1e-3)
    round_ = (u**power + v**power) ** (1 / power)
    rim_width = who["glasses_rim"] / who["glasses_height"]
    rim = ramp(rim_width * 1.3, rim_width * 0.7, (round_ - 1).abs())
    inner = middle_x - who["glasses_width"]
    bar = ramp(inner + 0.01, inner - 0.01, at_x.abs()) * ramp(0.02, 0.012, (at_y - middle_y - 0.05).abs())
    ahead = (own[:, 2] < -0.05) & (depth < nearest + 0.03)
    frame = torch.maximum(rim, bar) * ahead
    # An arm on each side, from the frame back to the ear.
    outer = middle_x + who["glasses_width"]
    for side in (-1.0, 1.0):
        reach = (side * outer - eye[:, :1]) / torch.where(own[:, 0].abs() < 1e-3, 1e-3, own[:, 0])
        arm_y, arm_z = (eye[:, i : i + 1] + own[:, i] * reach for i in (1, 2))
        arm = ramp(0.03, 0.018, (arm_y - middle_y - 0.05).abs()) * ramp(-0.15, -0.1, arm_z) * (arm_z < place)
        frame = torch.maximum(frame, arm * (reach < nearest + 0.02) * (reach > 0))
    frame = frame * (shot["wears_glasses"] > 0.5)
    dark = who["glasses_dark"][..., None] ** 2.2 * 1.5
    return colour + (dark - colour) * (0.92 * frame)[:, None]


def _develop(linear: Tensor, shot: Column, rng: Sequence[np.random.Generator]) -> NDArray[np.uint8]:
    """Exposure, something in the way, blur, noise, JPEG."""
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
    """A scarf, a sleeve, a leaf: a soft-edged shape of one colour that covers a corner or the chin."""
    rows, columns = grid
    side = rng.uniform(-1.1, 1.1)
    centre = (rng.uniform(0.75, 1.05), side)
    angle = rng.uniform(0, np.pi)
    across, down = columns - centre[1], rows - centre[0]
    u = (across * np.cos(angle) + down * np.sin(angle)) / rng.uniform(0.3, 0.7)
    v = (down * np.cos(angle) - across * np.sin(angle)) / rng.uniform(0.25, 0.45)
    cover = ramp(1.1, 0.9, u * u + v * v)
    colour = torch.tensor(rng.uniform(0.1, 0.9, 3), dtype=torch.float32)[:, None, None]
    return image + (colour * (1 - 0.25 * v.clamp(-1, 1)) - image) * cover


def _blurred(image: Tensor, sigma: float) -> Tensor:
    reach = max(1, int(2.5 * sigma + 0.5))
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    padded = functional.pad(image[None], (reach,) * 4, mode="replicate")
    channels = image.shape[0]
    padded = functional.conv2d(padded, kernel.view(1, 1, -1, 1).expand(channels, -1, -1, -1), groups=channels)
    smooth: Tensor = functional.conv2d(padded, kernel.view(1, 1, 1, -1).expand(channels, -1, -1, -1), groups=channels)
    return smooth[0]
