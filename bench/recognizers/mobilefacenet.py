"""MobileFaceNet (Chen et al. 2018), split after its third convolution: features of 128 x 56 x 48, or 56 x 56."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from bench.contracts import Alignment, Conv, Recognizer, SplitNetwork
from bench.storage.files import file_hash
from bench.storage.weights import fill, find_weights, is_split, load_strictly, read_weights

_SETTING = "[recognizers.mobilefacenet] weights"
_WIDTHS = (96, 112)
_POINTS = ((30.2946, 51.6963), (65.5318, 51.5014), (48.0252, 71.7366), (33.5493, 92.3655), (62.7299, 92.2041))
# (expansion, channels, repeats, stride of the first block)
_STAGES = ((2, 64, 5, 2), (4, 128, 1, 2), (2, 128, 6, 1), (4, 128, 1, 2), (2, 128, 2, 1))


class _ConvBlock(nn.Module):
    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int],
        *,
        stride: int = 1,
        padding: int = 0,
        groups: int = 1,
        linear: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, groups=groups, bias=False)
        self.bn = nn.BatchNorm2d(outputs)
        if not linear:
            self.prelu = nn.PReLU(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.bn(self.conv(x))
        return self.prelu(y) if hasattr(self, "prelu") else y


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        self.residual = stride == 1 and inputs == outputs
        width = inputs * expansion
        self.conv = nn.Sequential(
            nn.Conv2d(inputs, width, 1, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, width, 3, stride, 1, groups=width, bias=False),
            nn.BatchNorm2d(width),
            nn.PReLU(width),
            nn.Conv2d(width, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class _Whole(nn.Module):
    """The network with the layer names of its weights; it is split after loading."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv1 = _ConvBlock(3, 64, 3, stride=2, padding=1)
        self.dw_conv1 = _ConvBlock(64, 64, 3, padding=1, groups=64)
        blocks: list[nn.Module] = []
        inputs = 64
        for expansion, channels, repeats, stride in _STAGES:
            for index in range(repeats):
                blocks.append(_Bottleneck(inputs, channels, stride if index == 0 else 1, expansion))
                inputs = channels
        self.blocks = nn.Sequential(*blocks)
        self.conv2 = _ConvBlock(128, 512, 1)
        self.linear7 = _ConvBlock(512, 512, (7, width // 16), groups=512, linear=True)
        self.linear1 = _ConvBlock(512, 128, 1, linear=True)

    def halves(self) -> tuple[nn.Module, nn.Module]:
        """Client and server. The first bottleneck has stride 2, so there is no residual connection across the split."""
        first = self.blocks[0].conv
        assert isinstance(first, nn.Sequential)
        client = nn.Sequential(self.conv1, self.dw_conv1, first[:3])
        rest = OrderedDict(
            first=first[3:],
            blocks=self.blocks[1:],
            conv2=self.conv2,
            linear7=self.linear7,
            linear1=self.linear1,
            flat=nn.Flatten(),
        )
        return client, nn.Sequential(rest)


@dataclass(frozen=True, kw_only=True)
class MobileFaceNet(Recognizer):
    """112 x 96 pixels, normalised (x - 127.5) / 128; 128-d embeddings. Not the AdvFace paper's recogniser."""

    weights: str = ""  #: a .safetensors or .pt state dict
    width: int = 96  #: of the images: 96 or 112 pixels, as the weights were trained

    def __post_init__(self) -> None:
        if self.width not in _WIDTHS:
            raise ValueError(f"width must be one of {', '.join(map(str, _WIDTHS))}")

    @property
    def alignment(self) -> Alignment:
        """Maps five points onto the usual template, centred in the width."""
        shift = (self.width - 96) / 2
        return Alignment("five-point", (112, self.width), points=tuple((x + shift, y) for x, y in _POINTS))

    def weights_hash(self) -> str:
        """sha256 of the weight file."""
        return file_hash(find_weights(self.weights, _SETTING))

    def build(self) -> SplitNetwork:
        """Builds the network without weights."""
        return self._split(_Whole(self.width))

    def load(self) -> SplitNetwork:
        """Builds the network and strictly loads its published weights or those of `veilbench train-recognizer`."""
        path = find_weights(self.weights, _SETTING)
        tensors = read_weights(path)
        with torch.random.fork_rng(devices=[]):
            whole = _Whole(self.width)
        if is_split(tensors):
            return fill(self._split(whole), tensors, path).eval()
        load_strictly(whole, tensors, path)
        return self._split(whole).eval()

    def _split(self, whole: _Whole) -> SplitNetwork:
        client, server = whole.halves()
        layout = (Conv(3, 64, 3, 2, 1), Conv(64, 64, 3, 1, 1, 64), Conv(64, 128, 1))
        return SplitNetwork(client, server, image_size=(112, self.width), layout=layout)
