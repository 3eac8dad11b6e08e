"""The contract of keyed defences, which protect embeddings, and of the attacks on their templates.

    image --unprotected recogniser--> embedding --transform(key)--> template (stored, LEAKS) --score--> same person?

In the words of ISO/IEC 24745, the template is the pseudonymous identifier and the key is auxiliary data. A probe is
protected with the key of the person whom it claims to be, so a comparison always has a claimed identity.
"""

from __future__ import annotations

from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from bench.contracts.attack import Attack
from bench.contracts.defense import Defense, System
from bench.contracts.rng import ImageRng, Rng
from bench.errors import KnowledgeError, UserError
from bench.labels import KeyKnowledge, Knowledge

Key = Mapping[str, Tensor]  #: what `KeyedDefense.draw_key` returned


@dataclass(frozen=True, kw_only=True)
class KeyedDefense(Defense):
    """Stores transformed embeddings. Override `draw_key` and `transform`, and `score` if it is not the cosine.

    The embeddings are those of the unprotected recogniser. `keys` says who holds a key, in one application:

    - `subject`: each person has one, like a token or a card. The default, because published accuracies are of this.
    - `record`: each enrolment has its own, which is never used again.
    - `system`: everybody has the same.
    - `pool`: each enrolment takes one of `pool` keys at random; all applications draw from the same pool.

    Two applications never share a key, except by chance from a pool: unlinkability compares templates of two.
    """

    adds_noise: ClassVar[bool] = False
    keeps_scores: ClassVar[bool] = (
        False  #: `compare` is meant to give the cosine of the embeddings; its error is measured
    )

    keys: Literal["subject", "record", "system", "pool"] = "subject"  #: who holds a key
    pool: int = 4  #: number of keys, if keys = "pool"

    def __post_init__(self) -> None:
        if self.pool < 1:
            raise ValueError("pool must be at least 1")

    @abstractmethod
    def draw_key(self, rng: Rng, width: int) -> Key:
        """A key for embeddings of `width` entries. All randomness must come from `rng`.

        Raises:
            NotApplicable: the parameters do not fit this width; its cells are skipped.
        """

    @abstractmethod
    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Unit embeddings (B, D) to templates (B, ...) of any type and shape; bits as torch.bool."""

    def probe(self, embeddings: Tensor, key: Key) -> Tensor:
        """What a login presents for unit embeddings (B, D), if that differs from a template. Default: `transform`."""
        return self.transform(embeddings, key)

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """Similarity (B,) of stored templates to protected probes, row by row; higher is more similar.

        It does not see the key: templates under different keys are compared in the same way. Default: the cosine.
        """
        return functional.cosine_similarity(stored.flatten(1).float(), probes.flatten(1).float())

    def compare(self, stored: Tensor, probes: Tensor, key: Key) -> Tensor:
        """Similarity (B,) at a login, row by row, where the system has the key of the stored templates.

        Default: `score`. Encrypted templates override it, because only a holder of the key can read a score.
        """
        return self.score(stored, probes)

    def undo(self, templates: Tensor, key: Key) -> Tensor | None:
        """Embeddings (B, D) from templates and their key. Default: None, for schemes that cannot be undone."""
        return None

    def margins(self, embeddings: Tensor, template: Tensor, key: Key) -> Tensor | None:
        """What one stored template says about its embedding, as inequalities: (B, M), none negative where they hold.

        For embeddings (B, D) and a template without its first dimension; differentiable in the embeddings. A hash has
        one for each bit (signed distance to its threshold) or for each index (the winner's lead). Attackers who know
        the key use them. Default: None, for templates that are no hash.
        """
        return None

    # A keyed defence has no feature maps: whatever asks for these gets an explanation.

    def encode(self, system: System, images: Tensor) -> Tensor:
        """Refuses."""
        raise _no_features(self)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Refuses."""
        raise _no_features(self)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Refuses."""
        raise _no_features(self)


def _no_features(defense: KeyedDefense) -> UserError:
    return UserError(
        f"{type(defense).__name__} protects embeddings under a key, and has no feature maps: evaluate it with "
        "veilbench run (profile templates), not with a command for feature maps"
    )


@dataclass(frozen=True, kw_only=True, eq=False)
class KeyedService:
    """The running system behind a `KeyOracle`: its other customers, and what it does for anybody who enrols."""

    public: Tensor  #: embeddings (N, D) of the attacker's own faces
    others: Callable[[], Tensor]  #: stolen templates (M, ...) of other people of the same application
    enrol: Callable[[Tensor], Tensor]  #: what it stores for own embeddings (B, D), under the attacker's own enrolment
    login: Callable[[int, Tensor], Tensor]  #: scores (B,) of own embeddings that claim to be a stolen template's owner


class KeyOracle:
    """What an attack on keyed templates may ask; the counterpart of `Oracle`.

    All attackers know the width of the embeddings.

    Attributes:
        queries: the number of calls per method, and in `METHOD_templates` or `METHOD_logins` what they were about.
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
    ) -> None:
        """An oracle for one attack on one defence.

        Args:
            leaked: the key of the stolen template with this number.
            service: for attacks with `needs_service`.
            show: what the service shows of scores, `Attack.shown`.
        """
        self.knows, self.width, self.level = knows, width, level
        self.queries: Counter[str] = Counter()
        self._defense, self._leaked, self._rng, self._service = defense, leaked, rng, service
        self._show = show

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

    @abstractmethod
    def score(self, defense: KeyedDefense, first: Tensor, second: Tensor) -> Tensor:
        """Scores (A, B) of templates (A, ...) of one application against templates (B, ...) of another.

        Higher: more likely of one person.

        Raises:
            NotApplicable: the attack does not fit this scheme; the cell is skipped.
        """
