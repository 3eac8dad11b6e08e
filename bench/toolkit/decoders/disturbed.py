"""Features with noise of many kinds, for decoders that have to bear noise; none of it knows a defence."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

_GRAINS = 4  #: noise comes in squares of 1, 2, 4 or 8 places
_PATCH = 8  #: places a side of a patch in which equally many entries are wrong
_WRONG = 0.45  #: largest share of the entries that a correction leaves wrong
_STEPS = (0.15, 0.8)  #: how far off a wrong entry is, in the features' standard deviations


def grainy(features: Tensor, most: float, source: torch.Generator) -> Tensor:
    """Features (B, C, h, w) with normal noise of every strength up to `most` of their standard deviations.

    Its grain is one to eight places: a decoder that has seen noise of all kinds leans less on any one value.
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
    """Features (B, C, h, w) with some entries a step too high or too low, in patches: what a correction leaves."""
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
    """A third of each batch as `grainy`, the rest as `miscorrected`."""

    def disturb(features: Tensor) -> Tensor:
        split = -(-len(features) // 3)
        parts = [grainy(features[:split], most, source)]
        if len(features) > split:
            parts.append(miscorrected(features[split:], source))
        return torch.cat(parts).to(features.dtype).contiguous(memory_format=torch.channels_last)

    return disturb
