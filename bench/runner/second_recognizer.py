"""The recogniser of `run.judge`: nobody attacked it, and it says whom a rebuilt face shows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from bench.contracts import Alignment, SplitNetwork
from bench.errors import UserError
from bench.metrics.rates import error_rates
from bench.metrics.verification import Impostors
from bench.storage.records import Measure

FMRS = (1e-2, 1e-3)  #: false-match rates at which rebuilt faces are counted as accepted

SETTINGS = {
    "judge_cosine": "of the reconstruction with the original, both embedded by run.judge; the original in its own crop",
    "judge_sar": "share of reconstructions above the judge's threshold at a false-match rate among all test images of "
    "different people; an image where no face was found for the judge counts as refused",
}


def crop_transform(source: Alignment, target: Alignment, label: str = "run.judge") -> NDArray[np.float64] | None:
    """Turns a face that was cut out for one recogniser into one for another; None where they want the same.

    Args:
        label: of the recogniser that wants `target`, for the message.

    Returns:
        (2, 3): from normalised coordinates of the target's image to those of the source's, as
        `torch.nn.functional.affine_grid` takes it.

    Raises:
        UserError: only for crops that five points fix it is known how one becomes the other.
    """
    if source == target:
        return None
    if not source.points or not target.points:
        raise UserError(
            f"{label}: a rebuilt face cut out as {source.method} {source.size} cannot be shown to a recogniser that "
            f"wants {target.method} {target.size}; name one with the same alignment, or two that align by five points"
        )
    from skimage.transform import SimilarityTransform

    there = SimilarityTransform.from_estimate(np.array(target.points), np.array(source.points)).params

    def to_pixels(size: tuple[int, int]) -> NDArray[np.float64]:
        """From [-1, 1] to pixels: both counted from the image's corner, as faces are cut out."""
        height, width = size
        return np.array([[width / 2, 0, width / 2], [0, height / 2, height / 2], [0, 0, 1.0]])

    found: NDArray[np.float64] = np.linalg.inv(to_pixels(source.size)) @ there @ to_pixels(target.size)
    return found[:2]


@dataclass(frozen=True, eq=False)
class SecondRecognizer:
    """The judge's network, and how a crop becomes one of its own."""

    network: SplitNetwork
    transform: NDArray[np.float64] | None  #: as `crop_transform` gives it
    device: torch.device

    def embed(self, images: Tensor) -> NDArray[np.float32]:
        """Unit embeddings (B, D) of images (B, 3, h, w) in its own crop."""
        with torch.no_grad():
            return np.asarray(self.network.embed(self.network.extract(images.to(self.device))).float().cpu().numpy())

    def see(self, images: Tensor) -> NDArray[np.float32]:
        """Unit embeddings (B, D) of images (B, 3, H, W) in the attacked recogniser's crop; edges are repeated."""
        if self.transform is not None:
            theta = torch.from_numpy(self.transform).float().expand(len(images), -1, -1)
            grid = functional.affine_grid(theta, [len(images), 3, *self.network.image_size], align_corners=False)
            images = functional.grid_sample(images, grid, padding_mode="border", align_corners=False)
        return self.embed(images)


@dataclass(frozen=True, eq=False)
class KnownFaces:
    """All test images as the judge sees them."""

    embeddings: NDArray[Any]  #: (N, D)
    found: NDArray[np.bool_]  #: (N,) False where no face was found for the judge
    owners: NDArray[Any]  #: (N,) whom each shows

    @cached_property
    def _impostors(self) -> Impostors:
        return Impostors.among(self.embeddings[self.found], self.owners[self.found])

    def accepted(
        self, cosines: NDArray[Any], rows: NDArray[np.int64]
    ) -> tuple[Mapping[str, Measure], Mapping[str, NDArray[np.bool_]]]:
        """How many reconstructions of test images `rows` (M,) are accepted: the figures, and image by image.

        A rate behind which too few pairs of different people stand has a note instead of a value.
        """
        own = np.where(self.found[rows], cosines, -2.0)  # below every threshold
        measures = error_rates(own, self.owners[rows], self._impostors, FMRS, eer=False)
        figures, table = {}, {}
        for fmr, measure in zip(FMRS, measures.values(), strict=True):
            figures[f"judge_sar_{fmr:g}"] = measure
            if measure.value is not None:
                others = np.sort(self._impostors.similarity)
                refused = others[len(others) - 1 - int(np.floor(fmr * len(others) + 1e-9))]
                table[f"judge_sar_{fmr:g}"] = own > refused
        return figures, table
