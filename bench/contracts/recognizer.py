"""The contract of recognisers: a network split into the client's part and the server's."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import asdict, dataclass
from typing import Any, ClassVar

from torch import Tensor, nn

from bench.contracts.faces import Alignment

# ---------------------------------------------------------------------------------------------------- recognisers


@dataclass(frozen=True)
class Conv:
    """One convolution of the client's extractor, as in an architecture diagram."""

    inputs: int
    outputs: int
    kernel: int
    stride: int = 1
    padding: int = 0
    groups: int = 1


class SplitNetwork(nn.Module):
    """A split recognition network: `client` (E, images to features) and `server` (Psi, features to embedding).

    Args:
        client: E, applied to normalised pixels.
        server: Psi; its output is normalised to unit length here.
        image_size: (height, width).
        layout: the client's convolutions in order (public knowledge: the architecture without weights).
        mean, scale: the pixel normalisation on [0, 1] images, (x - mean) / scale.
    """

    def __init__(
        self,
        client: nn.Module,
        server: nn.Module,
        *,
        image_size: tuple[int, int],
        layout: tuple[Conv, ...],
        mean: float = 0.5,
        scale: float = 128 / 255,
    ) -> None:
        super().__init__()
        self.client, self.server = client, server
        self.image_size, self.layout = image_size, layout
        self.mean, self.scale = mean, scale

    def extract(self, images: Tensor) -> Tensor:
        """E: maps images (B, 3, H, W) in [0, 1] to features (B, C, h, w)."""
        features: Tensor = self.client((images - self.mean) / self.scale)
        return features

    def embed(self, features: Tensor) -> Tensor:
        """Psi: maps features (B, C, h, w) to unit embeddings (B, D)."""
        return nn.functional.normalize(self.server(features))


@dataclass(frozen=True, kw_only=True)
class Recognizer(ABC):
    """A face recogniser: its alignment and its weights."""

    #: Parameters that only say where files lie: no part of a key, since `weights_hash` knows what is in them.
    places: ClassVar[tuple[str, ...]] = ("weights",)

    @property
    @abstractmethod
    def alignment(self) -> Alignment:
        """How faces are cropped for it."""

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.alignment.size

    def identity(self) -> dict[str, Any]:
        """The parameters that say what it is, and not where it lies; JSON-able."""
        return {name: value for name, value in asdict(self).items() if name not in self.places}

    @abstractmethod
    def weights_hash(self) -> str:
        """sha256 of the weights, without loading them into a network.

        Raises:
            DataError: there are no weights; says where they were looked for and how to get them.
        """

    def build(self) -> SplitNetwork:
        """The untrained network, with weights from torch's global generator, for `veilbench train-recognizer`.

        `load` must accept its state dict (`bench.storage.weights.fill` does).
        """
        raise NotImplementedError(f"{type(self).__name__} cannot be trained: it has no build()")

    @abstractmethod
    def load(self) -> SplitNetwork:
        """The network with its weights, on the CPU, in eval mode.

        Raises:
            DataError: the file is missing or damaged, or has another architecture.
        """
