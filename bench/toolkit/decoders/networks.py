"""The three reconstruction networks of the AdvFace paper (section 5.1.2): `trans`, `res` and `unet`.

The paper names them, but its layers are in an appendix that is not public, so the layers here are this project's.
`trans` is derived from the extractor. `res` and `unet` work at the features' resolution and end in a pixel shuffle,
because convolutions at image resolution would cost four times as much without a visible gain.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Conv, NotApplicable

Norm = Literal["batch", "group", "none"]
Architecture = Literal["trans", "res", "unet"]


@dataclass(frozen=True)
class DecoderSpec:
    """The architecture of a decoder, without weights."""

    architecture: Architecture
    norm: Norm = "batch"
    width: int = 64  #: channels at the features' resolution; `trans` uses the extractor's


class BatchNorm(nn.BatchNorm2d):
    """Batch normalisation that can use the current batch's statistics without updating the running ones.

    AdvFace's section 4.2 requires this during protection; gradients flow through the statistics. A batch of 1 works.
    """

    batch_statistics = False

    def forward(self, input: Tensor) -> Tensor:
        if self.batch_statistics:
            return F.batch_norm(input, None, None, self.weight, self.bias, training=True, eps=self.eps)
        return super().forward(input)


def set_batch_statistics(module: nn.Module, use: bool) -> None:
    """Switches every `BatchNorm` inside to the batch's own statistics, or to its running ones."""
    for part in module.modules():
        if isinstance(part, BatchNorm):
            part.batch_statistics = use


def _norm(kind: Norm, channels: int) -> nn.Module:
    if kind == "batch":
        return BatchNorm(channels)
    if kind == "group":
        return nn.GroupNorm(math.gcd(8, channels), channels)
    return nn.Identity()


def _conv(inputs: int, outputs: int, norm: Norm, stride: int = 1) -> list[nn.Module]:
    conv = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=norm == "none")
    return [conv, _norm(norm, outputs), nn.ReLU()]


class _Edges(torch.autograd.Function):
    """`F.pad(..., mode="replicate")` with a backward pass of sums over edges.

    torch's own takes as long as the whole network where deterministic kernels are wanted.
    """

    @staticmethod
    def forward(ctx: Any, features: Tensor, around: tuple[int, int, int, int]) -> Tensor:
        ctx.around = around
        return torch.ops.aten.replication_pad2d(features, around)  # type: ignore[no-any-return]

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (found,) = gradients
        for dim, (before, after) in ((-1, ctx.around[:2]), (-2, ctx.around[2:])):
            size = found.shape[dim]
            inner = found.narrow(dim, before, size - before - after).clone()
            inner.select(dim, 0).add_(found.narrow(dim, 0, before).sum(dim))
            inner.select(dim, -1).add_(found.narrow(dim, size - after, after).sum(dim))
            found = inner
        return found, None


class Decoder(nn.Module):
    """Maps features (B, C, h, w) to images (B, 3, H, W) in [0, 1].

    Args:
        body: maps features to logits at least as large as the image.
        image_size: (H, W); larger output is cropped centrally.
        grid: (rows, columns) to which features are padded first, so that the output is large enough.
    """

    def __init__(self, body: nn.Module, image_size: tuple[int, int], grid: tuple[int, int]) -> None:
        super().__init__()
        self.body, self.image_size, self.grid = body, image_size, grid

    def forward(self, features: Tensor) -> Tensor:
        down, right = (want - have for want, have in zip(self.grid, features.shape[-2:], strict=True))
        if down or right:
            around = (right // 2, right - right // 2, down // 2, down - down // 2)
            features = _Edges.apply(features, around) if features.is_cuda else F.pad(features, around, mode="replicate")
        logits = self.body(features)
        height, width = self.image_size
        top, left = (logits.shape[-2] - height) // 2, (logits.shape[-1] - width) // 2
        logits = logits[..., top : top + height, left : left + width]
        # In float32, because a sigmoid in bfloat16 has steps of 1/256 near white.
        return torch.sigmoid(logits.float())


class _Residual(nn.Module):
    def __init__(self, width: int, norm: Norm) -> None:
        super().__init__()
        self.branch = nn.Sequential(*_conv(width, width, norm), *_conv(width, width, norm)[:-1])

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.branch(x))


def _res(inputs: int, spec: DecoderSpec, stride: int, scale: int) -> nn.Module:
    blocks = [_Residual(spec.width, spec.norm) for _ in range(3)]
    head = nn.Conv2d(spec.width, 3 * scale**2, 3, padding=1)
    return nn.Sequential(*_conv(inputs, spec.width, spec.norm, stride), *blocks, head, nn.PixelShuffle(scale))


