"""Perturbs features with many kinds of noise, none specific to a defence, to train noise-tolerant decoders."""

from __future__ import annotations

import torch
from torch import Tensor

_GRAINS = 4  #: number of grains: squares of 1, 2, 4 or 8 positions that share a noise value
_PATCH = 8  #: side of a patch with a constant share of wrong entries, in positions
_WRONG = 0.45  #: largest share of entries that a correction leaves wrong
_STEPS = (0.2, 0.45)  #: size of the error of a wrong entry, in the features' standard deviations
_TABLE = 1 << 22  #: least number of values in a table
_LEVELS = 1 << 16  #: number of values that an entry of the table of uniform values can take


class TrainingNoise:
    """Noise that is drawn anew for each image at each step of a training.

    Its values are read from random places of two tables: drawing a value for each entry took longer than the rest of a
    training step.
    """

    def __init__(self, most: float, source: torch.Generator) -> None:
        """`most`: the largest normal noise, in standard deviations of the features."""
        self._most, self._source = most, source
        self._normal = self._uniform = torch.empty(0)

    def grainy(self, features: Tensor) -> Tensor:
        """Adds normal noise of random strength to features (B, C, h, w).

        The noise has a grain of one to eight positions, so that the decoder depends less on single values.
        """
        noisy, rows = self._copied(features)
        strengths = self._most * torch.rand(len(rows), generator=self._source) * _deviation(features)
        for row, strength in zip(rows, strengths.tolist(), strict=True):
            high, wide, channels = row.shape
            grain = 2 ** int(torch.randint(0, _GRAINS, (), generator=self._source))
            noise = self._some(self._normal, -(-high // grain), -(-wide // grain), channels)
            row.add_(_repeated(noise, grain)[:high, :wide], alpha=strength)
        return noisy

    def miscorrected(self, features: Tensor) -> Tensor:
        """Moves some entries of features (B, C, h, w) one step up or down, in patches, as a correction's errors do."""
        noisy, rows = self._copied(features)
        small, large = _STEPS
        steps = (small + (large - small) * torch.rand(len(rows), generator=self._source)) * _deviation(features)
        most = _WRONG * torch.rand(len(rows), generator=self._source)
        for row, step, share in zip(rows, steps.tolist(), most, strict=True):
            patches = share * torch.rand(
                -(-row.shape[0] // _PATCH), -(-row.shape[1] // _PATCH), 1, generator=self._source
            )
            each = _repeated(patches, _PATCH)[: row.shape[0], : row.shape[1]] * (_LEVELS / 2)
            least = (each - _LEVELS / 2).round().to(row.device, torch.int16)
            greatest = (_LEVELS / 2 - 1 - each).round().to(row.device, torch.int16)
            drawn = self._some(self._uniform, *row.shape)
            row.add_((drawn < least).view(torch.int8) - (drawn > greatest).view(torch.int8), alpha=step)
        return noisy

    def mixed(self, features: Tensor) -> Tensor:
        """Applies `grainy` to a third of each batch and `miscorrected` to the rest."""
        split = -(-len(features) // 3)
        parts = [self.grainy(features[:split])]
        if len(features) > split:
            parts.append(self.miscorrected(features[split:]))
        return torch.cat(parts).contiguous(memory_format=torch.channels_last)

    def _copied(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """A copy in channels-last layout, and its images as (h, w, C); makes the tables when they are first needed."""
        size = max(_TABLE, 2 * features[0].numel())
        if len(self._normal) < size:
            self._normal = torch.randn(size, generator=self._source).to(features)
            drawn = torch.randint(-_LEVELS // 2, _LEVELS // 2, (size,), dtype=torch.int16, generator=self._source)
            self._uniform = drawn.to(features.device)
        copy = features.clone(memory_format=torch.channels_last)
        return copy, copy.permute(0, 2, 3, 1)

    def _some(self, table: Tensor, *shape: int) -> Tensor:
        """Values from a random place of a table."""
        count = torch.Size(shape).numel()
        start = int(torch.randint(0, len(table) - count + 1, (), generator=self._source))
        return table[start : start + count].view(shape)


def _deviation(features: Tensor) -> float:
    """The features' standard deviation, at every fourth position of every fourth row."""
    return float(features[..., ::4, ::4].float().std())


def _repeated(values: Tensor, times: int) -> Tensor:
    """(h, w, C) to (h times, w times, C)."""
    return values if times == 1 else values.repeat_interleave(times, 0).repeat_interleave(times, 1)
