"""A floor for other attacks: the attacker's own face whose template is nearest to the stolen one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State

_BATCH = 50
_SIDE = 8  #: features are averaged to at most this many rows and columns before they are compared


@dataclass(frozen=True, kw_only=True)
class NearestFace(ReconstructionAttack):
    """Answers with the mean of the `count` public faces that look most similar to the client; 1: with the nearest.

    An attack that rebuilds a face should do better than one that only looks it up among strangers. Features are
    averaged over regions, which suppresses noise that is independent between positions, standardised per entry, and
    compared by cosine. With `leaks = "embedding"` embeddings are compared instead.

    Source: our own reference; the mean face (`blind`) is the limit where all public faces are averaged.
    """

    yardstick: ClassVar[bool] = True

    count: int = 8  #: number of faces that are averaged
    leaks: Literal["template", "embedding"] = "template"  # type: ignore[misc]  #: what is stolen and compared

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError("count must be at least 1")

    @property
    def level(self) -> Knowledge:
        """Encodes own faces; their embeddings need a login."""
        return Knowledge.ENCODER if self.leaks == "template" else Knowledge.ENROLMENT

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Stores the public faces (uint8) and their averaged features or embeddings."""
        see = oracle.encode if self.leaks == "template" else oracle.embed
        parts = [public.batch(slice(i, i + _BATCH), oracle.device) for i in range(0, len(public), _BATCH)]
        known = torch.cat([_pooled(see(images)) for images in parts])
        pictures = torch.cat([(images * 255).round().to(torch.uint8).cpu() for images in parts])
        spread = known.std(0, correction=0).clamp_min(1e-6)
        return State({"pictures": pictures, "known": known.cpu(), "mean": known.mean(0).cpu(), "spread": spread.cpu()})

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Looks up each image independently; makes no query."""
        tensors = {name: value.to(oracle.device) for name, value in state.tensors.items()}

        def standard(values: Tensor) -> Tensor:
            return functional.normalize((values - tensors["mean"]) / tensors["spread"])

        similarity = standard(_pooled(leak.values)) @ standard(tensors["known"]).T
        highest, nearest = similarity.topk(min(self.count, similarity.shape[1]), dim=1)
        oracle.report(similarity=highest[:, 0])
        images: Tensor = tensors["pictures"][nearest].float().mean(1) / 255
        return images


def _pooled(values: Tensor) -> Tensor:
    """Features (B, C, h, w), averaged over regions, or embeddings (B, D), as rows."""
    if values.ndim == 4:
        rows, columns = (min(_SIDE, side) for side in values.shape[-2:])
        values = functional.adaptive_avg_pool2d(values, (rows, columns))
    return values.flatten(1).float()
