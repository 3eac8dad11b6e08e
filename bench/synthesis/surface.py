"""The colours of the head, per point of its map: skin, eyes, brows, lips, beard, hair and age."""

from __future__ import annotations

import torch
from torch import Tensor

from bench.synthesis.head import Column, ramp, span, spot

# Skin tones from light to dark, sRGB.
_TONES = torch.tensor(
    [[0.93, 0.77, 0.69], [0.87, 0.67, 0.56], [0.74, 0.53, 0.41], [0.52, 0.35, 0.26], [0.34, 0.22, 0.165]]
)


def skin_tone(who: Column) -> Tensor:
    """(B, 3, 1) sRGB."""
    place = who["skin"].clamp(0, 0.999) * (len(_TONES) - 1)
    low = place.long().clamp_max(len(_TONES) - 2)[:, 0]
    share = place - low[:, None]
    tone = _TONES[low] * (1 - share) + _TONES[low + 1] * share
    red, yellow = who["skin_red"], who["skin_yellow"]
    return (tone + torch.cat((0.5 * red, -0.4 * red, -0.4 * red - 0.8 * yellow), 1))[..., None].clamp(0.05, 0.97)


def _colour(source: Column, name: str) -> Tensor:
    """(B, 3, 1)."""
    return torch.stack([source[f"{name}_{channel}"] for channel in "rgb"], 1)


def _mix(base: Tensor, colour: Tensor, share: Tensor) -> Tensor:
    """Blends `colour` (B, 3, 1 or P) over `base` (B, 3, P) with the weight `share` (B, P)."""
    return base + (colour - base) * share[:, None]


def mouth_place(who: Column, shot: Column) -> tuple[Tensor, Tensor, Tensor]:
    """Height of the lips' line, half its width, and the rise of its corners; (B, 1) each."""
    y = who["mouth_y"] + 0.35 * (who["nose_y"] + 0.36)
    width = who["mouth_width"] * (1 + 0.16 * shot["smile"] - 0.08 * shot["open"])
    return y, width, who["lip_curve"] + 0.055 * shot["smile"]


def hair_colour(who: Column, shot: Column) -> Tensor:
    """Hair colour (B, 3, 1) sRGB, greying with age."""
    grey = ramp(38.0, 72.0, shot["age"])[..., None] * 0.85
    return _colour(who, "hair") * (1 - grey) + torch.tensor([0.62, 0.61, 0.60])[None, :, None] * grey


