"""Estimates what one plugin costs on this machine: its training, and the time per image."""

from __future__ import annotations

from dataclasses import dataclass

from bench.contracts import ReconstructionAttack
from bench.durations import duration
from bench.forecast.costs import costs
from bench.labels import PluginKind
from bench.plan import Task, plan
from bench.settings.model import Settings

_LEARNED = {"defense": ("defense_state", "server_state"), "attack": ("attack_state",)}


@dataclass(frozen=True)
class Cost:
    """Estimated by timing."""

    learning_s: float
    image_s: float  #: to protect or to reconstruct an image
    image_bytes: int  #: of a template or of a reconstructed image

    def text(self) -> str:
        """Formatted for the terminal."""
        learns = (
            f"trains for about {duration(self.learning_s)}" if self.learning_s >= 0.5 else "needs hardly any training"
        )
        return f"{learns}; {1000 * self.image_s:,.1f} ms and {self.image_bytes / 1000:,.0f} kB per image"


def plugin_cost(settings: Settings, kind: PluginKind, label: str) -> Cost | None:
    """The cost of a defence or an attack under these settings; None if it occurs in no cell.

    An attack is timed on the first defence to which it applies.
    """
    made = ("templates",) if kind == "defense" else ("reconstruction", "traits")
    tasks = [task for task in plan(settings).tasks() if (task.defense if kind == "defense" else task.attack) == label]
    first = next((task for task in tasks if task.kind in made), None)
    if first is None:
        return None
    needed = [task for task in tasks if task.kind in _LEARNED[kind] and _belongs(task, first)]
    *learned, own = costs(settings, [*needed, first], [])
    judged, _ = settings.datasets[first.scene.dataset].size()
    images = max(1, min(judged, settings.run.images or judged))
    attack = settings.attacks.get(label)
    if kind == "attack" and isinstance(attack, ReconstructionAttack):
        images = min(images, attack.subset(settings.defenses[first.defense]) or images)
    return Cost(sum(item.seconds for item in learned), own.seconds / images, round(own.bytes / images))


def _belongs(task: Task, first: Task) -> bool:
    return task.defense == first.defense and task.scene == first.scene and task.seed == first.seed
