"""From similarity scores to a face by two linear maps (Mohanty, Sarkar and Kasturi, IEEE TPAMI 2007)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.linear_estimates import least_squares, spread
from bench.toolkit.shown_scores import ReadsScores

_BATCH = 50
_RIDGE = 1e-3  #: assumed variance of an embedding's error, relative to that of its entries, in the map to pixels


@dataclass(frozen=True, kw_only=True)
class AffineScores(ReadsScores, ReconstructionAttack):
    """Solves Y x = s for the embedding behind scores s with own faces Y, and maps it to pixels by linear regression.

    The baseline of `score_inversion`, without its prior and its decoder: the shortest solution, of as many scores as
    the server shows bits of, and the mean face plus the part of a face that is linear in its embedding.

    Source: Mohanty et al. model a recogniser by an affine map of faces that keeps its distances (multidimensional
    scaling), which they invert. Where the score is a cosine, the coordinates that keep its distances are embeddings up
    to a rotation, so embeddings of own faces are used.
    """

    leaks: ClassVar[Literal["template", "embedding"]] = "embedding"
    yardstick: ClassVar[bool] = True

    queries: int = 99  #: logins per target; at most as many as there are public faces

    def __post_init__(self) -> None:
        ReadsScores.__post_init__(self)
        if self.queries < 1:
            raise ValueError("queries must be at least 1")

    @property
    def level(self) -> Knowledge:
        """Needs the similarity score of a login, and embeddings of own faces."""
        return Knowledge.ENROLMENT

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Chooses the faces to log in with, and fits the map from embeddings to pixels on all public faces."""
        batches = [public.batch(slice(i, i + _BATCH), oracle.device) for i in range(0, len(public), _BATCH)]
        known = torch.cat([oracle.embed(images).float() for images in batches]).cpu()
        pictures = torch.cat([(images * 255).round().to(torch.uint8).cpu() for images in batches])
        chosen = torch.tensor(spread(known)[: self.queries])
        pixels = pictures.flatten(1).float() / 255
        centred, centre = known - known.mean(0), pixels.mean(0)
        gram = centred.T @ centred
        gram.diagonal().add_(_RIDGE * float(gram.diagonal().mean()))
        tensors = {
            "pictures": pictures[chosen], "embeddings": known[chosen], "mean": known.mean(0), "face": centre,
            "pixels": torch.linalg.solve(gram, centred.T @ (pixels - centre)),
        }  # fmt: skip
        return State(tensors, {"probes": len(chosen)})

    def prepare(self, oracle: Oracle, state: State | None) -> dict[str, Tensor]:
        """The state on the oracle's device."""
        if state is None:
            raise ValueError("AffineScores has no trained state")
        return {name: value.to(oracle.device) for name, value in state.tensors.items()}

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Logs in as each target (`leak.rows`) with every chosen face; `leak.values` are not used."""
        found = self.recovered(oracle, state, leak.rows)
        images: Tensor = state["face"] + (found - state["mean"]) @ state["pixels"]
        return images.reshape(-1, 3, *oracle.image_size)

    def recovered(self, oracle: Oracle, state: Any, rows: tuple[int, ...]) -> Tensor:
        """Unit embeddings (B, D) of the targets, from their scores alone."""
        shown = [state["pictures"][i : i + _BATCH].float() / 255 for i in range(0, len(state["pictures"]), _BATCH)]
        scores = torch.cat([oracle.similarities(images, rows) for images in shown]).T
        oracle.report(queries_per_target=torch.full((len(rows),), float(len(state["pictures"]))))
        return functional.normalize(least_squares(state["embeddings"], scores)).float()
