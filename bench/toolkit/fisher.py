"""What noisy features tell about an image, as Fisher information, and the errors that no attacker can be below.

A template t = f(x) + noise with independent entries has the Fisher information I(x) = J' W J: J is the Jacobian of f
with respect to the pixels, and W the diagonal of the Fisher information of each entry's noise about its location.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.contracts import FaceSet, Rng

Features = Callable[[Tensor], Tensor]

_BATCH = 8  #: images per pass
_STEP = 1e-4  #: rms change of a pixel value in a directional derivative
_DIRECTIONS = 64  #: principal directions in which the floor is computed
_FEWEST = 4  #: public faces per principal direction, half of them to find it


def information_trace(
    features: Features, weight: Features, faces: FaceSet, probes: int, rng: Rng, device: torch.device
) -> Tensor:
    """tr I(x) of each face by Hutchinson's estimate: E |J' W^(1/2) u|^2 over signs u.

    The relative standard error is about sqrt(2 / (probes * rank)), so a few probes are enough.

    Args:
        features: maps images (B, 3, H, W) in [0, 1] to f(x), (B, ...), with gradients.
        weight: maps f(x) to the Fisher information of each entry's noise, of the same shape.
        probes: vector-Jacobian products per image.

    Returns:
        (N,) in float64, in units of 1 / (pixel value)^2.
    """
    source, found = rng.torch(), []
    for start in range(0, len(faces), _BATCH):
        images = faces.batch(slice(start, start + _BATCH), device)
        total = torch.zeros(len(images), dtype=torch.float64)
        for _ in range(probes):
            with torch.enable_grad():
                point = images.clone().requires_grad_()
                made = features(point)
                signs = torch.randint(0, 2, made.shape, generator=source).to(made) * 2 - 1
                scale = weight(made.detach()).sqrt()
                (back,) = torch.autograd.grad((made * signs * scale).sum(), point)
            total += back.double().square().sum((1, 2, 3)).cpu()
        found.append(total / probes)
    return torch.cat(found)


@dataclass(frozen=True)
class Floor:
    """The van Trees bound of one template, for faces that are drawn from a Gaussian."""

    mse: float  #: no attacker's mean squared error over such faces is below, on [0, 1]
    mse_isotropic: float  #: the bound for a Gaussian with the same variance in all other directions; at least `mse`
    prior_mse: float  #: `mse` with no template at all
    dfil: float  #: mean over faces of tr I(x) / d; an unbiased attacker's mean squared error is at least 1 / dfil
    directions: int  #: the number of principal directions in which the bound was computed
    faces: int  #: the number of faces over which I(x) was averaged


def van_trees(
    features: Features, weight: Features, public: FaceSet, sample: int, rng: Rng, device: torch.device
) -> Floor | None:
    """A floor under every attacker's mean squared error per pixel value (van Trees 1968; Gill and Levit 1995).

    The error's covariance is at least (E I(x) + P)^-1, where P is the prior's information. In the principal directions
    V of the public faces, a Gaussian prior has P = diag(1 / variance), and

        MSE >= tr((E V' I(x) V + diag(1 / variance))^-1) / d,

    because the error in some directions is no larger than in all, and a block of an inverse is no smaller than the
    inverse of the block. So the bound needs no prior in the other directions, and no d x d matrix: J V by central
    differences.

    Where noise is weak, nearly all of the error is in the other directions, and this is far too low. `mse_isotropic`
    adds them for a prior whose variance there is the same everywhere (probabilistic PCA), by the bound's trace form:
    n^2 / (tr U' E I(x) U + n / variance) for the n directions U. Pictures have less variance in fine detail than that,
    which an attacker may use, so it is a yardstick rather than a floor.

    The bound holds for the Gaussian. Of all distributions with its covariance, this has the least information, so an
    attacker who knows faces better than their covariance may fall below.

    Args:
        public: faces whose principal directions and variances are the prior's.
        sample: the number of these on which I(x) is averaged.

    Returns:
        None if there are too few faces to estimate two directions.
    """
    count = min(_DIRECTIONS, len(public) // _FEWEST)
    if count < 2:
        return None
    pixels = torch.cat([public.batch(slice(i, i + 50)).flatten(1) for i in range(0, min(len(public), 1000), 50)])
    # Directions from one half of the faces and variances from the other: along a sample's own directions, the sample's
    # variance is too large.
    centred, others = pixels[::2] - pixels[::2].mean(0), pixels[1::2] - pixels[::2].mean(0)
    values, vectors = torch.linalg.eigh((centred @ centred.T).double())
    values, vectors = values.flip(0)[:count], vectors.flip(1)[:, :count]
    basis = (centred.T.double() @ vectors / values.clamp_min(1e-12).sqrt()).float()
    variance = (others @ basis).double().square().mean(0).clamp_min(1e-12)
    order = rng.numpy().permutation(len(public))[:sample]
    size = pixels.shape[1]
    step = _STEP * size**0.5
    information = torch.zeros(count, count, dtype=torch.float64)
    for place in order:
        image = public.batch([int(place)], device)
        with torch.no_grad():
            scale = weight(features(image)).flatten(1).sqrt()[0]
            rows = []
            for start in range(0, count, _BATCH):
                some = basis[:, start : start + _BATCH].T.reshape(-1, *image.shape[1:]).to(device)
                rows.append(((features(image + step * some) - features(image - step * some)) / (2 * step)).flatten(1))
            slopes = torch.cat(rows) * scale  # in float32, because features may be as large as a frequency family's
            information += (slopes @ slopes.T).double().cpu() / len(order)
    traces = information_trace(features, weight, public.subset(order), 4, rng.child("signs"), device)
    floor = float(torch.linalg.inv(information + torch.diag(1 / variance)).diagonal().sum()) / size
    rest = size - count
    left = float(others.double().square().sum()) / len(others) - float(variance.sum())
    told = max(0.0, float(traces.mean() - information.trace()))
    beyond = rest**2 / (told + rest**2 / max(left, 1e-12)) / size
    return Floor(
        mse=floor,
        mse_isotropic=floor + beyond,
        prior_mse=float(variance.sum() / size),
        dfil=float(traces.mean()) / size,
        directions=count,
        faces=len(order),
    )