def paint(
    x: Tensor, y: Tensor, nz: Tensor, hair: Tensor, mottle: Tensor, who: Column, shot: Column, grain: Tensor
) -> tuple[Tensor, Tensor]:
    """Albedo (B, 3, P), sRGB, and gloss (B, P) of head points.

    Args:
        x, y: map coordinates, (B, P).
        nz: the forward component of the direction, -1 to 1.
        hair, mottle: the head map's channels.
        grain: noise in [-1, 1], (B, P), for pores and strands.
    """
    front = ramp(-0.1, 0.15, nz)
    side = x.abs()
    age = ((shot["age"] - 22) / 45).clamp(0, 1.2)
    tone = skin_tone(who)
    albedo = tone * (1 + (0.035 * mottle + 0.035 * grain)[:, None])
    # Blood: cheeks, nose, ears; less visible on dark skin.
    nose_y = who["nose_y"]
    flush = spot((((side - 0.45) / 0.2) ** 2) + ((y + 0.3) / 0.18) ** 2)
    flush = flush + 0.8 * spot(((x / 0.1) ** 2) + ((y - nose_y) / 0.09) ** 2) + 0.6 * ramp(1.3, 1.45, side)
    albedo = albedo * (1 + flush[:, None] * torch.tensor([0.03, -0.07, -0.06])[None, :, None])
    mouth_y, mouth_width, _ = mouth_place(who, shot)
    at = span((front > 0) & (side < 0.95))
    albedo[:, :, at] *= _aged(x[:, at], y[:, at], mottle[:, at], who, shot, age, front[:, at])[:, None]
    for index in range(4):
        size = who[f"mole_size{index}"]
        if bool((size > 2e-3).any()):
            apart = ((x - who[f"mole_x{index}"]) ** 2 + (y - who[f"mole_y{index}"]) ** 2) / size.clamp_min(1e-3) ** 2
            at = span((apart < 4) & (size > 2e-3))
            albedo[:, :, at] *= 1 - 0.6 * (spot(apart[:, at]) * (size > 2e-3))[:, None]
    strands = hair_colour(who, shot)
    at = span((front > 0) & (y < 0.05))
    beard = _beard(x[:, at], y[:, at], who, shot, grain[:, at]) * front[:, at]
    albedo[:, :, at] = _mix(albedo[:, :, at], strands * 0.8 + 0.03, beard)
    at = span((side < 1.35 * mouth_width + 0.05) & ((y - mouth_y).abs() < 0.3))
    albedo[:, :, at], wet_lips = _lips(albedo[:, :, at], x[:, at], y[:, at], who, shot, front[:, at])
    gloss = 0.16 + 0.10 * spot((x / 0.3) ** 2)
    gloss[:, at] += 0.25 * wet_lips
    at = span((side < 0.3) & ((y - nose_y).abs() < 0.2))
    albedo[:, :, at] = _nose(albedo[:, :, at], side[:, at], y[:, at], who, tone)
    at = span((front > 0) & ((y - who["eye_y"] - 0.2).abs() < 0.4) & (side < 0.8))
    brows = _brows(x[:, at], y[:, at], who, shot, grain[:, at]) * front[:, at]
    albedo[:, :, at] = _mix(albedo[:, :, at], strands * 0.85, brows)
    beside = (side - who["eye_x"]).abs() / who["eye_width"]
    at = span((front > 0) & (beside < 1.2) & ((y - who["eye_y"]).abs() < 2 * who["eye_width"]))
    albedo[:, :, at], wet = _eyes(albedo[:, :, at], x[:, at], y[:, at], who, shot, front[:, at], tone)
    gloss[:, at] += 1.6 * wet
    # Hair last, because it covers everything.
    thick = who["hair_thick"].clamp(0, 0.09) / 0.09
    over = ramp(0.25, 0.75, hair + 0.10 * grain) * (0.55 + 0.45 * thick)
    at = span(over > 0)
    px, py = x[:, at], y[:, at]
    streak = 0.16 * torch.sin(63 * px + 9 * torch.sin(3 * py)) + 0.12 * torch.sin(97 * px + 31 * py)
    streak = streak + 0.16 * grain[:, at]
    albedo[:, :, at] = _mix(albedo[:, :, at], strands * (1 + streak[:, None]), over[:, at])
    gloss = gloss + over * (0.05 - 0.10 * who["curl"])
    gloss = gloss * (1 - 3.6 * hair * (1 - hair)).clamp_min(0)  # no highlights on the step from skin to hair
    return albedo.clamp(0.012, 0.98), gloss


def _aged(x: Tensor, y: Tensor, mottle: Tensor, who: Column, shot: Column, age: Tensor, front: Tensor) -> Tensor:
    """The factor by which freckles and wrinkles darken the skin."""
    waves = torch.sin(61 * x + 3 * torch.sin(43 * y)) * torch.sin(67 * y + 3 * torch.sin(37 * x + 9 * mottle))
    spots = ramp(0.62, 0.75, waves) * front * ramp(0.75, 0.2, x.abs())
    freckled = 1 - spots * (0.28 * who["freckles"].clamp(0, 1) + 0.03 * age)
    return freckled * (1 - _wrinkles(x, y, who, shot, age) * front)


