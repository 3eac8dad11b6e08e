"""Classifies how closely a cell follows the paper's protocol: `same protocol`, `stand-in` or `impossible here`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from bench.labels import PluginKind, at_level, replayed
from bench.paper.layouts import PAIRS, ROLES
from bench.paper.settings import PaperSettings
from bench.settings.model import Settings
from bench.settings.registry import find

Label = Literal["same protocol", "stand-in", "impossible here", "failed", "not run"]
MARKS: dict[str, str] = {
    "same protocol": "=", "stand-in": "s", "impossible here": "x", "failed": "!", "not run": "?",
}  # fmt: skip


_OFFICIAL = {"lfw": ["lfw"], "cfp_fp": ["cfp"]}  #: loaders of the authors' own layout
_TUNED = "FaceNet's weights as configured; the paper fine-tunes its own on CASIA-WebFace"


@dataclass(frozen=True)
class Status:
    """A label and its reason: what differs, what is missing and how to get it, or what went wrong."""

    label: Label
    detail: str = ""


def judge(settings: Settings, paper: PaperSettings, role: str, defense: str, attack: str, pairs: int | None) -> Status:
    """Compares the run with the paper's section 5.1.

    Args:
        pairs: number of verification pairs judged, if known.
    """
    differs = [*_data(settings, paper, role, pairs), *_recognizer(settings, paper), *_faces(settings)]
    differs += [d for d in _parameters(settings.defenses[defense], "shadow") if d not in defense]  # of the sweep
    wrapped = replayed(attack)
    if wrapped:
        differs += _parameters(settings.attacks[wrapped], "attack")
        if level := at_level(wrapped)[1]:
            differs.append(f"the attacker knows more: {level}")
    return Status("stand-in", "; ".join(differs)) if differs else Status("same protocol", _TUNED)


def _is(plugin: Any, kind: PluginKind, *names: str) -> bool:
    """Whether it is one of the built-in plugins of these names."""
    return isinstance(plugin, tuple(find(kind, name, "the paper's protocol") for name in names))


def _data(settings: Settings, paper: PaperSettings, role: str, pairs: int | None) -> list[str]:
    label = paper.datasets.get(role, "")
    dataset = settings.datasets[label]
    if not _is(dataset, "dataset", "insightface", *_OFFICIAL.get(role, [])):
        return [f"data: {label}, not {ROLES[role]}"]
    if pairs != PAIRS[role]:
        return [f"data: {label}, {'unknown' if pairs is None else pairs} of {PAIRS[role]} pairs"]
    run = settings.run
    fewer = {f"{run.pairs} pairs": run.pairs, f"{run.images} images under attack": run.images}
    return [f"data: the first {what} of {label}" for what, count in fewer.items() if count is not None]


def _recognizer(settings: Settings, paper: PaperSettings) -> list[str]:
    label = paper.recognizer
    recognizer = settings.recognizers[label]
    if _is(recognizer, "recognizer", "facenet") and recognizer.normalisation == "unit":  # type: ignore[attr-defined]
        return []
    height, width = recognizer.image_size
    return [f"recogniser: {label} {height}x{width}, not FaceNet 160x160 on [0, 1]"]


def _faces(settings: Settings) -> list[str]:
    """The paper trains shadows on CASIA-WebFace and attackers on CelebA, both large sets of photographs."""
    found = []
    for side, source, paper in (
        ("shadow", settings.run.public_defender, "casia_webface"),
        ("attacker", settings.run.public_attacker, "celeba"),
    ):
        own = settings.public.get(source)
        whole = _is(own, "dataset", "folder") and not own.limit and not settings.run.public_limit  # type: ignore[union-attr]
        if not whole or source != paper:
            found.append(f"{side}'s faces: {source if source != 'rest' else 'people in no pair'}, not {paper}")
    return found


def _parameters(plugin: Any, who: str) -> list[str]:
    """Section 5.1.2, for plugins with such a parameter (for the noise: those that have both)."""
    wanted: dict[str, float] = {}
    if hasattr(plugin, "alpha") and hasattr(plugin, "iterations"):
        wanted = {"alpha": 0.2, "epsilon": 0.2, "iterations": 40}
    differs = [f"{name}={getattr(plugin, name)}" for name, value in wanted.items() if getattr(plugin, name) != value]
    rate = getattr(getattr(plugin, "training", None), "learning_rate", 1e-4)
    return differs + ([f"{who}'s learning rate {rate:g}, not 1e-4"] if rate != 1e-4 else [])
