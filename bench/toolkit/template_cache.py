"""Caches templates of the attacker's own faces, because protecting a face takes longer than a training step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from bench.contracts import FaceSet
from bench.toolkit.progress import track


def digest(image: Tensor) -> str:
    """A name for an image (3, H, W) on the processor."""
    return hashlib.blake2b(image.numpy().tobytes(), digest_size=16).hexdigest()


class TemplateCache:
    """Maps faces to the server's templates, each computed once and stored in half precision.

    They stay on a GPU if at least half of its memory is free.
    """

    def __init__(self, enrol: Callable[[Tensor, Sequence[str]], Tensor], device: torch.device) -> None:
        """`enrol` maps images (B, 3, H, W) and as many names to templates; names are digests of the images."""
        self._enrol, self._device = enrol, device
        self._kept: dict[str, Tensor] = {}
        self._place = torch.device("cpu")
        if device.type == "cuda":
            free, whole = torch.cuda.mem_get_info(device)
            self._place = device if free > whole // 2 else self._place

    def fill(self, faces: FaceSet, size: int, label: str) -> None:
        """Enrols a whole set in batches of about `size`; avoids a small last batch, whose statistics would differ."""
        batches = np.array_split(np.arange(len(faces)), max(1, len(faces) // size))
        for batch in track(batches, label, len(batches)):
            self(faces.batch(batch, self._device))

    def __call__(self, images: Tensor) -> Tensor:
        """Returns templates; computes and stores those of new faces (for example mirrored ones)."""
        names = [digest(image) for image in images.cpu()]
        new = {name: i for i, name in enumerate(names) if name not in self._kept}
        if new:
            made = self._enrol(images[list(new.values())], list(new))
            for name, template in zip(new, made, strict=True):
                self._kept[name] = template.half().to(self._place)
        return torch.stack([self._kept[name] for name in names]).to(self._device, torch.float32)
