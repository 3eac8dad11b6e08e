"""The block cosine transform against scipy's, and its inverse."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.fft import dctn, idctn
from torch import Tensor

from bench.toolkit.block_dct import BLOCK, CHANNELS, block_dct, grid, inverse_block_dct, read_block_dct

SHAPES = st.tuples(st.integers(1, 2), st.integers(2, 20), st.integers(2, 20))


def _images(shape: tuple[int, int, int], seed: int) -> Tensor:
    batch, height, width = shape
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _literally(images: Tensor, upsample: int) -> np.ndarray:
    """Step by step, as the definition has it."""
    if upsample > 1:
        images = F.interpolate(images, scale_factor=upsample, mode="bilinear", align_corners=True)
    red, green, blue = (255 * images).unbind(1)
    luma = 0.299 * red + 0.587 * green + 0.114 * blue
    chroma = (blue - luma) / 1.772 + 128, (red - luma) / 1.402 + 128
    planes = torch.stack([luma, *chroma], 1) - 128
    padding = [(0, 0), (0, 0), *((0, -side % BLOCK) for side in planes.shape[-2:])]
    padded = np.pad(planes.numpy(), padding, mode="edge")
    batch, _, height, width = padded.shape
    found = np.zeros((batch, CHANNELS, height // BLOCK, width // BLOCK))
    for i in range(height // BLOCK):
        for j in range(width // BLOCK):
            block = padded[:, :, BLOCK * i : BLOCK * (i + 1), BLOCK * j : BLOCK * (j + 1)]
            found[:, :, i, j] = dctn(block, axes=(2, 3), norm="ortho").reshape(batch, CHANNELS)
    return found


@given(SHAPES, st.sampled_from([1, 2, 8]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_it_is_scipys_transform_of_the_enlarged_image(shape: tuple[int, int, int], upsample: int, seed: int) -> None:
    images = _images(shape, seed)
    found = block_dct(images, upsample)
    assert found.shape == (shape[0], CHANNELS, *grid(shape[1:], upsample))
    np.testing.assert_allclose(found.numpy(), _literally(images, upsample), atol=1e-3)


@given(SHAPES, st.sampled_from([1, 8]), st.integers(0, 99))
@settings(max_examples=25, deadline=None)
def test_the_inverse_gives_the_image_back(shape: tuple[int, int, int], upsample: int, seed: int) -> None:
    images = _images(shape, seed)
    again = inverse_block_dct(block_dct(images, upsample), shape[1:], upsample)
    np.testing.assert_allclose(again.numpy(), images.numpy(), atol=1e-8)


@given(SHAPES, st.integers(0, 99))
@settings(max_examples=15, deadline=None)
def test_reading_folds_the_blocks_and_shrinks_the_picture(shape: tuple[int, int, int], seed: int) -> None:
    batch, height, width = shape
    found = torch.randn(batch, CHANNELS, height, width, generator=torch.Generator().manual_seed(seed)).double() * 30
    planes = np.zeros((batch, 3, 8 * height, 8 * width))
    for i in range(height):
        for j in range(width):
            block = found[:, :, i, j].reshape(batch, 3, BLOCK, BLOCK).numpy()
            planes[:, :, 8 * i : 8 * i + 8, 8 * j : 8 * j + 8] = idctn(block, axes=(2, 3), norm="ortho")
    luma, blue, red = torch.from_numpy(planes + 128).unbind(1)
    colours = luma + 1.402 * (red - 128), luma - 0.344136 * (blue - 128) - 0.714136 * (red - 128)
    image = torch.stack([*colours, luma + 1.772 * (blue - 128)], 1) / 255
    wanted = F.interpolate(image, size=(height, width), mode="bilinear", align_corners=True)
    np.testing.assert_allclose(read_block_dct(found, (height, width)).numpy(), wanted.numpy(), atol=1e-4)


def test_a_flat_image_has_nothing_but_its_mean() -> None:
    flat = block_dct(torch.full((1, 3, 16, 24), 0.75, dtype=torch.float64), 8)
    luma = flat[:, 0]
    assert float(luma.min()) == pytest.approx(8 * (0.75 * 255 - 128))
    flat[:, 0] = 0
    assert float(flat.abs().max()) < 1e-6


def test_single_precision_is_enough_and_gradients_flow() -> None:
    images = _images((9, 24, 20), 0)
    single = images.float().requires_grad_()
    found = block_dct(single)
    np.testing.assert_allclose(found.detach().numpy(), block_dct(images).numpy(), atol=2e-3)
    found.square().sum().backward()
    assert single.grad is not None
    assert float(single.grad.abs().min()) > 0
