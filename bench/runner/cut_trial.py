"""Measures what an attack rebuilds from the unprotected features of a recogniser: for `recognizer cuts --try`."""

from __future__ import annotations

from typing import Any

from bench.runner.held_out import hold_out, nobody, protected, scored
from bench.runner.standalone import Parts
from bench.runner.standalone_attack import Attacker
from bench.runner.standalone_files import Protected
from bench.settings.model import Settings


def try_cut(settings: Settings, seed: int = 0) -> dict[str, Any]:
    """Trains the settings' only attack on public faces, and scores it on other people's.

    Args:
        settings: one recogniser, a defence that learns nothing, and one reconstruction attack.

    Returns:
        JSON-able: means with intervals (`ssim`, `psnr_db`, and `blind_ssim`, `blind_psnr_db` of the mean face), how
        many public faces there were, and an account of the training.

    Raises:
        UserError: there are too few public faces, or the network cannot be cut there.
        NotApplicable: the attack has nothing to try on such features.
    """
    parts = Parts(settings, seed)
    ((label, attack),) = settings.attacks.items()
    defender, others = parts.public(nobody(parts))
    learning, held = hold_out(parts, others)
    stored = Protected(protected(parts, parts.system(None), held), held.names, None, {})
    images, info = Attacker(parts, None, defender, learning).reconstruct(label, attack, stored)  # type: ignore[arg-type]
    _, figures = scored(parts, images, held, held.names, learning)
    return {**figures, "public_faces": {"learning": len(learning), "held_out": len(held)}, "attack": info}
