"""A dataset made of coloured blobs: people differ in colours and places, images of one person in noise.

Their traits: `light`, which everybody sees if they are shaded, and a `coin` that nobody can see.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from bench.contracts import Alignment, Dataset, Evaluation, FaceSet, Pairs

PUBLIC, JUDGED = 24, 16


def draw(person: int, image: int, size: tuple[int, int]) -> np.ndarray:
    """(H, W, 3) uint8."""
    rng = np.random.default_rng(person)
    rows, columns = np.mgrid[: size[0], : size[1]]
    canvas = np.zeros((*size, 3)) + rng.uniform(0.2, 0.8, 3)
    for _ in range(4):
        y, x, spread = rng.uniform(0, size[0]), rng.uniform(0, size[1]), rng.uniform(3, 8)
        bump = np.exp(-((rows - y) ** 2 + (columns - x) ** 2) / (2 * spread**2))
        canvas += bump[..., None] * rng.uniform(-0.6, 0.6, 3)
    canvas += np.random.default_rng(1000 * person + image).normal(0, 0.03, canvas.shape)
    return np.rint(canvas.clip(0, 1) * 255).astype(np.uint8)


@dataclass(frozen=True, kw_only=True)
class Blobs(Dataset):
    """Two images of every person."""

    version: int = 1
    shaded: bool = False  # people are light or dark

    def revision(self) -> str:
        return hashlib.sha256(f"blobs {self.version}{self.shaded or ''}".encode()).hexdigest()

    def traits_revision(self) -> str:
        return "blobs 1"

    def size(self) -> tuple[int, int]:
        return 2 * JUDGED, 2 * PUBLIC

    def load(self, alignment: Alignment, cache: Path) -> Evaluation:
        people = [p for p in range(JUDGED + PUBLIC) for _ in range(2)]
        pixels = np.stack([draw(p, i % 2, alignment.size) for i, p in enumerate(people)])
        names = tuple(f"person{p}/{i % 2}" for i, p in enumerate(people))
        subjects = tuple(f"person{p}" for p in people)
        light = np.array(people) % 4 < 2
        if self.shaded:
            pixels = pixels // 2 + np.where(light, 127, 0).astype(np.uint8)[:, None, None, None]
        traits = {"light": light.astype(np.float32), "coin": np.array(people, np.float32) % 2}
        every = FaceSet(pixels, np.arange(len(people)), names, subjects, np.ones(len(people), bool), traits=traits)
        left = np.repeat(np.arange(0, 2 * JUDGED, 2), 2)
        right = left + np.tile([1, 3], JUDGED)
        pairs = Pairs(
            left=left,
            right=right % (2 * JUDGED),
            genuine=np.tile([True, False], JUDGED),
            fold=np.arange(len(left)) * 2 // len(left),
        )
        return Evaluation(every.subset(range(2 * JUDGED)), pairs, every.subset(range(2 * JUDGED, len(people))))
