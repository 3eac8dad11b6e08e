"""What cells are called, and what an attacker knows: labels are read and written here alone."""

from __future__ import annotations

import enum
from typing import Literal

PluginKind = Literal["defense", "attack", "dataset", "recognizer"]

KINDS: tuple[PluginKind, ...] = ("defense", "attack", "dataset", "recognizer")

_WORDS: dict[PluginKind, str] = {
    "defense": "defence", "attack": "attack", "dataset": "dataset", "recognizer": "recogniser"
}  # fmt: skip


def word(kind: PluginKind) -> str:
    """What to call a kind of plugin in prose."""
    return _WORDS[kind]


class Knowledge(enum.IntEnum):
    """What the attacker knows; each level includes those before it (design: Kerckhoffs's ladder)."""

    BLIND = 0  #: public faces only; never looks at the template
    ENCODER = 1  #: + black-box E: (image, clean feature) pairs; the AdvFace paper's attacker
    ALGORITHM = 2  #: + the defence's algorithm and settings, to run an own copy; not its learned state or secrets
    ENROLMENT = 3  #: + may enrol own images and read their templates back
    WHITEBOX = 4  #: + the whole pipeline with gradients; not the server's fresh randomness

    def __str__(self) -> str:
        return self.name.lower()
