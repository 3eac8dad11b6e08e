"""Pixel metrics of a reconstruction: SSIM (Wang et al. 2004), PSNR, MSE, all by scikit-image."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from skimage.metrics import mean_squared_error, peak_signal_noise_ratio, structural_similarity
from torch import Tensor

SSIM_WINDOW = 7
PSNR_CAP_DB = 100.0  #: what identical images get

IMAGE_SETTINGS: dict[str, str] = {
    "ssim": f"scikit-image, uniform {SSIM_WINDOW}x{SSIM_WINDOW} window, data range 1, mean over RGB",
    "psnr_db": f"mean of per-image dB, peak 1, capped at {PSNR_CAP_DB:g}",
    "mse": "on [0, 1]",
}


def image_scores(originals: Tensor, reconstructions: Tensor) -> dict[str, NDArray[np.float64]]:
    """`ssim` (at most 1), `psnr_db` (at most 100 dB) and `mse` (0 to 1) of each image, (B,).

    Args:
        originals, reconstructions: (B, 3, H, W) in [0, 1].

    Raises:
        ValueError: shapes differ, values are not finite, or images are smaller than the window.
    """
    if originals.shape != reconstructions.shape or originals.ndim != 4:
        raise ValueError(f"expected two (B, 3, H, W), got {tuple(originals.shape)} and {tuple(reconstructions.shape)}")
    if min(originals.shape[-2:]) < SSIM_WINDOW:
        raise ValueError(f"images of {tuple(originals.shape[-2:])} are smaller than SSIM's {SSIM_WINDOW}-pixel window")
    if not (torch.isfinite(originals).all() and torch.isfinite(reconstructions).all()):
        raise ValueError("images hold values that are not finite")
    pairs = list(zip(_arrays(originals), _arrays(reconstructions), strict=True))
    ssim = np.array([_ssim(one, other) for one, other in pairs], dtype=np.float64)
    mse = np.array([mean_squared_error(a, b) for a, b in pairs], dtype=np.float64)
    with np.errstate(divide="ignore"):  # identical images: infinitely many dB, before the cap
        psnr = np.array([_psnr(a, b) for a, b in pairs], dtype=np.float64)
    psnr = np.minimum(psnr, PSNR_CAP_DB)
    return {"ssim": ssim, "psnr_db": psnr, "mse": mse}


def _arrays(images: Tensor) -> NDArray[np.float64]:
    return images.permute(0, 2, 3, 1).double().cpu().numpy()


def _ssim(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    found: Any = structural_similarity(  # type: ignore[no-untyped-call]
        one, other, win_size=SSIM_WINDOW, data_range=1.0, channel_axis=-1
    )
    return float(found)


def _psnr(one: NDArray[np.float64], other: NDArray[np.float64]) -> float:
    found: Any = peak_signal_noise_ratio(one, other, data_range=1.0)  # type: ignore[no-untyped-call]
    return float(found)
