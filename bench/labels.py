"""What cells are called, and what an attacker knows: labels are read and written here alone."""

from __future__ import annotations

import enum
from collections.abc import Mapping
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


# What a cell's defence and attack are called: `advface[epsilon=0.1]@algorithm~random`. A sweep's point stands in
# brackets, an attack's level behind an @, and what the harness made of a defence behind a ~.

_CANARY = "canary"
_REPLAY = "replay_"


def swept(label: str, point: Mapping[str, object]) -> str:
    """The label of one point of a sweep; the label itself where there is none."""
    return f"{label}[{','.join(f'{name}={value}' for name, value in point.items())}]" if point else label


def family(label: str) -> str:
    """`advface[epsilon=0.1]`, `advface~random` and `advface` are of one family: what `bench.toml` calls it."""
    return label.partition("[")[0].partition("@")[0].partition("~")[0]


def point(label: str) -> str:
    """`epsilon=0.1` of `advface[epsilon=0.1]`; empty where nothing was swept."""
    return label.partition("[")[2].partition("]")[0]


def at_level(label: str) -> tuple[str, str]:
    """`resrec@enrolment[enrolled=64]` as (`resrec`, `enrolment`); the second is empty where no level was asked for."""
    name, _, level = label.partition("@")
    return name, level.partition("[")[0]


def replay(attack: str) -> str:
    """The label of the replay of what an attack rebuilds."""
    return f"{_REPLAY}{attack}"


def replayed(label: str) -> str:
    """What a replay presents; another attack's label as it is."""
    return label.removeprefix(_REPLAY)


def control(defense: str, noise: str) -> str:
    """The label of a defence whose noise the harness replaced."""
    return f"{defense}~{noise}"


def canary(kind: str) -> str:
    """The label of a system that is known to be broken, or known to be safe."""
    return f"{_CANARY}~{kind}"


def harness_part(label: str) -> tuple[str, str]:
    """`advface~random` as (`advface`, `random`), `canary~open` as (`canary`, `open`); the second empty elsewhere."""
    defense, _, part = label.partition("~")
    return defense, part


def is_harness(label: str) -> bool:
    """Whether a control or canary: it takes no part in any ranking."""
    return bool(harness_part(label)[1])


def is_canary(label: str) -> bool:
    """Whether the system is known to be broken, or known to be safe."""
    return label.startswith(f"{_CANARY}~")
