"""Checks of an attack on traits: it asks for what it declares, and finds a trait that is easy to see."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from bench.checks.scene import Open, Scene
from bench.checks.verdict import Wrong, stored_state
from bench.contracts import FaceSet, Leak, Oracle, Rng, TraitAttack
from bench.errors import KnowledgeError

_RIGHT = 0.75  #: fraction of the answers to be right
_TRAIT = "negative"


def half_negative(faces: FaceSet) -> FaceSet:
    """The faces, every second one as a photographic negative; that is their only trait."""
    negative = np.arange(len(faces)) % 2 == 1
    pixels = faces.pixels[faces.rows]
    pixels = np.where(negative[:, None, None, None], 255 - pixels, pixels)
    return replace(faces, pixels=pixels, rows=np.arange(len(faces)), traits={_TRAIT: negative.astype(np.float32)})


def check_traits(attack: TraitAttack, scene: Scene) -> str:
    """Learns from faces half of which are negatives, and must recognise those among other people's.

    An attack with `parts` is given the original images as what they rebuilt.

    Raises:
        Wrong: it asks for more than its level allows, returns no probabilities, or does not recognise them.
    """
    system, test = scene.system(Open()), half_negative(scene.test)
    try:
        fitting = Oracle(attack.level, system, Rng(0))
        state = stored_state(attack.fit(fitting, half_negative(scene.public), Rng(0).child("fit")))
        assert state is not None
        with torch.no_grad():
            images = test.batch(slice(None))
            guesses = tuple(images for _ in attack.parts)
            leak = Leak(system.encode(images), rows=tuple(range(len(test))), guesses=guesses)
        found = attack.infer(Oracle(attack.level, system, Rng(0)), state, leak, Rng(0).images(test.names))
    except KnowledgeError as error:
        raise Wrong(f"what level '{attack.level}' allows", str(error), "Declare the higher level.") from error
    made = found.get(_TRAIT)
    if made is None or tuple(made.shape) != (len(test),) or not bool(((made >= 0) & (made <= 1)).all()):
        raise Wrong(
            f"{len(test)} probabilities of trait {_TRAIT!r}",
            "none" if made is None else f"{tuple(made.shape)}, {made.flatten()[:3].tolist()} ...",
            "Return one in [0, 1] per stolen value.",
        )
    right = int(((made > 0.5).cpu().numpy() == (test.traits[_TRAIT] == 1)).sum())
    if right < _RIGHT * len(test):
        raise Wrong(
            "negatives told from photographs in most templates where nothing is protected",
            f"{right} of {len(test)} right",
            "Check that 1 means yes, and that infer treats templates as fit does.",
        )
    return f"{right} of {len(test)} right"
