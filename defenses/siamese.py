"""A client trained on people (siamese fine-tuning, Osia et al., IEEE IoT Journal 2020)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import normalize

from bench.contracts import FaceSet, Rng, SplitNetwork
from bench.errors import DataError
from bench.toolkit.trained_client import Privacy, TrainedClient


@dataclass(frozen=True, kw_only=True)
class Siamese(TrainedClient):
    """Stores the features of a client that maps a person's images to nearby features, and so keeps less of each image.

    Privacy is the contrastive loss of Hadsell et al. (2006) over the pairs of a batch, mean of d^2 for one person and
    mean of max(0, margin - d)^2 for two, where d is the Euclidean distance of the features at unit length. SIMBA takes
    distances of raw features, a margin of 2 and a weight of .005, and calls two images the same person where its
    network says so.

    Needs public faces with identities.
    """

    margin: float = 1.0  #: distance from which two people are far enough apart; unit features are at most 2 apart
    per_person: int = 4  #: images of one person in a batch, where there are as many

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.margin <= 0 or self.per_person < 2:
            raise ValueError("margin must be above 0, and per_person at least 2")

    def privacy(self, recognizer: SplitNetwork, shape: Sequence[int], public: FaceSet, rng: Rng) -> Privacy:
        """The contrastive loss."""
        if public.subjects is None or len(set(public.subjects)) in (1, len(public)):
            raise DataError("siamese: the public faces need identities, of two people or more with several images each")
        return self._contrast

    def chosen(self, people: NDArray[np.int64], source: np.random.Generator) -> NDArray[np.int64]:
        """Several images of each person."""
        places: list[int] = []
        for person in source.permutation(int(people.max()) + 1):
            own = np.flatnonzero(people == person)
            places += source.permutation(own)[: self.per_person].tolist()
            if len(places) >= self.batch:
                break
        return np.array(places[: self.batch])

    def _contrast(self, features: Tensor, images: Tensor, people: Tensor) -> Tensor:
        unit = normalize(features.flatten(1))
        squares = (2 - 2 * unit @ unit.T).clamp_min(1e-8)
        upper = torch.ones_like(squares, dtype=torch.bool).triu(1)
        same = (people[:, None] == people) & upper
        other = (people[:, None] != people) & upper
        near = squares[same].mean() if bool(same.any()) else squares.sum() * 0
        far = (self.margin - squares[other].sqrt()).clamp_min(0).square().mean() if bool(other.any()) else 0.0
        return near + far
