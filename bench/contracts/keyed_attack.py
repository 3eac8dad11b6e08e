"""The contract of attacks on the templates of keyed defences: what they may ask, learn and return."""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, Protocol

from torch import Tensor

from bench.contracts.attack import Attack
from bench.contracts.defense import State
from bench.contracts.keyed import Key, KeyedDefense
from bench.contracts.rng import Rng
from bench.errors import KnowledgeError
from bench.labels import KeyKnowledge, Knowledge


@dataclass(frozen=True, eq=False)
class Stolen:
    """Stolen records of one application."""

    templates: Tensor = field(repr=False)  #: (N, ...)
    auxiliary: Tensor | None = field(repr=False, default=None)  #: (N, ...); None if there is none, or it did not leak


@dataclass(frozen=True, eq=False)
class OwnPeople:
    """What an attacker who learns has of his own: photographs of people who are not judged, through the recogniser."""

    embeddings: Tensor = field(repr=False)  #: (N, D), unit length
    people: tuple[str, ...] = field(repr=False)  #: (N,) whose embedding it is

    def __len__(self) -> int:
        return len(self.people)


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyedService:
    """The running system behind a `KeyOracle`: its other customers, and what it does for anybody who enrols."""

    public: Tensor  #: embeddings (N, D) of the attacker's own faces
    others: Callable[[], Tensor]  #: stolen templates (M, ...) of other people of the same application
    enrol: Callable[[Tensor], Tensor]  #: what it stores for own embeddings (B, D), under the attacker's own enrolment
    login: Callable[[int, Tensor], Tensor]  #: scores (B,) of own embeddings that claim to be a stolen template's owner


class Enrol(Protocol):
    """Enrols own people in one application of the attacked system, and reads the records back."""

    def __call__(self, rows: Sequence[int], application: int, copy: int) -> Stolen:
        """Records of the own embeddings in these rows."""


class KeyOracle:
    """What an attack on keyed templates may ask; the counterpart of `Oracle`.

    All attackers know the width of the embeddings.

    Attributes:
        queries: the number of calls per method, and in `METHOD_templates` or `METHOD_logins` what they were about.
        learned: what the attack's `fit` returned.
    """

    def __init__(
        self,
        knows: KeyKnowledge,
        defense: KeyedDefense,
        width: int,
        leaked: Callable[[int], Key],
        rng: Rng,
        level: Knowledge = Knowledge.ALGORITHM,
        service: KeyedService | None = None,
        show: Callable[[Tensor], Tensor] = lambda scores: scores,
        *,
        enrol: Enrol | None = None,
        auxiliary: Callable[[int], Tensor | None] | None = None,
        records: Callable[[int], Tensor] | None = None,
        learned: State | None = None,
    ) -> None:
        """An oracle for one attack on one defence.

        Args:
            leaked: the key of the stolen template with this number.
            service: for attacks with `needs_service`.
            show: what the service shows of scores, `Attack.shown`.
            enrol: the attacked system, for attacks at level `enrolment` that learn.
            auxiliary: the auxiliary data of the stolen template with this number; None: it did not leak.
            records: further templates (R, ...) of the person behind it, from other applications; None: there are none.
        """
        self.knows, self.width, self.level, self.learned = knows, width, level, learned
        self.queries: Counter[str] = Counter()
        self._defense, self._leaked, self._rng, self._service = defense, leaked, rng, service
        self._show, self._enrol, self._auxiliary, self._records = show, enrol, auxiliary, records

    @property
    def defense(self) -> KeyedDefense:
        """The scheme with its settings, which by Kerckhoffs's principle everybody knows."""
        self.queries["defense"] += 1
        return self._defense

    def own_key(self, number: int) -> Key:
        """`own` or `leaked`: a key that the attacker was given for himself.

        Raises:
            KnowledgeError: the attack declared that it has no key.
        """
        if self.knows == "none":
            raise KnowledgeError("own_key() needs key = 'own', but this attack declared 'none'")
        self.queries["own_key"] += 1
        return self._defense.draw_key(self._rng.child("own key", number), self.width)

    def key(self, number: int) -> Key:
        """`leaked`: the key of the stolen template with this number.

        Raises:
            KnowledgeError: the attack did not declare that the key leaks.
        """
        if self.knows != "leaked":
            raise KnowledgeError(f"key() needs key = 'leaked', but this attack declared '{self.knows}'; use NAME+key")
        self.queries["key"] += 1
        return self._leaked(number)

    def auxiliary(self, number: int) -> Tensor | None:
        """What the scheme stores beside the stolen template with this number, (...); None if it stores nothing.

        Raises:
            KnowledgeError: the attack did not declare that auxiliary data leak.
        """
        if self._auxiliary is None:
            raise KnowledgeError("auxiliary() needs steals_auxiliary = True, which this attack did not declare")
        self.queries["auxiliary"] += 1
        return self._auxiliary(number)

    def records(self, number: int) -> Tensor:
        """Further stolen templates (R, ...) of the person behind this one: one less than the attack's `records`.

        Raises:
            KnowledgeError: the attack did not declare that it steals several.
        """
        if self._records is None:
            raise KnowledgeError("records() needs records above 1, but this attack declared one template per person")
        self.queries["records"] += 1
        return self._records(number)

    def enrol_own(self, rows: Sequence[int], application: int = 0, copy: int = 0) -> Stolen:
        """`enrolment`: records of own people in an application, under the keys that the system gives them.

        Args:
            rows: of the `OwnPeople` that `fit` was given.
            application: 0 is the attacked one, 1 the one that its templates are linked with; others are further ones.
            copy: another number enrols the same embedding once more, as another record.

        Raises:
            KnowledgeError: the attack's level is lower.
        """
        self._entered("enrol_own")
        if self._enrol is None:
            raise KnowledgeError("enrol_own() is for fit(): its rows are those of the own people given there")
        self.queries["enrol_own_templates"] += len(rows)
        return self._enrol(rows, application, copy)

    @property
    def public(self) -> Tensor:
        """Embeddings (N, D) of the attacker's own faces, by the recogniser that everybody knows."""
        self.queries["public"] += 1
        return self._running("public").public

    def others(self) -> Tensor:
        """Stolen templates (M, ...) of other people of the same application; whose they are is not known."""
        found = self._running("others").others()
        self.queries["others_templates"] += len(found)
        return found

    def enrol(self, embeddings: Tensor) -> Tensor:
        """`enrolment`: what the service stores for own embeddings (B, D), read back.

        The attacker enrols as a customer: where everybody has the same key, these templates are under the victims' key,
        otherwise under keys of his own.
        """
        self._entered("enrol")
        self.queries["enrol_templates"] += len(embeddings)
        return self._running("enrol").enrol(embeddings)

    def login(self, number: int, embeddings: Tensor) -> Tensor:
        """`enrolment`: the score (B,) of a login with each own embedding (B, D), claiming a stolen template's identity.

        The client, which is not the attacker's, protects the probe.
        """
        self._entered("login")
        self.queries["login_logins"] += len(embeddings)
        return self._show(self._running("login").login(number, embeddings))

    def _entered(self, method: str) -> None:
        if not self.level >= Knowledge.ENROLMENT:
            raise KnowledgeError(f"{method}() needs level 'enrolment', but this attack declared '{self.level}'")

    def _running(self, method: str) -> KeyedService:
        if self._service is None:
            raise KnowledgeError(f"{method} needs the running system: declare needs_service = True")
        return self._service


