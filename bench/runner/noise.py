"""Measures the noise that a defence actually adds to features."""

from __future__ import annotations

import math

from torch import Tensor


class NoiseMeter:
    """Accumulates a defence's noise over batches."""

    def __init__(self) -> None:
        self._sums: dict[str, list[float]] = {}

    def add(self, features: Tensor, reference: Tensor, templates: Tensor) -> None:
        """Adds one batch; ignored if the template's shape differs from the features'."""
        if reference.shape == templates.shape:
            self._add("", reference, templates)
        if reference is not features and reference.shape == features.shape:
            self._add("shadow_step_", features, reference)

    def _add(self, name: str, start: Tensor, end: Tensor) -> None:
        sums = self._sums.setdefault(name, [0.0] * 6)
        # One image at a time, because a batch of large templates in double precision may not fit into memory.
        for one, other in zip(start, end, strict=True):
            step = (other - one).double()
            square = float(step.square().sum())
            sums[0] += square
            sums[1] += float(one.double().square().sum())
            sums[2] += step.numel()
            sums[3] = max(sums[3], float(step.abs().max()))
            sums[4] += math.sqrt(square)
            sums[5] += 1

    def figures(self) -> dict[str, float]:
        """rms, linf and mean L2 in the features' units, and the signal-to-noise ratio in dB (absent without noise)."""
        found: dict[str, float] = {}
        for name, (noise, signal, count, largest, norms, images) in self._sums.items():
            found[f"{name}rms"] = (noise / count) ** 0.5
            found[f"{name}linf"] = largest
            found[f"{name}l2"] = norms / images
            found[f"{name}signal_rms"] = (signal / count) ** 0.5
            if noise > 0:
                found[f"{name}snr_db"] = 10 * math.log10(signal / noise)
        return {key: round(value, 6) for key, value in found.items()}
