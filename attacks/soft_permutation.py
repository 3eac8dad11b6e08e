"""Inverts a channel shuffle: optimises the image and a relaxed permutation of its channels together."""

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

_BATCH = 8  #: images optimised in parallel
_SETTLED = 0.02  #: converged: the objective improved by less than this fraction over the last fifth of the steps
_CLOSE = 1e-3  #: allowed effect of rounding on a picture, as a fraction of a pixel's range


@dataclass(frozen=True, kw_only=True)
class SoftPermutation(ReconstructionAttack):
    """Minimises |picture of the softly shuffled channels - template|^2 + total variation over image and permutation.

    For clients that shuffle 192 channels computed from an image and send the picture that the inverse transform makes
    of them (MinusFace). The permutation is relaxed to a doubly stochastic matrix (Sinkhorn: rows and columns are
    normalised alternately), which sharpens as the search proceeds. The attack has the client's gradients, including its
    generator's.
    """

    iterations: int = 300  #: optimisation steps
    learning_rate: float = 0.02  #: learning rate of the image
    order_rate: float = 0.1  #: learning rate of the permutation's logits
    variation: float = 0.02  #: weight of the total variation
    normalisations: int = 8  #: Sinkhorn iterations
    images: int | None = 10  #: images to attack; None: all

    def __post_init__(self) -> None:
        if min(self.iterations, self.normalisations) < 1 or min(self.learning_rate, self.order_rate) <= 0:
            raise ValueError("iterations and normalisations must be at least 1, and the rates above 0")

    @property
    def level(self) -> Knowledge:
        """Needs gradients of the whole client."""
        return Knowledge.WHITEBOX

    def subset(self, defense: Defense) -> int | None:
        """As configured: each step takes gradients through the client."""
        return self.images

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Tests that the template is a picture of shuffled channels; stores the mean face as the starting point.

        Raises:
            NotApplicable: the template is something else.
        """
        system, size = oracle.system, oracle.image_size
        with torch.no_grad():
            shape = system.encode(torch.zeros(1, 3, *size, device=oracle.device)).shape
            alike = 20 * torch.randn(1, 1, *shape[2:], generator=rng.torch()).to(oracle.device).expand(shape)
            stored = system.protect(alike.contiguous(), rng.images(["probe"]))
        # If all channels are equal, their order does not matter, which isolates the inverse transform.
        if shape[1] != CHANNELS or tuple(stored.shape[1:]) != (3, *size):
            raise NotApplicable("what is stored is not a picture that is read off shuffled channels")
        if float((read_block_dct(alike, size).clamp(0, 1) - stored.clamp(0, 1)).abs().max()) > _CLOSE:
            raise NotApplicable("what is stored is read off the channels in another way")
        chunks = [public.batch(slice(i, i + 50)).sum(0) for i in range(0, len(public), 50)]
        return State({"start": torch.stack(chunks).sum(0) / len(public)})

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Optimises the images of a batch in parallel, each independently."""
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
                # Not clamped: a clamp would block the gradient beyond black and white.
                error = read_block_dct(mixed.view_as(left), size) - stolen
                # Where the template is clipped, only values that fall short of the limit count as errors.
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
    """Approximately doubly stochastic matrices (B, N, N): columns exactly, rows as far as the iterations converge."""
    for _ in range(turns):
        logits = logits - logits.logsumexp(2, keepdim=True)
        logits = logits - logits.logsumexp(1, keepdim=True)
    return logits.exp()


def _variation(images: Tensor) -> Tensor:
    """Isotropic total variation, (B,)."""
    across = images[..., :-1, 1:] - images[..., :-1, :-1]
    down = images[..., 1:, :-1] - images[..., :-1, :-1]
    return (across.square() + down.square() + 1e-8).sqrt().flatten(1).mean(1)
