"""Against a shuffle: the image and the order of its channels are searched together, the order as a soft one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Knowledge, Leak, NotApplicable, ReconstructionAttack, Rng, State
from bench.toolkit.block_dct import CHANNELS, read_block_dct
from bench.toolkit.progress import track

if TYPE_CHECKING:
    from bench.contracts.oracle import Oracle

_BATCH = 8  #: images searched side by side
_SETTLED = 0.02  #: converged: the last fifth of the steps improved the objective by less than this share
_CLOSE = 1e-3  #: of a pixel's range: what rounding may make of a picture


@dataclass(frozen=True, kw_only=True)
class SoftPermutation(ReconstructionAttack):
    """Minimises |picture of the softly shuffled channels - template|^2 + total variation over the image and the order.

    For clients that shuffle the 192 channels of what they made of an image and send the picture that is read off them
    (MinusFace). The order is relaxed to a doubly stochastic matrix (Sinkhorn: rows and columns normalised by turns),
    which sharpens as the search goes on. The search knows the client with its gradients, its generator included.
    """

    iterations: int = 300  #: steps of the search
    learning_rate: float = 0.02  #: of the image
    order_rate: float = 0.1  #: of the order's logits
    variation: float = 0.02  #: weight of the total variation
    normalisations: int = 8  #: turns of Sinkhorn's iteration
    images: int | None = 10  #: attacked; None: all

    def __post_init__(self) -> None:
        if min(self.iterations, self.normalisations) < 1 or min(self.learning_rate, self.order_rate) <= 0:
            raise ValueError("iterations and normalisations must be at least 1, and the rates above 0")

    @property
    def level(self) -> Knowledge:
        """Gradients of the whole client."""
        return Knowledge.WHITEBOX

    def subset(self, defense: Defense) -> int | None:
        """As set: each step takes gradients through the client."""
        return self.images

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Sees that what is stored is the picture of shuffled channels; keeps the mean face to start from.

        Raises:
            NotApplicable: it is something else.
        """
        system, size = oracle.system, oracle.image_size
        with torch.no_grad():
            shape = system.encode(torch.zeros(1, 3, *size, device=oracle.device)).shape
            alike = 20 * torch.randn(1, 1, *shape[2:], generator=rng.torch()).to(oracle.device).expand(shape)
            stored = system.protect(alike.contiguous(), rng.images(["probe"]))
        # Where all channels are alike, no order matters, and the reading shows.
        if shape[1] != CHANNELS or tuple(stored.shape[1:]) != (3, *size):
            raise NotApplicable("what is stored is not a picture that is read off shuffled channels")
        if float((read_block_dct(alike, size).clamp(0, 1) - stored.clamp(0, 1)).abs().max()) > _CLOSE:
            raise NotApplicable("what is stored is read off the channels in another way")
        chunks = [public.batch(slice(i, i + 50)).sum(0) for i in range(0, len(public), 50)]
        return State({"start": torch.stack(chunks).sum(0) / len(public)})

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Searches the images of a batch side by side, each on its own."""
        parts = []
        for first in range(0, len(leak.values), _BATCH):
            parts.append(self._search(oracle, state.tensors["start"], leak.values[first : first + _BATCH]))
        return torch.cat(parts)

    def _search(self, oracle: Oracle, start: Tensor, stolen: Tensor) -> Tensor:
        system, size = oracle.system, oracle.image_size
        images = start.to(stolen).expand(len(stolen), -1, -1, -1).clone().requires_grad_()
        order = torch.zeros(len(stolen), CHANNELS, CHANNELS, device=stolen.device, requires_grad=True)
        rates = [{"params": [images], "lr": self.learning_rate}, {"params": [order], "lr": self.order_rate}]
        optimiser = torch.optim.Adam(rates)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, self.iterations)
        lowest = torch.full((len(stolen),), torch.inf, device=stolen.device)
        best, before = images.detach().clone(), lowest
        mark = self.iterations - max(1, self.iterations // 5)
        for step in track(range(self.iterations), "searching image and order", self.iterations):
            sharpness = 1 + 4 * step / self.iterations
            with torch.enable_grad():
                left = system.encode(images)
                mixed = torch.bmm(_sinkhorn(sharpness * order, self.normalisations), left.flatten(2))
                # Not clamped: beyond white and black a clamp would pass no gradient on.
                error = read_block_dct(mixed.view_as(left), size) - stolen
                # Where the template is cut off, only what falls short of the edge is wrong.
                error = torch.where(
                    stolen <= 0, error.clamp_min(0), torch.where(stolen >= 1, error.clamp_max(0), error)
                )
                objective = error.square().mean((1, 2, 3)) + self.variation * _variation(images)
                gradients = torch.autograd.grad(objective.sum(), (images, order))
            found = objective.detach()
            better = found < lowest
            lowest = torch.where(better, found, lowest)
            best[better] = images.detach()[better]
            before = lowest if step == mark else before
            images.grad, order.grad = gradients
            optimiser.step()
            schedule.step()
            with torch.no_grad():
                images.clamp_(0, 1)
        oracle.report(objective=lowest, converged=((before - lowest) < _SETTLED * before).float())
        return best


def _sinkhorn(logits: Tensor, turns: int) -> Tensor:
    """Doubly stochastic matrices (B, N, N), nearly: columns exactly, rows as far as the turns go."""
    for _ in range(turns):
        logits = logits - logits.logsumexp(2, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


def _variation(images: Tensor) -> Tensor:
    """Total variation, isotropic, (B,)."""
    across = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return (across.square() + down.square() + 1e-8).sqrt().flatten(1).mean(1)
