"""NoPeek (Vepakomma et al., ICDM workshops 2020): a client whose features depend little on the image."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import FaceSet, Rng, SplitNetwork
from bench.toolkit.trained_client import Privacy, TrainedClient


@dataclass(frozen=True, kw_only=True)
class NoPeek(TrainedClient):
    """Stores the features of a client that was trained to lower their distance correlation with the image.

    The correlation of a batch (Szekely et al. 2007) is

        dCor = dCov(x, z) / sqrt(dCov(x, x) dCov(z, z)),    dCov^2(x, z) = mean(A * B),

    with A and B the matrices of Euclidean distances between the batch's images and between its features, doubly
    centred. It is 0 for independence, and biased upwards in small batches of long vectors. SIMBA takes squared
    distances and a weight of .8.
    """

    weight: float = 0.8

    def privacy(self, recognizer: SplitNetwork, shape: Sequence[int], public: FaceSet, rng: Rng) -> Privacy:
        """The distance correlation of images and features."""
        return lambda features, images, people: distance_correlation(images, features)


def distance_correlation(one: Tensor, other: Tensor) -> Tensor:
    """dCor of two batches (B, ...), in [0, 1]; 0 where one of them is constant."""
    first, second = _centred(one), _centred(other)
    scale = (first.square().mean() * second.square().mean()).clamp_min(1e-24).sqrt()
    return ((first * second).mean().clamp_min(1e-12) / scale).sqrt()


def _centred(values: Tensor) -> Tensor:
    """Euclidean distances between the rows, less the means of rows and columns, plus the mean."""
    flat = values.flatten(1) - values.flatten(1).mean(0)  # smaller numbers, whose squares differ more exactly
    lengths = flat.square().sum(1)
    squares = lengths[:, None] + lengths - 2 * flat @ flat.T
    same = torch.eye(len(flat), dtype=torch.bool, device=flat.device)
    distances = squares.masked_fill(same, 1.0).clamp_min(1e-12).sqrt().masked_fill(same, 0.0)
    return distances - distances.mean(0) - distances.mean(1, keepdim=True) + distances.mean()
