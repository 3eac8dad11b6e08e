"""Embeddings from linear observations: products with known vectors, exact, noisy or known only up to a cell."""

from __future__ import annotations

import torch
from scipy.linalg import qr
from torch import Tensor
from torch.nn import functional

_STEPS = 200  #: of L-BFGS at most
_BLUR = 0.1  #: of 0.03 to 0.4, the best on random embeddings, by a few hundredths of cosine


def spread(embeddings: Tensor) -> list[int]:
    """Places of all rows (N, D), each the farthest from the span of those before it; anew after every D rows."""
    left, order = list(range(len(embeddings))), []
    while left:
        pivots = qr(embeddings[left].double().cpu().numpy().T, mode="r", pivoting=True)[1]
        taken = [left[i] for i in pivots[: embeddings.shape[1]]]
        order += taken
        left = sorted(set(left) - set(taken))
    return order


def least_squares(design: Tensor, observed: Tensor) -> Tensor:
    """The shortest x (B, D) with design (M, D) x closest to observed (B, M); float64."""
    found: Tensor = observed.double() @ torch.linalg.pinv(design.double()).T
    return found


def most_likely(design: Tensor, observed: Tensor, mean: Tensor, covariance: Tensor, noise: Tensor | float) -> Tensor:
    """The most likely x (B, D) of a normal law, given observed (B, M) = design (M, D) x + normal noise; float64.

    Args:
        mean: (D,) and covariance: (D, D), of the law of x.
        noise: covariance (M, M) of the noise, or its variance.
    """
    design, mean, covariance = design.double(), mean.double(), covariance.double()
    if not isinstance(noise, Tensor):
        noise = noise * torch.eye(len(design), dtype=design.dtype, device=design.device)
    gram = design @ covariance @ design.T + noise.double()
    surprise = observed.double() - design @ mean
    found: Tensor = mean + (covariance @ design.T @ torch.linalg.solve(gram, surprise.T)).T
    return found


def most_likely_in_cells(design: Tensor, low: Tensor, high: Tensor, mean: Tensor, covariance: Tensor) -> Tensor:
    """Like `most_likely`, where each product is only known to lie between low and high (B, M); may be infinite.

    The bounds are blurred by a logistic law, a tenth of a cell or of the products' spread wide, whichever is smaller:
    the problem is smooth and convex, and its solution stays away from the bounds, as the mean of a cell does.
    """
    design, mean = design.double(), mean.double()
    values, vectors = torch.linalg.eigh(covariance.double())
    root = vectors * values.clamp_min(0).sqrt()  # x = mean + root z, with z of variance 1
    through, centre = design @ root, design @ mean
    cell = float((high - low).min())
    blur = _BLUR * min(cell, 2 * float(through.square().sum(1).mean().sqrt()))
    z = torch.zeros(len(low), len(mean), dtype=design.dtype, device=design.device, requires_grad=True)
    optimiser = torch.optim.LBFGS([z], max_iter=_STEPS, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimiser.zero_grad()
        products = centre + z @ through.T
        inside = functional.softplus((products - high) / blur) + functional.softplus((low - products) / blur)
        value = z.square().sum() / 2 + inside.sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    found: Tensor = mean + z.detach() @ root.T
    return found
