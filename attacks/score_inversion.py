"""From similarity scores to a face: least squares for the embedding, then a decoder (Kim et al., IEEE S&P 2024)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from attacks.embedding_decoder import EmbeddingDecoder, EmbeddingTraining
from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.linear_estimates import most_likely, most_likely_in_cells, spread
from bench.toolkit.shown_scores import ReadsScores

_BATCH = 50
_PROBES = "probes."


@dataclass(frozen=True, kw_only=True)
class ScoreInversion(ReadsScores, ReconstructionAttack):
    """Asks for the similarity of each target to the same `queries` own faces, and solves for the target's embedding.

    The attack never looks at what is stored: encrypted templates that answer with a score are open to it as well. The
    faces are fixed before the attack and nearly orthogonal: pivoted QR decomposition of the embeddings of own faces
    orders them. The solution is the most likely embedding for scores P e + error, with the mean and covariance of own
    embeddings as the prior: ridge regression in the directions in which faces vary. Scores that the server rounds
    (`score_bits`) count as the cells in which they lie. `embedding_decoder` then makes a picture of the solution.

    Source: Kim et al., IEEE S&P 2024 (99 orthogonal faces, least squares). Here the faces are real public ones instead
    of optimised ones, and the prior is ours.
    """

    leaks: ClassVar[Literal["template", "embedding"]] = "embedding"

    queries: int = 99  #: logins per target; at most as many as there are public faces
    ridge: float = 1e-3  #: assumed variance of a score's error
    recipe: EmbeddingTraining = field(default=EmbeddingTraining())  #: of the decoder

    def __post_init__(self) -> None:
        ReadsScores.__post_init__(self)
        if self.queries < 1 or self.ridge <= 0:
            raise ValueError("queries must be at least 1, and ridge above 0")

    @property
    def level(self) -> Knowledge:
        """Needs the similarity score of a login, and embeddings of own faces."""
        return Knowledge.ENROLMENT

    @property
    def base(self) -> ReconstructionAttack:
        """The decoder, shared with `embedding_decoder` and by all numbers of queries."""
        return EmbeddingDecoder(recipe=self.recipe)

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Chooses the faces to log in with, from the embeddings of all own faces."""
        if start is None:
            return None
        batches = [public.batch(slice(i, i + _BATCH), oracle.device) for i in range(0, len(public), _BATCH)]
        known = torch.cat([oracle.embed(images).float() for images in batches]).cpu()
        chosen = torch.tensor(spread(known)[: self.queries])
        learned = {
            "pictures": torch.cat([(images * 255).round().to(torch.uint8).cpu() for images in batches])[chosen],
            "embeddings": known[chosen],
            "mean": known.mean(0),
            "covariance": torch.cov(known.T).contiguous(),
        }
        probes = {f"{_PROBES}{name}": value for name, value in learned.items()}
        return State({**start.tensors, **probes}, {**start.info, "probes": len(chosen)})

    def prepare(self, oracle: Oracle, state: State | None) -> Any:
        """(the decoder, the faces to log in with and the prior)."""
        if state is None:
            raise ValueError("ScoreInversion has no trained state")
        decoder = {name: value for name, value in state.tensors.items() if not name.startswith(_PROBES)}
        probes = {
            name.removeprefix(_PROBES): value.to(oracle.device)
            for name, value in state.tensors.items()
            if name.startswith(_PROBES)
        }
        return EmbeddingDecoder(recipe=self.recipe).prepare(oracle, State(decoder, state.info)), probes

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Logs in as each target (`leak.rows`) with every chosen face; `leak.values` are not used."""
        decoder, probes = state
        with torch.no_grad():
            images: Tensor = decoder(self.recovered(oracle, probes, leak.rows))
        return images

    def recovered(self, oracle: Oracle, probes: Any, rows: tuple[int, ...]) -> Tensor:
        """Unit embeddings (B, D) of the targets, from their scores alone."""
        pictures, own = probes["pictures"][: self.queries], probes["embeddings"][: self.queries].double()
        shown = [pictures[i : i + _BATCH].float() / 255 for i in range(0, len(pictures), _BATCH)]
        scores = torch.cat([oracle.similarities(images, rows) for images in shown]).double()
        prior = probes["mean"], probes["covariance"]
        if self.score_bits:
            found = most_likely_in_cells(own, *self.cells(scores.T), *prior)
        else:
            found = most_likely(own, scores.T, *prior, self.ridge)
        oracle.report(queries_per_target=torch.full((len(rows),), float(len(own))))
        return functional.normalize(found).float()
