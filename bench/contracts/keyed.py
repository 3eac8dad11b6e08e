"""The contract of keyed defences, which protect embeddings; `bench.contracts.keyed_attack` has that of attacks.

    image --unprotected recogniser--> embedding --transform(key)--> template (stored, LEAKS) --score--> same person?

In the words of ISO/IEC 24745, the template is the pseudonymous identifier. The key, and what else a scheme stores
beside the template, are auxiliary data. A probe is protected with the key of the person whom it claims to be, so a
comparison always has a claimed identity.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

from torch import Tensor
from torch.nn import functional

from bench.contracts.defense import Defense, System
from bench.contracts.rng import ImageRng, Rng
from bench.errors import UserError

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

    def auxiliary(self, embeddings: Tensor, key: Key) -> Tensor | None:
        """What is stored beside each template besides the key, (B, ...). Default: nothing.

        Whoever logs in as this person gets it (`probe_beside`). It leaks to attacks that declare `steals_auxiliary`.
        """
        return None

    def probe_beside(self, embeddings: Tensor, key: Key, auxiliary: Tensor | None) -> Tensor:
        """What a login presents for unit embeddings (B, D) to a record with this auxiliary data (...).

        Default: `probe`, whatever is stored beside the template. None: nothing is.
        """
        return self.probe(embeddings, key)

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        """Similarity (B,) of stored templates to protected probes, row by row; higher is more similar.

        It does not see the key: templates under different keys are compared in the same way. It need not be symmetric.
        Default: the cosine.
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
