"""MLP-Hash: signs of a random network's output (Otroshi Shahreza et al., arXiv 2204.11054, 2022)."""

from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import Key, Rng
from bench.toolkit.hashes import BitHash


@dataclass(frozen=True, kw_only=True)
class MLPHash(BitHash):
    """Stores which outputs of a secret network of random orthonormal layers and ReLU exceed their mean.

    A widening layer has orthonormal columns, and a narrowing one orthonormal rows; the paper asks for orthonormal rows
    everywhere, which a layer cannot have in both directions. No ReLU follows the last layer, and there are no biases.
    Templates are compared by the share of equal bits.
    """

    bits: int = 0  #: length of the template; 0: the embedding's width
    hidden: int = 0  #: width of a hidden layer; 0: twice the embedding's width
    layers: int = 3  #: number of hidden layers

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bits < 0 or self.hidden < 0 or self.layers < 1:
            raise ValueError("bits and hidden must be at least 0, and layers at least 1")

    def draw_key(self, rng: Rng, width: int) -> Key:
        """The layers `layer0`, `layer1`, ..., each (inputs, outputs)."""
        sizes = [width, *[self.hidden or 2 * width] * self.layers, self.bits or width]
        drawn = [rng.child("layer", n).orthonormal(*sizes[n : n + 2]) for n in range(len(sizes) - 1)]
        return {f"layer{n}": layer for n, layer in enumerate(drawn)}

    def numbers(self, embeddings: Tensor, key: Key) -> Tensor:
        """Each output, minus the mean of all."""
        found = embeddings
        for number in range(self.layers):
            found = torch.relu(found @ key[f"layer{number}"])
        found = found @ key[f"layer{self.layers}"]
        return found - found.mean(1, keepdim=True)
