"""Caches the features of training faces, because a client may cost more than a training step."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from bench.toolkit.precision import as_decoder_input

_MOST = 8 << 30  #: bytes that one training may cache


class FeatureCache:
    """Stores features in the decoder's number format, in an unnamed file that disappears with the process.

    The system's page cache serves the reads, so the memory stays available to others. Features that do not fit are
    recomputed.
    """

    def __init__(self, encode: Callable[[Tensor], Tensor], most: int = _MOST) -> None:
        """`encode` maps images (B, 3, H, W) to features (B, C, h, w) and is deterministic for each image.

        Args:
            most: maximum number of bytes; also limited to half of the temporary folder's free space.
        """
        self._encode = encode
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as its owner
        self._room = min(most, shutil.disk_usage(tempfile.gettempdir()).free // 2)
        self._places: dict[int, int] = {}

    def __call__(self, images: Tensor, names: Sequence[int]) -> Tensor:
        """Features (B, C, h, w), channels last, of images (B, 3, H, W); a name always refers to the same image."""
        new = [i for i, name in enumerate(names) if name not in self._places]
        if len(new) == len(names):
            made = as_decoder_input(self._encode(images))
            self._keep(names, made)
            return made
        found = self._read(images, names, new)
        return found.permute(0, 3, 1, 2)

    def _read(self, images: Tensor, names: Sequence[int], new: list[int]) -> Tensor:
        """(B, h, w, C)."""
        found = torch.empty(len(names), *self._shape, dtype=self._dtype)
        for row, name in zip(found, names, strict=True):
            if name in self._places:
                data = _bytes(row)
                self._file.seek(self._places[name])
                if self._file.readinto(data) != len(data):  # type: ignore[attr-defined]
                    raise OSError("features that were kept in the temporary folder cannot be read back")
        if new:
            made = as_decoder_input(self._encode(images[new]))
            self._keep([names[i] for i in new], made)
            found[new] = made.permute(0, 2, 3, 1)
        return found

    def _keep(self, names: Sequence[int], features: Tensor) -> None:
        rows = features.permute(0, 2, 3, 1).contiguous()
        self._shape, self._dtype = rows.shape[1:], rows.dtype
        for name, row in zip(names, rows, strict=True):
            data = _bytes(row)
            end = len(self._places) * len(data)
            if name in self._places or end + len(data) > self._room:
                continue
            self._file.seek(end)
            try:
                whole = self._file.write(data) == len(data)
            except OSError:  # the disk is full
                whole = False
            if whole:
                self._places[name] = end
            else:
                self._room = 0


def _bytes(row: Tensor) -> memoryview:
    """The row's own memory."""
    return row.view(-1).view(torch.uint8).numpy().data
