"""SecureFace's randomised network (Mai et al., IEEE TIFS 16, 2021), as a transform of embeddings under a key."""

from dataclasses import dataclass
from functools import cache

import torch
from torch import Tensor
from torch.nn import functional

from bench.contracts import Key, KeyedDefense, NotApplicable, Rng


@dataclass(frozen=True, kw_only=True)
class RandCNN(KeyedDefense):
    """Stores normalise(W2 relu(mask * P(W1 e))): the key selects which hidden units work (mask), and their order (P).

    W1 and W2 are the system's, public and the same for everybody. The paper's network takes an image and is trained
    under random keys; here it takes the recogniser's embedding, and is random. The paper does not store the key but a
    secure sketch that yields it to similar faces; the sketch leaks by itself, and is left out: here a key is held as in
    the other keyed defences. So it measures what the transform hides, and not the published system. Templates are
    compared by the cosine.
    """

    hidden: int = 1024  #: units of the hidden layer
    outputs: int = 512  #: length of the template
    kept: float = 0.5  #: share of the hidden units that a key keeps

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.hidden, self.outputs) < 2 or not 0 < self.kept <= 1:
            raise ValueError("hidden and outputs must be at least 2, and kept in (0, 1]")

    def draw_key(self, rng: Rng, width: int) -> Key:
        """`order` (hidden,) of the units, and `mask` (hidden,) of those that are kept."""
        working = round(self.kept * self.hidden)
        if working < 1:
            raise NotApplicable(f"{self.kept} of {self.hidden} hidden units leaves none")
        order = torch.randperm(self.hidden, generator=rng.child("order").torch())
        mask = torch.zeros(self.hidden)
        mask[torch.randperm(self.hidden, generator=rng.child("mask").torch())[:working]] = 1.0
        return {"order": order, "mask": mask}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        """Unit vectors (B, outputs), float32."""
        first, second = _layers(embeddings.shape[1], self.hidden, self.outputs)
        hidden = embeddings @ first.to(embeddings)
        hidden = torch.relu(hidden[:, key["order"].to(hidden.device)]) * key["mask"].to(hidden)
        return functional.normalize(hidden @ second.to(embeddings))


@cache
def _layers(width: int, hidden: int, outputs: int) -> tuple[Tensor, Tensor]:
    """The system's layers (inputs, outputs): Gaussian, of unit gain."""
    source = Rng(0).child("randcnn", width, hidden, outputs)
    first = torch.randn(width, hidden, generator=source.child("first").torch()) / width**0.5
    second = torch.randn(hidden, outputs, generator=source.child("second").torch()) / hidden**0.5
    return first, second
