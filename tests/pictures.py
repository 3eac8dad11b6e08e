"""Pictures for tests: nobody's face, each unlike the others even when it is scaled down."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, size: tuple[int, int] = (60, 60)) -> Image.Image:
    """Soft blobs of colour, drawn from the number; `size` is (width, height)."""
    rng = np.random.default_rng(number)
    coarse = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
    return coarse.resize(size, Image.Resampling.BICUBIC)


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """The image's file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)  # type: ignore[arg-type]
    return buffer.getvalue()


def save(path: Path, image: Image.Image, **options: object) -> Path:
    """Writes it, with the folders above."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, **options)  # type: ignore[arg-type]
    return path


def tree(root: Path, people: dict[str, int], suffix: str = ".png", size: tuple[int, int] = (60, 60)) -> Path:
    """ROOT/NAME/NAME_0001.png for so many images a person, each another picture."""
    number = 0
    for person, images in people.items():
        for image in range(1, images + 1):
            number += 1
            save(root / person / f"{person}_{image:04d}{suffix}", picture(number, size))
    return root