def _nose(albedo: Tensor, side: Tensor, y: Tensor, who: Column, tone: Tensor) -> Tensor:
    """Nostrils, and the shade under the tip and beside the wings."""
    nose_y, width = who["nose_y"], who["nose_width"]
    nostril = spot((((side - 0.55 * width) / 0.032) ** 2) + ((y - nose_y + 0.058) / 0.020) ** 2)
    under = spot((side / (1.1 * width)) ** 2 + ((y - nose_y + 0.085) / 0.03) ** 2)
    wing = spot(((side - width - 0.035) / 0.02) ** 2 + ((y - nose_y + 0.01) / 0.06) ** 2)
    shaded = albedo * (1 - 0.28 * under - 0.22 * wing)[:, None]
    return _mix(shaded, tone * 0.22, (0.5 + who["nostril"]).clamp(0.3, 0.95) * nostril)


def _wrinkles(x: Tensor, y: Tensor, who: Column, shot: Column, age: Tensor) -> Tensor:
    side = x.abs()
    mouth_y, mouth_width, _ = mouth_place(who, shot)
    smile = shot["smile"].clamp_min(0)
    # From the wings of the nose to the sides of the mouth.
    t = ((who["nose_y"] - y) / (who["nose_y"] - mouth_y + 0.05)).clamp(0, 1)
    fold = who["nose_width"] + 0.045 + t * (mouth_width + 0.035 - who["nose_width"])
    nasolabial = spot(((side - fold) / 0.022) ** 2) * ramp(-0.02, 0.25, t) * ramp(1.0, 0.8, t)
    forehead = (
        ramp(0.2, 1.0, torch.sin(y * 50 + 1.4 * torch.cos(4 * x) + 5 * who["eye_bag"]))
        * ramp(0.30, 0.38, y)
        * ramp(0.75, 0.6, y)
        * ramp(0.55, 0.25, side)
    )
    out = side - who["eye_x"] - who["eye_width"]
    crow = (
        ramp(0.2, 0.9, torch.sin(52 * (y - who["eye_y"]) + 14 * (y - who["eye_y"]) * out))
        * ramp(0.01, 0.05, out)
        * ramp(0.17, 0.06, out)
        * ramp(0.12, 0.05, (y - who["eye_y"]).abs())
    )
    bag = spot(((y - who["eye_y"] + 0.095 - 1.6 * (side - who["eye_x"]) ** 2) / 0.014) ** 2) * ramp(
        0.15, 0.08, (side - who["eye_x"]).abs()
    )
    circles = spot((((side - who["eye_x"] + 0.03) / 0.11) ** 2) + ((y - who["eye_y"] + 0.06) / 0.045) ** 2)
    marionette = (
        spot(((side - mouth_width - 0.02) / 0.016) ** 2)
        * ramp(mouth_y, mouth_y - 0.05, y)
        * ramp(mouth_y - 0.2, mouth_y - 0.1, y)
    )
    bags = who["eye_bag"].clamp(0, 1)
    return (
        nasolabial * (0.05 + 0.22 * age + 0.12 * smile)
        + 0.12 * age * age * forehead
        + crow * (0.17 * age + 0.08 * smile)
        + bag * (0.10 * bags + 0.22 * age)
        + circles * (0.12 + 0.12 * bags)
        + 0.20 * age * marionette
    ).clamp(0, 0.6)


def _beard(x: Tensor, y: Tensor, who: Column, shot: Column, grain: Tensor) -> Tensor:
    side = x.abs()
    mouth_y, width, _ = mouth_place(who, shot)
    cheek_line = -0.42 - 0.35 * ramp(0.75, 0.2, side) + 0.4 * ramp(0.7, 1.0, side)
    jaw = ramp(0.03, -0.08, y - cheek_line) * ramp(1.25, 1.1, side)
    above = ramp(0.05, 0.0, (y - mouth_y - 0.07).abs() - 0.035) * ramp(width + 0.07, width - 0.02, side)
    chin = ramp(mouth_y - 0.08, mouth_y - 0.14, y) * ramp(0.30, 0.2, side)
    around = ramp(0.055, 0.02, (side - width - 0.055).abs()) * ramp(mouth_y + 0.1, mouth_y, y)
    cover = torch.maximum(jaw * who["beard"], above * who["moustache"])
    cover = torch.maximum(cover, torch.maximum(chin, around * ramp(mouth_y - 0.4, mouth_y - 0.2, y)) * who["goatee"])
    cover = torch.maximum(cover, torch.maximum(jaw, above) * who["stubble"] * (0.7 + 0.5 * grain))
    return (cover * (1 + 0.18 * grain)).clamp(0, 0.95)


