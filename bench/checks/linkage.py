"""Checks of an attack that names people: its scores are finite, and better than chance where nothing is protected."""

from __future__ import annotations

import torch

from bench.checks.scene import Open, Scene
from bench.checks.verdict import Wrong, stored_state
from bench.contracts import Leak, LinkageAttack, Oracle, Rng
from bench.errors import KnowledgeError


def check_linkage(attack: LinkageAttack, scene: Scene) -> str:
    """Scores (B, N) must be finite, and better than chance where nothing is protected.

    An attack with `parts` is given the original images as what they rebuilt.

    Raises:
        Wrong: they are not, or the attack asks for more than its level allows.
    """
    system, names = scene.system(Open()), scene.names()
    people = len(names) // 2
    with torch.no_grad():
        templates = system.encode(scene.images())[0::2]
        stored = system.embed(templates)
    taken = templates.cpu().numpy() if attack.asks_stolen else None
    oracle = Oracle(attack.level, system, Rng(0), stored, None, taken)
    fitting = Oracle(attack.level, system, Rng(0), None, None, taken)
    state = stored_state((attack.base or attack).fit(fitting, scene.public, Rng(0).child("fit")))
    if attack.base is not None:
        state = stored_state(attack.adapt(fitting, scene.public, Rng(0).child("adapt"), state))
    gallery = scene.test.subset(range(1, 2 * people, 2))
    originals = scene.images()[0::2]  # in place of what its parts would rebuild
    leak = Leak(templates, rows=tuple(range(people)), guesses=tuple(originals for _ in attack.parts))
    try:
        scores = attack.score(oracle, state, leak, gallery, Rng(0).images(names[0::2]))
    except KnowledgeError as error:
        raise Wrong(f"what level '{attack.level}' allows", str(error), "Declare the higher level.") from error
    if tuple(scores.shape) != (people, people) or not torch.isfinite(scores).all():
        raise Wrong(f"finite scores ({people}, {people})", str(tuple(scores.shape)), "Return one row per stolen value.")
    right = int((scores.argmax(1) == torch.arange(people)).sum())
    if right <= people // 3:
        raise Wrong(
            "most people linked where nothing is protected",
            f"{right} of {people}",
            "A higher score must mean more similar.",
        )
    return f"{right} of {people} linked"
