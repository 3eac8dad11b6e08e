"""Perturbs features with many kinds of noise, none specific to a defence, to train noise-tolerant decoders."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_GRAINS = 4  #: side of the squares that share a noise value, in positions
_PATCH = 8  #: side of a patch with a constant share of wrong entries, in positions
_WRONG = 0.45  #: largest share of entries that a correction leaves wrong
_STEPS = (0.2, 0.45)  #: size of the error of a wrong entry, in the features' standard deviations


def grainy(features: Tensor, most: float, source: torch.Generator) -> Tensor:
    """Adds normal noise of random strength, up to `most` standard deviations of the features (B, C, h, w).

    The noise has a grain of one to eight positions, so that the decoder depends less on single values.
    """
    rows, columns = features.shape[-2:]
    noise = torch.empty_like(features, device="cpu", dtype=torch.float32)
    for row in noise:
        grain = 2 ** int(torch.randint(0, _GRAINS, (), generator=source))
        coarse = torch.randn(1, len(row), -(-rows // grain), -(-columns // grain), generator=source)
        row.copy_(coarse.repeat_interleave(grain, 2).repeat_interleave(grain, 3)[0, :, :rows, :columns])
    strength = most * torch.rand(len(features), 1, 1, 1, generator=source) * features.std().cpu()
    return features + (noise * strength).to(features)


def miscorrected(features: Tensor, source: torch.Generator) -> Tensor:
    """Moves some entries of features (B, C, h, w) one step up or down, in patches, as a correction's errors do."""
    count, channels, rows, columns = features.shape
    down, across = -(-rows // _PATCH), -(-columns // _PATCH)
    most = _WRONG * torch.rand(count, 1, 1, 1, generator=source)
    share = most * torch.rand(count, 1, down, across, generator=source)
    share = share.repeat_interleave(_PATCH, 2).repeat_interleave(_PATCH, 3)[..., :rows, :columns]
    low, high = _STEPS
    step = (low + (high - low) * torch.rand(count, 1, 1, 1, generator=source)) * features.std().cpu()
    drawn = torch.rand(count, channels, rows, columns, generator=source)
    wrong = (drawn < share / 2).float() - (drawn > 1 - share / 2).float()
    return features + (wrong * step).to(features)


def disturbing(most: float, source: torch.Generator) -> Callable[[Tensor], Tensor]:
    """Applies `grainy` to a third of each batch and `miscorrected` to the rest."""

    def disturb(features: Tensor) -> Tensor:
        split = -(-len(features) // 3)
        parts = [grainy(features[:split], most, source)]
        if len(features) > split:
            parts.append(miscorrected(features[split:], source))
        return torch.cat(parts).to(features.dtype).contiguous(memory_format=torch.channels_last)

    return disturb