@dataclass(frozen=True, kw_only=True)
class KeyedAttack(Attack):
    """An attack on the templates of keyed defences; it does not run on feature maps."""

    #: A defence that it must break, to be trusted: its plugin's name, and parameters. None: not tested.
    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = None
    required: ClassVar[float] = 0.5  #: the cosine or AUC that it must reach there
    #: A defence that tells it nothing without the victim's key, where the harness's `sealed` does not apply.
    sealed: ClassVar[tuple[str, Mapping[str, Any]] | None] = None
    logs_in: ClassVar[bool] = False  #: reads scores, which every scheme gives away: not tested on a safe one
    needs_service: ClassVar[bool] = False  #: uses own faces, other customers' templates, own enrolments or logins
    steals_auxiliary: ClassVar[bool] = False  #: also steals what the scheme stores beside its templates

    @property
    def records(self) -> int:
        """The number of templates stolen per person, each from another application. Default: one."""
        return 1

    @property
    def learns(self) -> bool:
        """Whether it overrides `fit`."""
        return type(self).fit is not KeyedAttack.fit

    def fit(self, oracle: KeyOracle, own: OwnPeople, rng: Rng) -> State | None:
        """Learns from own people, before anything is stolen; the result is `oracle.learned` later.

        Default: learns nothing.

        Raises:
            NotApplicable: the attack does not fit this scheme; the cell is skipped.
        """
        return None

    @property
    def level(self) -> Knowledge:
        """The scheme and its settings."""
        return Knowledge.ALGORITHM

    @property
    @abstractmethod
    def knows(self) -> KeyKnowledge:
        """What it knows of keys."""


@dataclass(frozen=True, kw_only=True)
class InversionAttack(KeyedAttack):
    """Recovers embeddings from templates. `NAME+key` in `bench.toml` is the same attack with the leaked key."""

    needs_key: ClassVar[bool] = True  #: breaks what it must break (`breaks`) only with the victim's key

    key: Literal["own", "leaked"] = "own"  #: without the victim's key: with one of the attacker's own

    @property
    def knows(self) -> KeyKnowledge:
        """As declared."""
        return self.key

    def key_of(self, oracle: KeyOracle, number: int) -> Key:
        """The key to use for a stolen template: its own if that leaks, otherwise the attacker's."""
        return oracle.key(number) if self.key == "leaked" else oracle.own_key(number)

    @abstractmethod
    def invert(self, oracle: KeyOracle, templates: Tensor, rng: Rng) -> Tensor:
        """Embeddings (B, D) from stolen templates (B, ...); the harness scales them to length 1.

        The number of a template is its position. A zero row means that nothing was recovered.

        Raises:
            NotApplicable: the attack does not fit this scheme; the cell is skipped.
        """


@dataclass(frozen=True, kw_only=True)
class CrossmatchAttack(KeyedAttack):
    """Scores pairs of templates of two applications, without any key: are they of one person?"""

    @property
    def knows(self) -> KeyKnowledge:
        """No key."""
        return "none"

    def score(self, defense: KeyedDefense, first: Tensor, second: Tensor) -> Tensor:
        """Scores (A, B) of templates (A, ...) of one application against templates (B, ...) of another.

        Higher: more likely of one person. Override this, or `link` in an attack that learns or steals more.

        Raises:
            NotApplicable: the attack does not fit this scheme; the cell is skipped.
        """
        raise NotImplementedError(f"{type(self).__name__} overrides neither score nor link")

    def link(self, oracle: KeyOracle, first: Stolen, second: Stolen) -> Tensor:
        """Scores (A, B) of stolen records. Default: `score` of their templates."""
        return self.score(oracle.defense, first.templates, second.templates)
