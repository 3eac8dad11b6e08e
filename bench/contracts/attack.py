"""The contract of attacks: what an attacker learns, and what it reconstructs from stolen templates."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
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
    """One batch of stolen data."""

    values: Tensor = field(repr=False)  #: templates (B, C, h, w), or embeddings (B, D)
    subjects: tuple[str, ...] = field(default=(), repr=False)  #: whose templates these are, by the database's index
    rows: tuple[int, ...] = field(default=(), repr=False)  #: their positions in the database
    others: Iterable[Tensor] = field(default=(), repr=False)  #: `copies` - 1 more templates per image, same shape
    guesses: tuple[Tensor, ...] = field(default=(), repr=False)  #: images (B, 3, H, W) by each of the attack's `parts`


@dataclass(frozen=True, kw_only=True)
class Attack(ABC):
    """An attacker with a stolen database. The oracle enforces `knowledge`: it refuses calls above it."""

    leaks: ClassVar[Literal["template", "embedding"]] = "template"
    asks_server: ClassVar[bool] = False  #: steals templates, but also uses embeddings or similarities
    asks_stolen: ClassVar[bool] = False  #: learns from the stolen values themselves (`Oracle.stolen`)
    yardstick: ClassVar[bool] = False  #: a floor or reference for other attacks; canaries do not test it
    wants_affine: ClassVar[bool] = False  #: only works if the client is an affine map

    @property
    def depends_on_server(self) -> bool:
        """Whether the result depends on the server's recognition, and not only on its templates."""
        end = self.level >= Knowledge.ENROLMENT or self.level >= Knowledge.SERVER
        return end and (self.asks_server or self.leaks == "embedding")

    @property
    @abstractmethod
    def level(self) -> Knowledge:
        """The declared level of knowledge."""

    @property
    def control(self) -> bool:
        """Whether it is a control, from which something was taken: no broken canary is to be opened. Default: no."""
        return False

    @property
    def asks_surrogate(self) -> bool:
        """Whether `Oracle.surrogate` is asked for: the harness then fits one on the attacker's faces. Default: no."""
        return False

    @property
    def parts(self) -> tuple[str, ...]:
        """Labels in `bench.toml` of attacks whose reconstructions it is given (`Leak.guesses`). Default: none.

        They must be among `run.attacks`, need no higher level, and steal the same values. Their trained states and
        reconstructions are shared with their own cells. Images that a part leaves out are left out.
        """
        return ()

    def shown(self, scores: Tensor) -> Tensor:
        """What the oracle shows of the scores of logins (see `bench.toolkit.shown_scores`). Default: all of them."""
        return scores


@dataclass(frozen=True, kw_only=True)
class ReconstructionAttack(Attack):
    """Reconstructs images from templates.

    An attack that exists at several levels has a field `knowledge` with their names; `bench.toml` can then refer to it
    as `NAME@LEVEL`.
    """

    #: Share of the gap between blind floor and perfect image that it must close on a broken system, to be trusted.
    required: ClassVar[float] = 0.5

    @property
    def base(self) -> ReconstructionAttack | None:
        """The attack from which training continues; it is trained once for all that share it. Default: none."""
        return None

    def does_as_its_base(self, defense: Defense) -> bool:
        """Whether it rebuilds the same images as its `base` from what this defence stores, so that both share them.

        Default: never.
        """
        return False

    @property
    def copies(self) -> int:
        """The number of templates stolen per image if the defence is randomised. Default: only the stored one."""
        return 1

    @property
    def coupled(self) -> bool:
        """Whether an image's reconstruction depends on the other images in its batch. Default: no.

        If not, the harness halves a batch that does not fit into the device's memory.
        """
        return False

    def subset(self, defense: Defense) -> int | None:
        """The number of images to attack if all would take too long; None: all. Default: all.

        The harness selects them: enrolled images of genuine pairs, spread over the folds, the same for every attack.
        """
        return None

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the attacker's own public faces and from the oracle. Default: learns nothing."""
        return None

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Replaces `fit` if there is a `base`: continues from its state. Default: returns it unchanged."""
        return start

    def prepare(self, oracle: Oracle, state: State | None) -> Any:
        """Converts the stored state to the argument of `reconstruct`. Default: the state itself."""
        return state

    @abstractmethod
    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Images (B, 3, H, W) from a batch of stolen values; the harness clamps them to [0, 1]."""


@dataclass(frozen=True, kw_only=True)
class LinkageAttack(Attack):
    """Identifies the person behind a template, without a picture: scores it against a gallery of named people.

    As with a `ReconstructionAttack`, a field `knowledge` makes it known as `NAME@LEVEL`.
    """

    asks_server: ClassVar[bool] = True
    #: Share of those whom a login names that it must name on a broken system, to be trusted.
    required: ClassVar[float] = 0.5

    @property
    def base(self) -> LinkageAttack | None:
        """The attack from which training continues; it is trained once for all that share it. Default: none."""
        return None

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the attacker's own public faces and from the oracle. Default: learns nothing."""
        return None

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Replaces `fit` if there is a `base`: continues from its state. Default: returns it unchanged."""
        return start

    @abstractmethod
    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """Similarity (B, N) of each stolen value to each face of the gallery; higher is more similar.

        `leak.rows` are the indices of the targets, for `Oracle.similarity`.
        """


@dataclass(frozen=True, kw_only=True)
class TraitAttack(Attack):
    """Infers traits (age, glasses, a beard) of the person behind a template.

    The same attack on unprotected features says how much there was to find. One with `parts`, which reads the pictures
    that these rebuilt, is compared with itself on the original photographs instead.
    """

    #: Share of what it has above chance on clean features that it must keep on a broken system, to be trusted.
    required: ClassVar[float] = 0.5

    @abstractmethod
    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Learns from the attacker's own public faces, whose `traits` are 1 (yes), 0 (no) or NaN (unknown)."""

    @abstractmethod
    def infer(self, oracle: Oracle, state: State, leak: Leak, rng: ImageRng) -> Mapping[str, Tensor]:
        """The probability (B,) of yes, by trait, for each trait that it learned."""


@dataclass(frozen=True, kw_only=True)
class ReplayAttack(Attack):
    """Presents the result of a reconstruction attack to the system, which compares it with its stored templates."""

    attack: str  #: the name in `bench.toml` of the reconstruction attack to present
    present: Literal["image", "template"] = "image"

    @property
    def level(self) -> Knowledge:
        """Injecting stolen templates requires no further knowledge; presenting images requires the attack's level."""
        return Knowledge.BLIND