def _lips(albedo: Tensor, x: Tensor, y: Tensor, who: Column, shot: Column, front: Tensor) -> tuple[Tensor, Tensor]:
    mouth_y, width, rise = mouth_place(who, shot)
    s = (x / width).clamp(-1.3, 1.3)
    across = (1 - s * s).clamp_min(0)
    line = mouth_y + rise * s * s - 0.3 * rise
    gap = 0.085 * shot["open"] * across
    age = ((shot["age"] - 30) / 45).clamp(0, 1)
    bow = 1 - who["lip_bow"] * spot((x / 0.035) ** 2) * 0.6
    upper = who["lip_upper"].clamp_min(0.010) * (1 - 0.3 * age) * across.sqrt() * bow * 1.6
    lower = who["lip_lower"].clamp_min(0.015) * (1 - 0.25 * age) * across.sqrt() * 1.5
    top, bottom = line + gap * 0.35 + upper, line - gap - lower
    soft = 0.010
    lip = ramp(-soft, soft, top - y) * ramp(-soft, soft, y - bottom) * ramp(1.02, 0.9, s.abs()) * front
    tone = skin_tone(who)
    red = who["lip_red"][..., None]
    lip_colour = (
        tone * torch.tensor([0.80, 0.52, 0.53])[None, :, None] + red * torch.tensor([1.0, -0.6, -0.4])[None, :, None]
    )
    painted = torch.tensor([0.62, 0.12, 0.16])[None, :, None]
    lip_colour = lip_colour + (painted - lip_colour) * (0.75 * who["lipstick"])[..., None]
    albedo = _mix(albedo, lip_colour.clamp(0.03, 0.95), lip * 0.9)
    inside = (
        ramp(-0.006, 0.006, line + gap * 0.35 - y)
        * ramp(-0.006, 0.006, y - line + gap)
        * ramp(0.02, 0.2, gap / 0.085)
        * front
    )
    inside = inside * ramp(0.98, 0.85, s.abs())
    teeth = (
        ramp(0.0, 0.012, line + gap * 0.30 - y) * ramp(0.040, 0.030, line + gap * 0.30 - y) * ramp(0.95, 0.7, s.abs())
    )
    albedo = _mix(albedo, torch.tensor([0.16, 0.05, 0.05])[None, :, None], inside)
    albedo = _mix(
        albedo, torch.tensor([0.86, 0.83, 0.76])[None, :, None], inside * teeth * ramp(-0.1, 0.4, shot["smile"] + 0.2)
    )
    seam = spot(((y - line) / 0.009) ** 2) * ramp(1.08, 0.95, s.abs()) * ramp(0.3, 0.05, shot["open"]) * front
    corner = spot((((x.abs() - width) / 0.02) ** 2) + ((y - mouth_y - 0.7 * rise) / 0.018) ** 2)
    return _mix(albedo, tone * 0.32, (0.9 * seam + 0.55 * corner).clamp(0, 1)), lip * (1 - inside)


