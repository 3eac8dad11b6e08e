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

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """Similarity (B,) of stored templates to protected probes, row by row; higher is more similar.

        It does not see the key: templates under different keys are compared in the same way. Default: the cosine.
        """
        return functional.cosine_similarity(stored.flatten(1).float(), probes.flatten(1).float())

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


class KeyOracle:
    """What an attack on keyed templates may ask; the counterpart of `Oracle`.

    All attackers know the width of the embeddings.

    Attributes:
        queries: the number of calls per method.
    """

    def __init__(
        self, knows: KeyKnowledge, defense: KeyedDefense, width: int, leaked: Callable[[int], Key], rng: Rng
    ) -> None:
        """An oracle for one attack on one defence.

        Args:
            leaked: the key of the stolen template with this number.
        """
        self.knows, self.width = knows, width
        self.queries: Counter[str] = Counter()
        self._defense, self._leaked, self._rng = defense, leaked, rng

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


@dataclass(frozen=True, kw_only=True)
class KeyedAttack(Attack):
    """An attack on the templates of keyed defences; it does not run on feature maps."""

    #: A defence that it must break, to be trusted: its plugin's name, and parameters. None: not tested.
    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = None
    required: ClassVar[float] = 0.5  #: the cosine or AUC that it must reach there

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
