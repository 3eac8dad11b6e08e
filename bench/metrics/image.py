"""Pixel metrics of a reconstruction: SSIM (Wang et al. 2004), PSNR and MSE, equal to scikit-image's."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter1d
from torch import Tensor

from bench.metrics.catalogue import PSNR_CAP_DB

SSIM_WINDOW = 7

IMAGE_SETTINGS: dict[str, str] = {
    "ssim": f"as scikit-image, uniform {SSIM_WINDOW}x{SSIM_WINDOW} window, data range 1, mean over RGB",
    "psnr_db": f"mean of per-image dB, peak 1, capped at {PSNR_CAP_DB:g}",
    "mse": "on [0, 1]",
    "mae": "mean absolute difference, on [0, 1]",
}

_CHUNK = 2  #: images per call: few enough for the processor's cache, enough to use all threads


def image_scores(originals: Tensor, reconstructions: Tensor) -> dict[str, NDArray[np.float64]]:
    """Per image (B,): `ssim` (at most 1), `psnr_db` (at most 100 dB), `mse` and `mae` (0 to 1).

    The values equal those of scikit-image's `structural_similarity` and `peak_signal_noise_ratio` on float64 images
    (the tests compare them). Its loop over images takes twice as long.

    Args:
        originals, reconstructions: (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: the shapes differ, values are not finite, or the images are smaller than the window.
    """
    if originals.shape != reconstructions.shape or originals.ndim != 4:
        raise ValueError(f"expected two (B, 3, H, W), got {tuple(originals.shape)} and {tuple(reconstructions.shape)}")
    if min(originals.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"images of {tuple(originals.shape[-2:])} are smaller than SSIM's {SSIM_WINDOW}-pixel window")
    if not (torch.isfinite(originals).all() and torch.isfinite(reconstructions).all()):
        raise ValueError("images hold values that are not finite")
    chunks = zip(torch.split(originals, _CHUNK), torch.split(reconstructions, _CHUNK), strict=True)
    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        found = list(pool.map(_scores, *zip(*chunks, strict=True))) if len(originals) else []
    ssim, mse, mae = (
        np.concatenate([np.empty(0), *part]) for part in (zip(*found, strict=True) if found else ((),) * 3)
    )
    with np.errstate(divide="ignore"):  # identical images have infinite PSNR before the cap
        psnr = np.minimum(-10 * np.log10(mse), PSNR_CAP_DB)
    return {"ssim": ssim, "psnr_db": psnr, "mse": mse, "mae": mae}


def _scores(originals: Tensor, reconstructions: Tensor) -> tuple[NDArray[np.float64], ...]:
    """(SSIM, MSE, MAE) of a few images. SSIM is Wang et al. 2004, Eq. 13, with sample (co)variances."""
    x, y = (images.double().cpu().numpy() for images in (originals, reconstructions))
    mean_x, mean_y, power, product = map(_window_mean, (x, y, x * x + y * y, x * y))
    sample = SSIM_WINDOW**2 / (SSIM_WINDOW**2 - 1)
    means, squares = mean_x * mean_y, mean_x**2 + mean_y**2
    covariance, variances = sample * (product - means), sample * (power - squares)
    c1, c2 = 0.01**2, 0.03**2
    ssim = (2 * means + c1) * (2 * covariance + c2) / ((squares + c1) * (variances + c2))
    return ssim.mean((1, 2, 3)), np.square(x - y).mean((1, 2, 3)), np.abs(x - y).mean((1, 2, 3))


def _window_mean(planes: NDArray[np.float64]) -> NDArray[np.float64]:
    """Means of all windows inside the image, computed separably by rows and columns."""
    edge = slice(SSIM_WINDOW // 2, -(SSIM_WINDOW // 2))
    columns = uniform_filter1d(planes, SSIM_WINDOW, axis=-1)[..., edge]
    found: NDArray[np.float64] = uniform_filter1d(columns, SSIM_WINDOW, axis=-2)[..., edge, :]
    return found