def _plain(inputs: int, spec: DecoderSpec, stride: int, scale: int) -> nn.Module:
    """Used for `trans` if the features come from no convolutions that could be mirrored."""
    blocks = [layer for _ in range(2) for layer in _conv(spec.width, spec.width, spec.norm)]
    head = nn.Conv2d(spec.width, 3 * scale**2, 3, padding=1)
    return nn.Sequential(*_conv(inputs, spec.width, spec.norm, stride), *blocks, head, nn.PixelShuffle(scale))


class _UNet(nn.Module):
    """Ronneberger et al. 2015, two levels deep, at the features' resolution; its sides must be multiples of 4."""

    def __init__(self, inputs: int, spec: DecoderSpec, stride: int, scale: int) -> None:
        super().__init__()
        width, norm = spec.width, spec.norm
        self.top = nn.Sequential(*_conv(inputs, width, norm, stride))
        self.middle = nn.Sequential(*_conv(width, 2 * width, norm, stride=2), *_conv(2 * width, 2 * width, norm))
        self.bottom = nn.Sequential(*_conv(2 * width, 2 * width, norm, stride=2), *_conv(2 * width, 2 * width, norm))
        self.rise = nn.Sequential(*_conv(4 * width, width, norm))
        self.join = nn.Sequential(*_conv(2 * width, width, norm))
        self.head = nn.Sequential(nn.Conv2d(width, 3 * scale**2, 3, padding=1), nn.PixelShuffle(scale))

    def forward(self, x: Tensor) -> Tensor:
        top = self.top(x)
        middle = self.middle(top)
        bottom = self.bottom(middle)
        risen = self.rise(torch.cat([middle, F.interpolate(bottom, scale_factor=2.0)], 1))
        joined = self.join(torch.cat([top, F.interpolate(risen, scale_factor=2.0)], 1))
        out: Tensor = self.head(joined)
        return out


def _sizes(side: int, layout: Sequence[Conv]) -> list[int]:
    """The length of a side before each convolution and after the last."""
    sizes = [side]
    for conv in layout:
        sizes.append((sizes[-1] + 2 * conv.padding - conv.kernel) // conv.stride + 1)
    return sizes


def _trans(inputs: int, layout: Sequence[Conv], norm: Norm, image_size: tuple[int, int]) -> nn.Module:
    """The extractor reversed layer by layer: each convolution becomes a transposed convolution of the same shape."""
    rows, columns = (_sizes(side, layout) for side in image_size)
    layers: list[nn.Module] = []
    for index in reversed(range(len(layout))):
        conv = layout[index]
        # A strided convolution maps several input sizes to one output size; this restores the actual input size.
        rest = tuple(
            sizes[index] - ((sizes[index + 1] - 1) * conv.stride - 2 * conv.padding + conv.kernel)
            for sizes in (rows, columns)
        )
        last = index == 0
        layers.append(
            nn.ConvTranspose2d(
                conv.outputs,
                conv.inputs,
                conv.kernel,
                stride=conv.stride,
                padding=conv.padding,
                output_padding=rest,  # type: ignore[arg-type]
                groups=conv.groups,
                bias=last or norm == "none",
            )
        )
        if not last:
            layers += [_norm(norm, conv.inputs), nn.ReLU()]
    return nn.Sequential(*layers)


def build_decoder(
    spec: DecoderSpec, feature_shape: Sequence[int], layout: Sequence[Conv], image_size: tuple[int, int]
) -> Decoder:
    """A decoder with new weights, drawn from torch's global generator.

    Args:
        feature_shape: (C, h, w) of the input features.
        layout: the extractor's convolutions, for `trans`; empty if there are none.
        image_size: (H, W) of the output images.

    Raises:
        NotApplicable: features of 1 x 1, such as embeddings.
    """
    channels, rows, columns = feature_shape
    if rows == columns == 1:
        raise NotApplicable("what is stored has no spatial layout: a decoder of feature maps does not apply")
    if spec.architecture == "trans" and layout:
        return Decoder(_trans(channels, layout, spec.norm, image_size), image_size, (rows, columns))
    ratio = max(image_size[0] / rows, image_size[1] / columns)
    scale = max(1, 2 ** round(math.log2(ratio)))
    # The first layer halves features that are as large as the image; the rest would otherwise cost four times as much.
    stride = 2 if scale == 1 else 1
    multiple = stride * (4 if spec.architecture == "unet" else 1)
    grid = tuple(
        multiple * math.ceil(max(have, math.ceil(side / scale)) / multiple)
        for have, side in ((rows, image_size[0]), (columns, image_size[1]))
    )
    scale *= stride
    # A position has as many channels as output values: a narrower body would lose part of the face.
    spec = replace(spec, width=max(spec.width, 3 * scale**2))
    bodies = {"trans": _plain, "res": _res, "unet": _UNet}
    body = bodies[spec.architecture](channels, spec, stride, scale)
    return Decoder(body, image_size, (grid[0], grid[1]))
