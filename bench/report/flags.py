"""What the flags of a record mean, for readers who did not write the benchmark."""

from __future__ import annotations

#: By the flag's beginning, so that one may end in a figure or a name.
_MEANINGS = {
    "randomised defence": (
        "The same image protected twice gives two templates. An attacker who averages over several copies, or over the "
        "defence's randomness, may do better than the attacks shown."
    ),
    "batch-coupled defence": (
        "A template depends on the images that were protected in the same batch. Batches are seeded, and a pair's two "
        "images never share one; in service the batch mates would be others, and figures may differ."
    ),
    "a pair's two images were protected in one batch": (
        "Two images that are compared were protected together, which can tie their templates. Accuracy may be too high."
    ),
    "attack not converged": (
        "The attack was still improving when its training or search ended, so its figure is a lower bound on what it "
        "could rebuild: give it more epochs or iterations before calling a defence safe."
    ),
    "defense not converged": (
        "What the defence learns was still improving when its training ended: it may protect better, or worse, than "
        "it does here."
    ),
    "server not converged": (
        "The server's own recogniser was still improving when its training ended: accuracy may be higher than shown."
    ),
    "below the blind floor": (
        "The worst attack rebuilt less than a guess that never looked at the template. That is a reason to distrust "
        "the attack, or the metric, before praising the defence."
    ),
}


def meaning(flag: str) -> str:
    """The explanation of a flag; empty where it has none."""
    return next((text for start, text in _MEANINGS.items() if flag.startswith(start)), "")
