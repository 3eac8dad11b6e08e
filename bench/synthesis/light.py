"""Renders what a camera sees along its rays: head, neck, shoulders, long hair, glasses and a blurred background."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from bench.synthesis.head import Column, on_map, ramp, sample, span, surface_points, unit
from bench.synthesis.march import Quadric, gap, length
from bench.synthesis.surface import hair_colour, paint, skin_tone


@dataclass(frozen=True, eq=False)
class View:
    """A batch of heads in front of their cameras; P rays each."""

    who: Column
    shot: Column
    maps: Tensor  #: the heads, (B, 7, G, G)
    rotation: Tensor  #: rotation from head to camera, (B, 3, 3)
    plane: Tensor  #: where rays cross the plane through the head's centre, complex (B, P)
    rays: Tensor  #: unit directions in camera space, (B, 3, P)
    own: Tensor  #: the same in head space
    eye: Tensor  #: the camera's position in head space, (B, 3)
    depth: Tensor  #: where rays meet the head, (B, P)


def shade(view: View, rng: Sequence[np.random.Generator]) -> Tensor:
    """Linear light (B, 3, P)."""
    shot, rotation = view.shot, view.rotation
    light = unit(torch.cat((shot["light_x"], shot["light_y"], torch.full_like(shot["yaw"], 0.85)), 1))[..., None]
    points = view.eye[..., None] + view.own * view.depth[:, None]
    far = length(points)
    x, y = on_map(*(points / far[:, None]).unbind(1))
    hit = far - sample(view.maps[:, :1], x, y)[:, 0] < 0.12
    grain = torch.from_numpy(np.stack([r.uniform(-1, 1, far.shape[1]).astype(np.float32) for r in rng]))
    colour = _background(shot, view.plane, rng)
    at = span(hit)  # most of what follows is costly and only visible on the head
    head = _head(view, points[:, :, at], x[:, at], y[:, at], grain[:, at], rotation.transpose(1, 2) @ light)
    colour[:, :, at] = torch.where(hit[:, None, at], head, colour[:, :, at])
    depth = torch.where(hit, view.depth, torch.inf)
    nearest, at, lit = _below(view, depth, grain, light)
    colour[:, :, at] = torch.where((nearest < depth)[:, None, at], lit, colour[:, :, at])
    return _glasses(colour, nearest, view)


def _head(view: View, points: Tensor, x: Tensor, y: Tensor, grain: Tensor, light: Tensor) -> Tensor:
    """Linear light (B, 3, Q) of points on the head; `light` in head space, (B, 3, 1)."""
    found = sample(view.maps, x, y)
    normal, hollow = unit(found[:, 1:4]), found[:, 4]
    nz = points[:, 2] / length(points)
    albedo, gloss = paint(x, y, nz, found[:, 5], found[:, 6], view.who, view.shot, grain)
    shadow = _shadow(view.maps, points + 0.03 * normal, light)
    back = unit(view.eye[..., None] - points)
    return _lit(albedo**2.2, normal, light, view.rotation[:, 1], back, gloss, shadow, hollow, view.shot)


def _below(view: View, head: Tensor, grain: Tensor, light: Tensor) -> tuple[Tensor, slice, Tensor]:
    """Neck, shoulders and long hair: depth of the nearest (or the head's), the range of rays that hit one, and linear
    light (B, 3, Q) there.
    """
    who, shot = view.who, view.shot
    zero = torch.zeros_like(who["neck"])
    camera = torch.cat((zero, zero, shot["distance"]), 1)
    long = who["curtain_length"]
    neck = Quadric(
        view.rays, camera, torch.cat((0.10 * torch.sin(shot["yaw"]), zero - 1.15, zero - 0.20), 1),
        torch.cat((who["neck"], zero + 1.1, who["neck"]), 1),
    )  # fmt: skip
    body = Quadric(
        view.rays, camera, torch.cat((zero, zero - 2.3, zero - 0.3), 1),
        torch.cat((zero + 1.75 + who["neck"], zero + 0.85, zero + 0.75), 1),
    )  # fmt: skip
    curtain = Quadric(
        view.own, view.eye, torch.cat((zero, zero - 0.45 * long, zero - 0.42), 1),
        torch.cat((who["curtain_width"], zero + 0.55 + 0.62 * long, zero + 0.62), 1),
    )  # fmt: skip
    depths = torch.stack((neck.depth, body.depth, torch.where(who["curtain"] > 0.5, curtain.depth, torch.inf)))
    nearest = torch.minimum(head, depths.amin(0))
    at = span(nearest < head)
    fall = view.eye[..., None] + view.own[:, :, at] * curtain.depth[:, None, at].clamp_max(1e3)
    waves = (
        0.14 * torch.sin(38 * fall[:, 0] + 5 * torch.sin(3 * fall[:, 1]))
        + 0.16 * grain[:, at]
        + 0.1 * torch.sin(71 * fall[:, 0] - 4 * fall[:, 1])
    )
    strands = (hair_colour(who, shot) * (1 + waves[:, None])).clamp(0.012, 0.98) ** 2.2
    cloth = torch.stack([shot[f"cloth_{c}"] for c in "rgb"], 1) ** 2.2
    skin = ((skin_tone(who) * 0.93) ** 2.2) * 0.8
    of_neck, of_body, of_hair = depths[:, :, at, None].movedim(-1, 2)  # (B, 1, Q), to combine with vectors
    bare = of_neck <= of_body
    hairy = of_hair < torch.minimum(of_neck, of_body)
    normal = torch.where(bare, neck.normal(at), body.normal(at))
    normal = torch.where(hairy, view.rotation @ curtain.normal(at), normal)
    linear = torch.where(hairy, strands * 0.85, torch.where(bare, skin, cloth))
    # The head casts a shadow on what is below it.
    under = torch.full_like(head[:, at], 0.55)
    up = torch.tensor([0.0, 1.0, 0.0]).expand(len(head), 3)
    dull = torch.full_like(under, 0.05)
    return nearest, at, _lit(linear, normal, light, up, -view.rays[:, :, at], dull, under, under + 0.25, shot)


def _shadow(maps: Tensor, points: Tensor, light: Tensor) -> Tensor:
    """The fraction of light that reaches points (B, 3, P): 1 lit, 0 in the head's own shadow; soft with distance."""
    lit = torch.ones_like(points[:, 0])
    for far in (0.06, 0.14, 0.26, 0.45, 0.75):
        above = gap(maps, points + light * far)
        lit = torch.minimum(lit, (0.5 + above / (0.35 * far)).clamp(0, 1))
    return lit


def _lit(
    albedo: Tensor, normal: Tensor, light: Tensor, up: Tensor, view: Tensor, gloss: Tensor, shadow: Tensor,
    hollow: Tensor, shot: Column,
) -> Tensor:  # fmt: skip
    """Wrapped diffuse light, a sky that is brighter above, and a highlight; linear (B, 3, P)."""
    toward = (normal * light).sum(1)
    wrap = 0.22
    direct = ((toward + wrap) / (1 + wrap)).clamp_min(0)
    red = (((toward + 0.45) / 1.45).clamp_min(0) - direct) * 0.25  # light that passed through skin
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
    """Out-of-focus background colours, linear (B, 3, P)."""
    one, two = (torch.stack([shot[f"{name}_{c}"] for c in "rgb"], 1) for name in ("back", "back2"))
    blobs = torch.from_numpy(np.stack([r.uniform(0, 1, (1, 5, 5)).astype(np.float32) for r in rng]))
    at = torch.view_as_real(plane)[:, None] / 3.0
    share = functional.grid_sample(blobs, at, mode="bicubic", padding_mode="border", align_corners=True)[:, :, 0]
    return (one + (two - one) * share.clamp(0, 1)).clamp(0.01, 1) ** 2.2


def _glasses(colour: Tensor, nearest: Tensor, view: View) -> Tensor:
    """Glasses: frames on a plane in front of the eyes, and their arms; drawn where they are nearer than the face."""
    who, shot, maps, own, eye = view.who, view.shot, view.maps, view.own, view.eye
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
