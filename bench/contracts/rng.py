"""Random numbers: one generator for every role, and one for every image."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.seeds import derive_seed

_WORTH_THREADS = 500_000  #: number of values above which threads save more than they cost


@dataclass(frozen=True)
class Rng:
    """A named source of randomness. Create a child for each role; never use one for two purposes."""

    seed: int

    def child(self, *names: object) -> Rng:
        """An independent source for a role below this one."""
        return Rng(derive_seed(self.seed, *names))

    def torch(self) -> torch.Generator:
        """A new CPU generator; noise is drawn on the CPU, so that it is the same for every device."""
        return torch.Generator().manual_seed(self.seed)

    def numpy(self) -> np.random.Generator:
        """A new numpy generator."""
        return np.random.default_rng(self.seed)

    def orthonormal(self, rows: int, columns: int) -> Tensor:
        """A (rows, columns) matrix with orthonormal columns, or rows if these are fewer; Haar-distributed, float32.

        Q of the QR decomposition of a Gaussian matrix, where R has a positive diagonal (Mezzadri 2007): without this
        sign correction, Q would not be uniformly distributed.
        """
        tall, thin = max(rows, columns), min(rows, columns)
        found = torch.linalg.qr(torch.randn(tall, thin, generator=self.torch(), dtype=torch.float64))
        q: Tensor = (found.Q * found.R.diagonal().sign()).float()
        return q if rows >= columns else q.T.contiguous()

    def images(self, names: Sequence[str]) -> ImageRng:
        """One generator per image, so that batch size and order do not affect an image's noise."""
        return ImageRng(tuple(np.random.Generator(np.random.SFC64(self.child("image", name).seed)) for name in names))


@dataclass(frozen=True)
class ImageRng:
    """Per-image generators of a batch. Each draw advances them, so the next call gives fresh noise.

    They are numpy's, because torch's take twice as long and draw one image at a time.
    """

    generators: tuple[np.random.Generator, ...] = field(repr=False)

    def __len__(self) -> int:
        return len(self.generators)

    def draw(self, like: Tensor, fill: Callable[[np.random.Generator, NDArray[np.float32]], object]) -> Tensor:
        """Calls `fill(generator, row)` for each image; the result has the shape, type and device of `like` (B, ...).

        Rows are filled in parallel on all cores, so it is best to draw the noise of many steps in one call.
        """
        if like.shape[0] != len(self):
            raise ValueError(f"{len(self)} generators for a batch of {like.shape[0]} images")
        noise = np.empty(like.shape, dtype=np.float32)
        if noise.size < _WORTH_THREADS:
            for generator, row in zip(self.generators, noise, strict=True):
                fill(generator, row)
        else:
            with ThreadPoolExecutor(torch.get_num_threads()) as pool:
                for _ in pool.map(fill, self.generators, noise):
                    pass
        return torch.from_numpy(noise).to(like)

    def uniform(self, like: Tensor, low: float = 0.0, high: float = 1.0) -> Tensor:
        """Uniform noise on [low, high), with the shape, type and device of `like` (B, ...)."""

        def fill(source: np.random.Generator, row: NDArray[np.float32]) -> None:
            source.random(dtype=np.float32, out=row)
            row *= high - low
            row += low

        return self.draw(like, fill)

    def normal(self, like: Tensor) -> Tensor:
        """Standard normal noise, with the shape, type and device of `like` (B, ...)."""
        return self.draw(like, lambda source, row: source.standard_normal(dtype=np.float32, out=row))

    def laplace(self, like: Tensor) -> Tensor:
        """Laplace noise of scale 1 (standard deviation sqrt(2)), by inverse transform sampling."""

        def fill(source: np.random.Generator, row: NDArray[np.float32]) -> None:
            # In float32, whatever `like` is: bfloat16 rounds many draws to the edge, whose logarithm is infinite.
            source.random(dtype=np.float32, out=row)
            row -= 0.5
            inner = np.maximum(1 - 2 * np.abs(row), np.float32(2**-24))  # the resolution of a draw
            np.multiply(-np.sign(row), np.log(inner), out=row)

        return self.draw(like, fill)
