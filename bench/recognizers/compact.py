"""A compact recogniser for synthetic faces, with weights included: the AdvFace paper's client and a light body."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.contracts import Alignment, Conv, Recognizer, SplitNetwork
from bench.storage.files import file_hash
from bench.storage.weights import fill, find_weights, read_weights

SHIPPED = Path(__file__).with_name("compact.safetensors")
_SIZE = 96
_POINTS = ((34.0, 40.0), (62.0, 40.0), (48.0, 56.0), (37.0, 72.4), (59.6, 72.2))


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1, padding: int = 0) -> nn.Sequential:
    """As in Inception-ResNet-v1: no bias, batch norm with the same epsilon, ReLU."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), nn.BatchNorm2d(outputs, eps=0.001), nn.ReLU()
    )


class _Bottleneck(nn.Module):
    def __init__(self, width: int, middle: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            _conv(width, middle, 1),
            _conv(middle, middle, 3, 1, 1),
            nn.Conv2d(middle, width, 1, bias=False),
            nn.BatchNorm2d(width),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(x + self.body(x))


def _client() -> nn.Sequential:
    """FaceNet's first three convolutions."""
    return nn.Sequential(_conv(3, 32, 3, 2), _conv(32, 32, 3), _conv(32, 64, 3, 1, 1))


def _server() -> nn.Sequential:
    """Reduces to 6 x 6 early, where convolutions are cheap; each position of the face then has its own filter."""
    return nn.Sequential(
        _conv(64, 96, 3, 2, 1), _Bottleneck(96, 48), _Bottleneck(96, 48),
        _conv(96, 160, 3, 2, 1), _Bottleneck(160, 80), _Bottleneck(160, 80),
        _conv(160, 224, 3, 2, 1), _Bottleneck(224, 112),
        nn.Conv2d(224, 224, 6, groups=224, bias=False), nn.BatchNorm2d(224), nn.Flatten(),
        nn.Linear(224, 128, bias=False), nn.BatchNorm1d(128),
    )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class Compact(Recognizer):
    """96 x 96 pixels; features of 64 x 45 x 45; 128-d embeddings; 1.0 M parameters. Trained on synthetic people only.

    At another size (160 is the paper's, with features of 64 x 77 x 77) the server first pools the features to 45 x 45.
    The weights are the same, and recognition is equally good.
    """

    weights: str = ""  #: path of a state dict; empty: the one included in the package
    size: int = _SIZE  #: height and width of the images, in pixels

    def __post_init__(self) -> None:
        if self.size < _SIZE:
            raise ValueError(f"size must be at least {_SIZE}")

    @property
    def alignment(self) -> Alignment:
        """A five-point alignment wide enough for chin and hairline."""
        scale = self.size / _SIZE
        # Pixel coordinates refer to pixel centres.
        points = tuple((scale * (x + 0.5) - 0.5, scale * (y + 0.5) - 0.5) for x, y in _POINTS)
        return Alignment("five-point", (self.size, self.size), points=points)

    def _path(self) -> Path:
        return find_weights(self.weights or str(SHIPPED), "[recognizers.compact] weights")

    def weights_hash(self) -> str:
        """sha256 of the weight file."""
        return file_hash(self._path())

    def build(self) -> SplitNetwork:
        """Builds the network without weights."""
        layout = (Conv(3, 32, 3, 2), Conv(32, 32, 3), Conv(32, 64, 3, 1, 1))
        server = _server()
        if self.size != _SIZE:
            server = nn.Sequential(OrderedDict([("pool", nn.AdaptiveAvgPool2d(45)), *server.named_children()]))
        return SplitNetwork(_client(), server, image_size=(self.size, self.size), layout=layout)

    def load(self) -> SplitNetwork:
        """Builds the network and loads its weights strictly."""
        path = self._path()
        with torch.random.fork_rng(devices=[]):
            network = self.build()
        return fill(network, read_weights(path), path).eval()
