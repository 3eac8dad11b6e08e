"""An attacker's own recogniser, learned from his public people alone: Fisherfaces, or a small network."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, Rng, State
from bench.errors import NotApplicable
from bench.toolkit.embedding_training import Recipe, train_embedding
from bench.toolkit.principal import principal_axes

DIMENSIONS = 128  #: of the network's embedding
_BATCH = 50
_SIDE = 32  #: pixels a side that Fisherfaces see
_COMPONENTS = 400  #: principal components, at most
_AXES = 100  #: discriminant axes, at most
#: Added to the variance within people, relative to its mean over the components. Between .01 and .1 hardly anything
#: changes on synthetic people; 1 halves what is recognised.
_PENALTY = 0.1


def require_people(public: FaceSet) -> None:
    """Refuses faces of which no two are known to show one person.

    Raises:
        NotApplicable: they are so.
    """
    if public.subjects is None or len(set(public.subjects)) == len(public):
        raise NotApplicable("no two public faces are known to show one person: no own recogniser can be trained")


def small_network() -> nn.Sequential:
    """An untrained network from images (B, 3, H, W) to embeddings (B, 128), not normalised."""
    parts: list[nn.Module] = []
    for inputs, outputs in ((3, 24), (24, 48), (48, 96), (96, 128)):
        parts += [nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]
    last = nn.Linear(128 * 16, DIMENSIONS)
    return nn.Sequential(*parts, nn.AdaptiveAvgPool2d(4), nn.Flatten(), last, nn.BatchNorm1d(DIMENSIONS))


def train_network(
    public: FaceSet, recipe: Recipe, rng: Rng, device: torch.device, label: str
) -> tuple[nn.Module, State]:
    """A `small_network` that tells the public people apart, frozen; with its state dict and log.

    Raises:
        NotApplicable: no two public faces are known to show one person.
    """
    require_people(public)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.child("weights").seed)
        network = small_network()
    return network, train_embedding(network, lambda images: images, public, recipe, rng.child("own"), device, label)


def fisherfaces(public: FaceSet, device: torch.device) -> State:
    """The `centre` (D,) and `axes` (D, K) of Fisherfaces: what varies between people more than within them.

    Principal components of small images, whitened by the variance within people, then the principal axes of the
    people's means. It has a closed form, and needs few people.

    Source: Belhumeur, Hespanha and Kriegman, Eigenfaces vs. Fisherfaces (IEEE TPAMI 1997).

    Raises:
        NotApplicable: no two public faces are known to show one person.
    """
    require_people(public)
    rows = torch.cat(
        [_small(public.batch(slice(i, i + _BATCH), device)) for i in range(0, len(public), _BATCH)]
    ).double()
    centre = rows.mean(0)
    rows -= centre
    components = principal_axes(rows, _COMPONENTS)
    seen = rows @ components
    people = torch.from_numpy(np.unique(np.array(public.subjects, dtype=object), return_inverse=True)[1]).to(device)
    counts = torch.bincount(people)
    means = torch.zeros(len(counts), seen.shape[1], dtype=seen.dtype, device=device).index_add_(0, people, seen)
    means /= counts[:, None]
    apart = seen - means[people]
    within = apart.T @ apart / max(1, len(seen) - len(counts))
    within += _PENALTY * within.diagonal().mean() * torch.eye(len(within), dtype=seen.dtype, device=device)
    lengths, axes = torch.linalg.eigh(within)
    whitening = axes * lengths.rsqrt()
    between = torch.cov((means @ whitening).T)
    _, chosen = torch.linalg.eigh(between)
    found = components @ whitening @ chosen[:, -min(_AXES, len(counts) - 1) :]
    tensors = {"centre": centre.float().cpu(), "axes": found.float().cpu().contiguous()}
    return State(tensors, {"people": len(counts), "images": len(public), "axes": found.shape[1]})


def fisher_embeddings(state: State, images: Tensor) -> Tensor:
    """Unit embeddings (B, K) of images (B, 3, H, W)."""
    centre, axes = (state.tensors[name].to(images.device) for name in ("centre", "axes"))
    return functional.normalize((_small(images) - centre) @ axes)


def _small(images: Tensor) -> Tensor:
    return functional.interpolate(images, (_SIDE, _SIDE), mode="bilinear", antialias=True, align_corners=False).flatten(
        1
    )
