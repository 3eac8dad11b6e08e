"""Draws the traits of a person and the conditions of a photograph from seeds.

A person is a mapping of traits. Lengths are in units of about 10 cm; positions on the head are in the head map's
coordinates, which are close to radians as seen from the head's centre (`bench.synthesis.head`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from bench.seeds import derive_seed

Traits = Mapping[str, float]
Poses = Literal["frontal", "profile"]

#: Trait: mean, standard deviation. Drawn from a normal distribution, truncated at 2.2 standard deviations.
_SHAPE: dict[str, tuple[float, float]] = {
    "head_width": (0.77, 0.045),
    "head_height": (1.13, 0.045),
    "head_depth": (0.94, 0.04),
    "roundness": (2.25, 0.13),  # exponent of the superellipsoid: 2 is an ellipsoid, larger is squarer
    "jaw_taper": (0.17, 0.07),
    "jaw_corner": (0.0, 0.04),
    "chin_size": (0.095, 0.04),
    "chin_width": (0.15, 0.04),
    "chin_y": (-1.03, 0.045),
    "cheekbone": (0.04, 0.035),
    "cheekbone_y": (-0.17, 0.05),
    "cheek": (-0.01, 0.035),  # hollow or full
    "forehead": (0.0, 0.035),
    "forehead_y": (0.52, 0.06),
    "brow_ridge": (0.025, 0.03),
    "eye_x": (0.332, 0.020),
    "eye_y": (0.03, 0.022),
    "eye_width": (0.158, 0.017),
    "eye_open": (0.42, 0.10),  # relative to the half width
    "eye_tilt": (0.05, 0.12),
    "eye_fold": (0.5, 0.5),  # distance of the lid's crease
    "eye_depth": (0.085, 0.025),
    "eye_bag": (0.25, 0.35),
    "iris": (0.48, 0.03),
    "brow_y": (0.19, 0.04),  # above the eye
    "brow_arch": (0.04, 0.04),
    "brow_slope": (0.02, 0.08),
    "brow_thick": (0.035, 0.015),
    "brow_length": (0.185, 0.03),
    "brow_gap": (0.0, 0.04),
    "brow_dark": (0.66, 0.16),
    "nose_y": (-0.368, 0.024),
    "nose_width": (0.100, 0.024),
    "nose_tip": (0.115, 0.03),
    "nose_tip_size": (0.074, 0.012),
    "nose_bridge": (0.08, 0.028),
    "nose_bridge_width": (0.066, 0.014),
    "nose_hump": (0.0, 0.022),
    "nose_up": (0.0, 0.02),
    "nostril": (0.62, 0.2),
    "mouth_y": (-0.668, 0.020),  # its position below the nose moves with the nose
    "mouth_width": (0.258, 0.028),
    "lip_upper": (0.040, 0.017),
    "lip_lower": (0.054, 0.019),
    "lip_bow": (0.3, 0.4),
    "lip_curve": (0.0, 0.022),
    "lip_fill": (0.022, 0.012),
    "muzzle": (0.05, 0.032),
    "philtrum": (0.4, 0.3),
    "ear": (0.16, 0.04),
    "ear_size": (0.19, 0.025),
    "skin_red": (0.0, 0.035),
    "skin_yellow": (0.0, 0.03),
    "freckles": (-0.4, 0.6),
    "neck": (0.46, 0.04),
}  # fmt: skip

_IRIS = ((0.16, 0.09, 0.05), (0.28, 0.17, 0.09), (0.36, 0.36, 0.20), (0.32, 0.44, 0.56), (0.42, 0.47, 0.50))
_HAIR = (
    (0.055, 0.050, 0.050), (0.13, 0.085, 0.06), (0.26, 0.17, 0.10), (0.40, 0.20, 0.10), (0.66, 0.50, 0.30),
    (0.52, 0.51, 0.50),
)  # fmt: skip
_NOISE = 9  #: control points per side of the individual relief


@dataclass(frozen=True)
class Shot:
    """How one photograph was taken. Angles in radians; `age` in years is the age shown."""

    values: Traits


def _cut(rng: np.random.Generator, mean: float, deviation: float) -> float:
    return float(mean + deviation * np.clip(rng.normal(), -2.2, 2.2))


def sample_person(*names: object) -> dict[str, float]:
    """The traits of the person with this name; the same in every photograph."""
    rng = np.random.default_rng(derive_seed("synthetic person", *names))
    person = {name: _cut(rng, *spread) for name, spread in _SHAPE.items()}
    male = float(rng.random() < 0.5)
    # Faces cluster by types only a little: the traits above vary independently, and these shift them together.
    lean = (male - 0.5) * rng.uniform(0.5, 1.5)
    for name, share in (
        ("jaw_taper", -0.08), ("jaw_corner", 0.05), ("chin_size", 0.03), ("brow_ridge", 0.03), ("head_width", 0.03),
        ("brow_thick", 0.014), ("brow_y", -0.025), ("eye_open", -0.05), ("lip_upper", -0.010), ("lip_lower", -0.010),
        ("nose_width", 0.012), ("nose_tip", 0.02), ("neck", 0.10), ("brow_dark", 0.1), ("head_height", 0.02),
    ):  # fmt: skip
        person[name] += share * lean
    tone = float(rng.beta(1.1, 1.3))
    person |= {"male": male, "skin": tone, "age": float(rng.uniform(19, 62))}
    dark = tone > 0.42
    kind = int(rng.choice(6, p=(0.55, 0.35, 0.08, 0.0, 0.0, 0.02) if dark else (0.12, 0.24, 0.28, 0.12, 0.22, 0.02)))
    shade = rng.normal(1, 0.12)
    for channel, value in zip("rgb", _HAIR[kind], strict=True):
        person[f"hair_{channel}"] = float(np.clip(value * shade, 0.02, 0.9))
    iris = int(rng.choice(5, p=(0.75, 0.2, 0.05, 0, 0) if dark else (0.18, 0.22, 0.18, 0.30, 0.12)))
    for channel, value in zip("rgb", _IRIS[iris], strict=True):
        person[f"iris_{channel}"] = float(np.clip(value * rng.normal(1, 0.12), 0.03, 0.9))
    person |= _hair(rng, male)
    person["glasses"] = float(rng.random() < 0.22)
    person["glasses_round"] = float(rng.uniform(2.0, 5.0))
    person["glasses_width"] = float(rng.uniform(0.25, 0.31))
    person["glasses_height"] = float(rng.uniform(0.17, 0.25))
    person["glasses_rim"] = float(rng.choice([0.009, 0.014, 0.021]))
    person["glasses_dark"] = float(rng.choice([0.04, 0.08, 0.35]))
    person["lipstick"] = float((1 - male) * (rng.random() < 0.35) * rng.uniform(0.4, 1))
    person["lip_red"] = float(rng.normal(0.0, 0.05))
    for index in range(4):
        person[f"mole_x{index}"] = float(rng.uniform(-0.75, 0.75))
        person[f"mole_y{index}"] = float(rng.uniform(-0.95, 0.55))
        person[f"mole_size{index}"] = float(rng.choice([0, rng.uniform(0.010, 0.024)]))
    for index in range(_NOISE * _NOISE):
        person[f"relief{index}"] = float(rng.normal())
        person[f"mottle{index}"] = float(rng.normal())
    return person


def _hair(rng: np.random.Generator, male: float) -> dict[str, float]:
    """Style: thickness and length of hair, hairline, and beard."""
    style = rng.choice(4, p=(0.10, 0.22, 0.58, 0.10) if male else (0.0, 0.04, 0.16, 0.80))  # bald, buzz, short, long
    hair = {
        "hair_amount": float(style > 0),
        "hair_thick": (0.0, 0.03, rng.uniform(0.06, 0.17), rng.uniform(0.08, 0.17))[style],
        "hairline": float(rng.normal(0.66, 0.06)) + (0.06 if style == 1 else 0),
        "hair_part": float(rng.uniform(-0.5, 0.5)),
        "fringe": float((rng.random() < (0.2 if male else 0.35)) * (style > 1) * rng.uniform(0.15, 0.42)),
        "widow": float(rng.normal(0.02, 0.05)),
        "temples": float(rng.normal(0.0, 0.08)),
        "curl": float((rng.random() < 0.3) * rng.uniform(0.3, 1)),
        "curtain": float(style == 3),
        "curtain_width": float(rng.uniform(0.80, 1.05)),
        "curtain_length": float(rng.uniform(0.7, 1.5)),
    }
    beard = rng.choice(5, p=(0.50, 0.18, 0.12, 0.10, 0.10)) if male else 0  # none, stubble, full, moustache, goatee
    hair |= {
        "stubble": float(rng.uniform(0.05, 0.22) if male and beard == 0 else 0.45 if beard == 1 else 0.0),
        "beard": float(rng.uniform(0.75, 0.95) if beard == 2 else 0.0),
        "moustache": float(rng.uniform(0.7, 0.95) if beard in (2, 3, 4) else 0.0),
        "goatee": float(rng.uniform(0.7, 0.95) if beard == 4 else 0.0),
    }
    return hair


def sample_shot(
    person: Traits, *names: object, pose: Poses = "frontal", age: float | None = None, calm: float = 1.0
) -> dict[str, float]:
    """The conditions of one photograph.

    Args:
        pose: `frontal` turns the head slightly, `profile` by 60 to 90 degrees to either side.
        age: the age shown, in years; None: the person's own, within two years.
        calm: scales all variation; 0 is a studio portrait.
    """
    rng = np.random.default_rng(derive_seed("synthetic shot", *names))

    def spread(deviation: float, most: float = 2.2) -> float:
        return float(calm * deviation * np.clip(rng.normal(), -most, most))

    shot = {
        "yaw": spread(0.26),
        "pitch": spread(0.11),
        "roll": spread(0.07),
        "distance": float(rng.uniform(7, 16)),
        "smile": float(np.clip(rng.normal(0.35, 0.38) * calm, -0.3, 1.1)),
        "open": float(calm * (rng.random() < 0.35) * rng.uniform(0.2, 1.0)),
        "brow_raise": spread(0.018),
        "lids": float(1 + calm * np.clip(rng.normal(0, 0.12), -0.35, 0.25)),
        "gaze_x": spread(0.12, 1.8),
        "gaze_y": spread(0.05, 1.8),
        "light_x": spread(0.8),
        "light_y": float(0.35 + spread(0.35, 1.5)),
        "light": float(1 + spread(0.12)),
        "ambient": float(np.clip(0.45 + spread(0.12), 0.2, 0.7)),
        "warm": spread(0.07),
        # A camera adapts its exposure: dark skin appears lighter than its albedo, pale skin darker.
        "exposure": float((1.0 + spread(0.10)) * (0.82 + 0.75 * person["skin"])),
        "age": float(np.clip(person["age"] + rng.uniform(-2, 2) if age is None else age, 18, 80)),
        "hair_day": spread(0.05),
        "wears_glasses": person["glasses"] * float(rng.random() < 0.85),
        "blur": float(calm * min(abs(rng.normal(0, 0.32)), 0.7)),
        "noise": float(calm * abs(rng.normal(0, 0.010))),
        "jpeg": float(rng.integers(45, 96)),
        "occlusion": float(calm > 0 and rng.random() < 0.06),
        "shift_x": spread(0.015),
        "shift_y": spread(0.015),
        "tilt": spread(0.012),
        "zoom": spread(0.012),
        "seed": float(rng.integers(1 << 24)),
    }
    if pose == "profile":
        shot["yaw"] = float(np.deg2rad(rng.uniform(60, 90)) * rng.choice([-1, 1]))
        shot["light_x"] = float(0.6 * shot["light_x"] + 0.7 * np.sign(shot["yaw"]))
    for name, most in (("cloth", 0.30), ("back", 0.14), ("back2", 0.14)):
        grey = rng.uniform(0.08, 0.85)
        for channel in "rgb":
            shot[f"{name}_{channel}"] = float(np.clip(grey + rng.uniform(-most, most), 0.03, 0.92))
    return shot


def control_grid(values: NDArray[np.float32]) -> NDArray[np.float32]:
    """(B, 81) of `relief` or `mottle` as (B, 9, 9)."""
    return values.reshape(len(values), _NOISE, _NOISE)