def _brows(x: Tensor, y: Tensor, who: Column, shot: Column, grain: Tensor) -> Tensor:
    side = x.abs()
    inner = 0.105 + who["brow_gap"]
    s = (side - inner) / (2 * who["brow_length"])
    middle = who["eye_y"] + who["brow_y"] + shot["brow_raise"] + who["brow_slope"] * (s - 0.4) * 0.6
    middle = middle + who["brow_arch"] * (1 - ((s - 0.62) / 0.62) ** 2)
    thick = who["brow_thick"].clamp_min(0.012) * (1.05 - 0.65 * s.clamp(0, 1))
    mask = ramp(1.0, 0.55, (y - middle).abs() / thick.clamp_min(1e-3)) * ramp(-0.05, 0.08, s) * ramp(1.03, 0.85, s)
    return (mask * (who["brow_dark"] + 0.22 * grain)).clamp(0, 0.97)


def _eyes(
    albedo: Tensor, x: Tensor, y: Tensor, who: Column, shot: Column, front: Tensor, tone: Tensor
) -> tuple[Tensor, Tensor]:
    sign = torch.where(x < 0, -1.0, 1.0)
    half = who["eye_width"]
    away = (x.abs() - who["eye_x"]) / half  # -1 at the nose, 1 at the temple
    tilt = who["eye_tilt"]
    up = (y - who["eye_y"]) / half - tilt * away
    age = ((shot["age"] - 40) / 40).clamp(0, 1)
    opened = who["eye_open"].clamp(0.2, 0.6) * (shot["lids"] - 0.12 * shot["smile"].clamp_min(0) - 0.15 * age)
    across = (1 - away * away).clamp_min(0)
    lid = opened * across * (1 - 0.25 * away) * 1.08
    floor = -opened * 0.72 * across * (1 + 0.15 * away)
    edge = 0.07
    inside = ramp(-edge, edge, lid - up) * ramp(-edge, edge, up - floor) * ramp(1.02, 0.94, away.abs()) * front
    # The eyeball: white, iris, pupil, shaded by the upper lid.
    look_x = away * sign - shot["gaze_x"]
    look_y = up - shot["gaze_y"] - 0.05
    distance = (look_x * look_x + look_y * look_y).sqrt()
    iris = who["iris"]
    ball = torch.tensor([0.86, 0.83, 0.80])[None, :, None] * (1 - 0.22 * away.abs()[:, None] ** 2)
    colour = _colour(who, "iris") * (0.75 + 0.55 * (distance / iris).clamp(0, 1))[:, None]
    ball = _mix(ball.expand_as(albedo), colour, ramp(iris + 0.05, iris - 0.05, distance))
    ball = _mix(ball, torch.full((1, 3, 1), 0.05), 0.7 * spot(((distance - iris) / 0.07) ** 2))
    ball = _mix(ball, torch.full((1, 3, 1), 0.02), ramp(0.42, 0.32, distance / iris))
    ball = ball * (1 - 0.55 * ramp(0.32, 0.0, lid - up))[:, None]
    albedo = _mix(albedo, ball, inside)
    # Lashes and the lid's edge, the crease above, the lower lid's rim.
    shadow = tone * 0.36
    within = ramp(1.15, 0.95, away.abs()) * front
    lashes = spot(((up - lid - 0.02) / (0.055 + 0.03 * (1 - who["male"]))) ** 2) * within
    albedo = _mix(albedo, torch.full((1, 3, 1), 0.045), (0.85 * lashes * (0.75 + 0.2 * away)).clamp(0, 1))
    crease = lid * 0.8 + 0.20 + 0.32 * who["eye_fold"].clamp(0, 1.2) * across.sqrt()
    fold = spot(((up - crease) / 0.06) ** 2) * within * ramp(0.0, 0.4, who["eye_fold"])
    albedo = _mix(albedo, shadow, 0.6 * fold)
    albedo = _mix(albedo, shadow, 0.35 * spot(((up - floor + 0.04) / 0.05) ** 2) * within)
    glint = spot((((look_x - 0.14) / 0.09) ** 2) + ((look_y - 0.16) / 0.09) ** 2)
    return _mix(albedo, torch.ones(1, 3, 1), 0.85 * glint * inside), 0.15 * inside
