"""Attacks: what an attacker learns, and what it makes of stolen templates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from torch import Tensor

from bench.contracts.defense import Defense, State
from bench.contracts.faces import FaceSet
from bench.contracts.oracle import Oracle
from bench.contracts.rng import ImageRng, Rng
from bench.labels import Knowledge

# -------------------------------------------------------------------------------------------------------- attacks


@dataclass(frozen=True, eq=False)
class Leak:
    """What was stolen: one batch of it."""

    values: Tensor = field(repr=False)  #: templates (B, C, h, w), or embeddings (B, D)
    subjects: tuple[str, ...] = field(default=(), repr=False)  #: the database's index of whose they are
    rows: tuple[int, ...] = field(default=(), repr=False)  #: their places in the database
    others: Iterable[Tensor] = field(default=(), repr=False)  #: `copies` - 1 more templates of each image, shaped so


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """Someone with a stolen database. `knowledge` is enforced: the oracle refuses what lies above it."""

    leaks: ClassVar[Literal["template", "embedding"]] = "template"
    asks_server: ClassVar[bool] = False  #: steals templates, but asks for embeddings or similarities too
    wants_affine: ClassVar[bool] = False  #: only works where the client's step is an affine map

    @property
    def depends_on_server(self) -> bool:
        """Whether what the attack makes depends on how the server recognises, and not on its templates alone."""
        return self.level >= Knowledge.ENROLMENT and (self.asks_server or self.leaks == "embedding")

    @property
    @abstractmethod
    def level(self) -> Knowledge:
        """The declared level of knowledge."""

    @property
    def asks_surrogate(self) -> bool:
        """Whether `Oracle.surrogate` is asked for: the harness then fits one on the attacker's faces. Default: no."""
        return False


@dataclass(frozen=True, kw_only=True)
class ReconstructionAttack(Attack):
    """Rebuilds images from templates.

    One that exists at several levels has a field `knowledge` with their names; `bench.toml` then also knows it as
    `NAME@LEVEL`.
    """

    @property
    def base(self) -> ReconstructionAttack | None:
        """The attack that this one goes on from: learned once, whoever else shares it. Default: starts from nothing."""
        return None

    @property
    def copies(self) -> int:
        """Templates stolen of each image, where the server protects anew each time. Default: the one that is stored."""
        return 1

    @property
    def coupled(self) -> bool:
        """Whether what is rebuilt of one image depends on the others in its batch. Default: no.

        If not, a batch that is too large for the device's memory is taken in halves.
        """
        return False

    def subset(self, defense: Defense) -> int | None:
        """How many images are attacked, where all of them would take too long; None: all. Default: all.

        The harness chooses them: enrolled images of genuine pairs, spread over the folds, the same for every attack.
        """
        return None

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the attacker's own public faces and from what the oracle allows. Default: nothing."""
        return None

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Instead of `fit`, where there is a `base`: goes on from what that learned. Default: leaves it as it is."""
        return start

    def prepare(self, oracle: Oracle, state: State | None) -> Any:
        """Turns the stored state into what `reconstruct` wants. Default: the state itself."""
        return state

    @abstractmethod
    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Images (B, 3, H, W) from a batch of stolen values; the harness clamps them to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class LinkageAttack(Attack):
    """Says whose a template is, without a picture: how alike it is to each face of a gallery of named people.

    As of a `ReconstructionAttack`, a field `knowledge` makes it known as `NAME@LEVEL`.
    """

    asks_server: ClassVar[bool] = True

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the attacker's own public faces and from what the oracle allows. Default: nothing."""
        return None

    @abstractmethod
    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """(B, N): the likeness of each stolen value to each face of the gallery; more is more alike.

        `leak.rows` says which of the targets these are, for `Oracle.similarity`.
        """


@dataclass(frozen=True, kw_only=True)
class ReplayAttack(Attack):
    """Presents a reconstruction attack's result to the system, which compares it with what it has stored."""

    attack: str  #: the name, in `bench.toml`, of the reconstruction attack whose images are presented
    present: Literal["image", "template"] = "image"

    @property
    def level(self) -> Knowledge:
        """Injecting what was stolen takes nothing more; for images the wrapped attack's level counts."""
        return Knowledge.BLIND
