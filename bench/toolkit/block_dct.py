"""The block cosine transform of faces, front end of the frequency family (Mi et al. 2022, DuetFace, section 3.2).

An image is enlarged (bilinear, align_corners), converted to full-range YCbCr on 0 to 255, shifted by -128 and divided
into blocks of 8 x 8 pixels; each block is transformed by an orthonormal DCT-II. Enlarging and transforming are linear
and separable, so one matrix for the rows and one for the columns do both. Each block depends on few pixels, and the
enlarged image is never stored.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import torch
from torch import Tensor

BLOCK = 8  #: side of a block, in pixels
CHANNELS = 3 * BLOCK**2  #: ordered by plane (Y, Cb, Cr), then by 8 * row frequency + column frequency

# JPEG's full-range YCbCr of RGB, without the chroma planes' offset of 128, which the shift cancels.
_YCBCR = torch.tensor(
    [[0.299, 0.587, 0.114], [-0.168735892, -0.331264108, 0.5], [0.5, -0.418687589, -0.081312411]], dtype=torch.float64
)
_SHIFT = torch.tensor([128.0, 0.0, 0.0], dtype=torch.float64)
_CHUNK = 2  #: images transformed at once: the 192 channels of a 112 x 96 image take 8 MB


@cache
def dct_matrix(size: int) -> Tensor:
    """The orthonormal DCT-II of `size` values, (frequency, position), float64."""
    frequency, position = torch.meshgrid(*(torch.arange(size, dtype=torch.float64),) * 2, indexing="ij")
    waves = torch.cos(math.pi * (2 * position + 1) * frequency / (2 * size)) * math.sqrt(2 / size)
    waves[0] /= math.sqrt(2)
    return waves


@cache
def _analysis(side: int, upsample: int) -> Tensor:
    """One side's matrix, (frequency, block, pixel): enlarge, repeat the last pixel to fill whole blocks, transform."""
    enlarged = side * upsample
    blocks = math.ceil(enlarged / BLOCK)
    wanted = torch.arange(blocks * BLOCK, dtype=torch.float64).clamp_max(enlarged - 1)
    place = wanted * (side - 1) / max(1, enlarged - 1)
    weights = (1 - (place[:, None] - torch.arange(side, dtype=torch.float64)).abs()).clamp_min(0)
    return torch.einsum("fp,bpx->fbx", dct_matrix(BLOCK), weights.view(blocks, BLOCK, side)).contiguous()


@cache
def _taps(side: int, upsample: int) -> tuple[Tensor, Tensor]:
    """`_analysis` without zeros: the pixels of each block, (tap, block), and their weights, (tap, frequency, block)."""
    whole = _analysis(side, upsample)
    used = whole.abs().amax(0) > 1e-12  # (block, pixel)
    first, last = used.int().argmax(1), side - 1 - used.flip(1).int().argmax(1)
    count = int((last - first).max()) + 1
    pixels = first.clamp_max(side - count)[:, None] + torch.arange(count)
    weights = whole.gather(2, pixels.expand(BLOCK, -1, -1))
    return pixels.T.contiguous(), weights.permute(2, 0, 1).contiguous()


@cache
def _synthesis(side: int, upsample: int) -> Tensor:
    """Least-squares inverse of `_analysis`, (pixel, frequency * block); exact for the coefficients of an image."""
    inverse: Tensor = torch.linalg.pinv(_analysis(side, upsample).flatten(0, 1))
    return inverse


def grid(image_size: tuple[int, int], upsample: int = 8) -> tuple[int, int]:
    """Number of blocks in (rows, columns); with `upsample` 8, one per pixel."""
    height, width = (math.ceil(side * upsample / BLOCK) for side in image_size)
    return height, width


@cache
def _reading(side: int) -> Tensor:
    """Contribution of each frequency to the pixel of its own block when the enlarged side is shrunk, (pixel,
    frequency).

    With `align_corners`, pixel i of the small side lies 7 i / (side - 1) into block i, between two enlarged pixels.
    """
    inside = torch.arange(side, dtype=torch.float64) * (BLOCK - 1) / max(1, side - 1)
    place = torch.arange(BLOCK, dtype=torch.float64)
    between = (1 - (inside[:, None] - place).abs()).clamp_min(0)
    return between @ dct_matrix(BLOCK).T


