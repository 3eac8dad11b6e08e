"""The labels of cells and the attacker's levels of knowledge; the only module that parses or builds labels."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from typing import Literal

PluginKind = Literal["defense", "attack", "dataset", "recognizer"]

KINDS: tuple[PluginKind, ...] = ("defense", "attack", "dataset", "recognizer")

_WORDS: dict[PluginKind, str] = {
    "defense": "defence", "attack": "attack", "dataset": "dataset", "recognizer": "recogniser"
}  # fmt: skip


KeyKnowledge = Literal["none", "own", "leaked"]  #: what an attacker knows of the keys of templates


def kind_name(kind: PluginKind) -> str:
    """The name of a kind of plugin in messages."""
    return _WORDS[kind]


class Knowledge(enum.Enum):
    """What the attacker knows. A partial order: `a <= b` says that `b` includes all of `a`.

            blind < database < encoder < algorithm < enrolment < whitebox
                    database < server                          < whitebox

    `server` and `encoder` are not comparable: each knows one end of the system. Two levels that are not comparable are
    neither `<=` nor `>=` each other, so `not a < b` does not mean `a >= b`. To sort, use `place`.
    """

    BLIND = 0  #: public faces only; never looks at the template
    DATABASE = 1  #: + the stolen templates, and nothing of the system that made them
    SERVER = 2  #: `database` + the server's network with gradients; never saw a client
    ENCODER = 3  #: `database` + black-box E: (image, clean feature) pairs; the AdvFace paper's attacker
    ALGORITHM = 4  #: + the defence's algorithm and settings, to run a copy; not its learned state or secrets
    ENROLMENT = 5  #: + can enrol own images and read their templates back
    WHITEBOX = 6  #: + the whole pipeline with gradients; not the server's fresh randomness

    def __str__(self) -> str:
        return self.name.lower()

    @property
    def place(self) -> int:
        """A rank for sorting that respects the order; of two levels that are not comparable, `server` comes first."""
        return int(self.value)

    def __le__(self, other: Knowledge) -> bool:
        return self is other or any(self <= below for below in _BELOW.get(other, ()))

    def __lt__(self, other: Knowledge) -> bool:
        return self is not other and self <= other

    def __ge__(self, other: Knowledge) -> bool:
        return other <= self

    def __gt__(self, other: Knowledge) -> bool:
        return other < self


#: The levels directly below each one.
_BELOW = {
    Knowledge.DATABASE: (Knowledge.BLIND,),
    Knowledge.SERVER: (Knowledge.DATABASE,),
    Knowledge.ENCODER: (Knowledge.DATABASE,),
    Knowledge.ALGORITHM: (Knowledge.ENCODER,),
    Knowledge.ENROLMENT: (Knowledge.ALGORITHM,),
    Knowledge.WHITEBOX: (Knowledge.ENROLMENT, Knowledge.SERVER),
}

#: The chain of levels that every table has; the others have a column only if an attack ran there.
LADDER = (Knowledge.ENCODER, Knowledge.ALGORITHM, Knowledge.ENROLMENT, Knowledge.WHITEBOX)


# The labels of a cell's defence and attack, as in `advface[epsilon=0.1]@algorithm~random`: a sweep's point is in
# brackets, an attack's level follows @, +key says that the victims' keys leak, and a variant that the harness made of a
# defence follows ~.

_CANARY = "canary"
_REPLAY = "replay_"
_KEY = "+key"


def swept(label: str, point: Mapping[str, object]) -> str:
    """The label of one point of a sweep; the plain label if the point is empty."""
    return f"{label}[{','.join(f'{name}={value}' for name, value in point.items())}]" if point else label


def stacked(label: str, parts: Sequence[str]) -> str:
    """The label of a stack of parts: with the points of those that are swept, as `noisy[scale=0.1]`."""
    points = [point(part) for part in parts if point(part)]
    return f"{label}[{','.join(points)}]" if points else label


def family(label: str) -> str:
    """The family of a label, as named in `bench.toml`: `advface` for `advface[epsilon=0.1]` and `advface~random`."""
    return label.partition("[")[0].partition("@")[0].partition("+")[0].partition("~")[0]


def point(label: str) -> str:
    """`epsilon=0.1` of `advface[epsilon=0.1]`; empty without a sweep."""
    return label.partition("[")[2].partition("]")[0]


def at_level(label: str) -> tuple[str, str]:
    """Splits `resrec@enrolment[enrolled=64]` into (`resrec`, `enrolment`); the second is empty without a level."""
    name, _, level = label.partition("@")
    return name, level.partition("[")[0]


def with_key(label: str) -> tuple[str, bool]:
    """Splits `key_inversion+key[steps=9]` into (`key_inversion[steps=9]`, True): whether the key leaks."""
    name, bracket, rest = label.partition("[")
    return name.removesuffix(_KEY) + bracket + rest, name.endswith(_KEY)


def leaked_key(attack: str) -> str:
    """The label of the same attack with the victim's key."""
    return f"{attack}{_KEY}"


def replay(attack: str) -> str:
    """The label of the replay of an attack's reconstructions."""
    return f"{_REPLAY}{attack}"


def replayed(label: str) -> str:
    """The attack that a replay presents; any other label is returned unchanged."""
    return label.removeprefix(_REPLAY)


def control(defense: str, noise: str) -> str:
    """The label of a control, a defence whose noise the harness replaced."""
    return f"{defense}~{noise}"


def canary(kind: str) -> str:
    """The label of a canary, a system that is known to be broken or known to be safe."""
    return f"{_CANARY}~{kind}"


def harness_part(label: str) -> tuple[str, str]:
    """Splits `advface~random` into (`advface`, `random`), `canary~open` likewise; the second is empty otherwise."""
    defense, _, part = label.partition("~")
    return defense, part


def is_harness(label: str) -> bool:
    """Whether the label is a control or canary, which takes no part in rankings."""
    return bool(harness_part(label)[1])


def is_canary(label: str) -> bool:
    """Whether the label is a canary."""
    return label.startswith(f"{_CANARY}~")