def read_block_dct(coefficients: Tensor, image_size: tuple[int, int]) -> Tensor:
    """Converts coefficients (B, 192, H, W), enlarged by 8, to images (B, 3, H, W) as MinusFace does; not clamped.

    It transforms the blocks back, converts them to RGB and shrinks them by 8 (bilinear, `align_corners`). This is one
    of many left inverses of `block_dct`, slightly blurred; it is not the least-squares inverse. Each pixel depends on
    its own block only.
    """
    rows, columns = (_reading(side).to(coefficients) for side in image_size)
    unmix = torch.linalg.inv(255 * _YCBCR).to(coefficients)
    blocks = coefficients.reshape(len(coefficients), 3, BLOCK, BLOCK, *image_size)
    planes = torch.einsum("bpuvhw,hu,wv->bphw", blocks, rows, columns)
    return torch.einsum("cp,bphw->bchw", unmix, planes + _SHIFT.to(coefficients)[:, None, None])


def block_dct(images: Tensor, upsample: int = 8, channels: Sequence[int] | None = None) -> Tensor:
    """Converts images (B, 3, H, W) in [0, 1] to coefficients (B, 192, h, w), with h and w as in `grid`; differentiable.

    `channels` selects some of the 192.

    If a side is not a whole number of blocks, its last pixel is repeated.
    """
    (rows, down), (columns, across) = (_taps(side, upsample) for side in images.shape[-2:])
    rows, columns, down, across = rows.to(images.device), columns.to(images.device), down.to(images), across.to(images)
    mix, shift = 255 * _YCBCR.to(images), _SHIFT.to(images)[:, None, None]
    wanted = list(range(CHANNELS) if channels is None else channels)
    kept = sorted({channel % BLOCK**2 for channel in wanted})
    parts = []
    for some in torch.split(images, _CHUNK):
        planes = torch.einsum("pc,bchw->bphw", mix, some) - shift
        found = []
        for row in range(BLOCK):  # one row frequency at a time fits the processor's caches
            chosen = [place % BLOCK for place in kept if place // BLOCK == row]
            if chosen:
                tall = _weighed(planes, rows, down[:, row, :, None], -2)
                found.append(_weighed(tall[:, :, None], columns, across[:, chosen, None], -1))
        parts.append(torch.cat(found, 2).flatten(1, 2))
    everything = torch.cat(parts) if len(parts) > 1 else parts[0]
    order = [plane * BLOCK**2 + place for plane in range(3) for place in kept]
    return everything if order == wanted else everything[:, [order.index(channel) for channel in wanted]]


def _weighed(values: Tensor, places: Tensor, weights: Tensor, dim: int) -> Tensor:
    """Sum over taps of values gathered along a dimension, each multiplied by its weights."""
    total = values.index_select(dim, places[0]) * weights[0]
    for place, weight in zip(places[1:], weights[1:], strict=True):
        total.addcmul_(values.index_select(dim, place), weight)
    return total


def inverse_block_dct(coefficients: Tensor, image_size: tuple[int, int], upsample: int = 8) -> Tensor:
    """Least-squares images (B, 3, H, W) for coefficients (B, 192, h, w); not clamped.

    With `align_corners` the enlarged image does not contain the original pixels, so they cannot be read off it
    directly.
    """
    rows = _synthesis(image_size[0], upsample).to(coefficients)
    columns = _synthesis(image_size[1], upsample).to(coefficients)
    unmix = torch.linalg.inv(255 * _YCBCR).to(coefficients)
    parts = []
    height, width = coefficients.shape[-2:]
    for some in torch.split(coefficients, _CHUNK):
        blocks = some.reshape(len(some), 3, BLOCK, BLOCK, height, width).transpose(3, 4)
        planes = rows @ blocks.reshape(len(some), 3, BLOCK * height, BLOCK * width) @ columns.T
        parts.append(torch.einsum("cp,bphw->bchw", unmix, planes + _SHIFT.to(some)[:, None, None]))
    return torch.cat(parts)
