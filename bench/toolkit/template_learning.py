"""Learns embeddings from sets of keyed templates: ridge regression, refined by a small network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import Rng, State
from bench.errors import NotApplicable

_RIDGES = (1e-2, 1e-1, 1.0, 10.0, 100.0, 1000.0)  #: tried, times the mean of the kernel's diagonal
_TABLE = 8  #: numbers that stand for an index
_HELD = 0.2  #: share of the people on whom the ridge is chosen and the network stops
_LOOK = 5  #: steps between looks at the people held out

Network = tuple[Tensor, ...]


@dataclass(frozen=True, kw_only=True)
class SetRecipe:
    """How a network is trained on sets of templates."""

    hidden: int = 128  #: units of its two hidden layers
    steps: int = 200  #: maximum number of steps, each on all sets
    patience: int = 60  #: steps without a better result on people held out, after which it stops
    learning_rate: float = 1e-3  #: of AdamW

    def __post_init__(self) -> None:
        if min(self.hidden, self.patience) < 1 or self.steps < 0 or self.learning_rate <= 0:
            raise ValueError("hidden and patience must be at least 1, steps at least 0, and learning_rate above 0")


def numbers(templates: Tensor) -> Tensor:
    """Templates (N, ...) as float32 (N, F): bits as -1 and 1, an index as a row of a fixed random table."""
    flat = templates.flatten(1)
    if flat.is_floating_point():
        return flat.float()
    if flat.dtype == torch.bool:
        return 2 * flat.float() - 1
    table = torch.randn(256, _TABLE, generator=Rng(0).torch()).to(flat.device)
    return table[flat.long() % 256].flatten(1)


def held_out(people: Sequence[str], rng: Rng, share: float = _HELD) -> Tensor:
    """Which of these (N,) belong to the people who are held out: at least one person, and not all.

    Raises:
        NotApplicable: there are fewer than two people.
    """
    names = sorted(set(people))
    if len(names) < 2:
        raise NotApplicable("learning from templates needs own faces of two people or more")
    count = min(max(1, round(share * len(names))), len(names) - 1)
    chosen = set(np.array(names, dtype=object)[rng.numpy().permutation(len(names))[:count]])
    return torch.tensor([person in chosen for person in people])


def learn_embeddings(
    sets: Tensor, truth: Tensor, people: Sequence[str], rng: Rng, recipe: SetRecipe, start: Tensor | None = None
) -> State:
    """Learns embeddings (N, D), of unit length, from sets of templates (N, R, F).

    Ridge regression on the mean of a set, whose ridge is chosen on people held out. To it, a network adds what it gets
    from each template, averaged over the set (deep sets). Its last layer starts at 0, so it is at least as good on
    these people. The loss is 1 - cosine + the squared error / 10.

    Args:
        start: (N, D) estimates of the embeddings, to be improved: only what they miss is learned. Default: zeros.
    """
    held = held_out(people, rng.child("held out")).to(sets.device)
    centre, scale = sets[~held].mean((0, 1)), sets[~held].std((0, 1)).nan_to_num(1.0).clamp_min(1e-6)
    seen, begun = (sets - centre) / scale, torch.zeros_like(truth) if start is None else start
    trust = (begun * truth)[~held].sum() / begun[~held].square().sum().clamp_min(1e-9)
    begun = trust * begun
    begun = begun + (middle := (truth - begun)[~held].mean(0))
    weights, ridge = _ridge(seen.mean(1), begun, truth, held)
    layers = _network(seen, begun + seen.mean(1) @ weights, truth, held, rng.child("network"), recipe)
    tensors = {"centre": centre, "scale": scale, "middle": middle, "trust": trust, "weights": weights}
    tensors |= {f"layer{number}": layer for number, layer in enumerate(layers)}
    cosines = functional.cosine_similarity(learned_embeddings(tensors, sets, start), truth)
    info = {name: round(float(cosines[rows].mean()), 4) for name, rows in (("cosine", ~held), ("held_out", held))}
    return State({name: part.contiguous() for name, part in tensors.items()}, {**info, "ridge": ridge})


def learned_embeddings(tensors: Mapping[str, Tensor], sets: Tensor, start: Tensor | None = None) -> Tensor:
    """Embeddings (N, D) of unit length from sets of templates (N, R, F), by what `learn_embeddings` returned."""
    own = {name: part.to(sets.device) for name, part in tensors.items()}
    seen = (sets - own["centre"]) / own["scale"]
    layers = tuple(own[f"layer{number}"] for number in range(6))
    begun = own["middle"] if start is None else own["middle"] + own["trust"] * start
    return functional.normalize(begun + seen.mean(1) @ own["weights"] + _added(layers, seen))


def _ridge(seen: Tensor, begun: Tensor, truth: Tensor, held: Tensor) -> tuple[Tensor, float]:
    """Weights (F, D) of what is missing, and the ridge, with the highest mean cosine on people held out."""
    known, kernel = seen[~held], seen[~held] @ seen[~held].T
    best, chosen, highest = torch.zeros(seen.shape[1], truth.shape[1]).to(seen), 0.0, -2.0
    for ridge in _RIDGES:
        damped = kernel + ridge * kernel.diagonal().mean() * torch.eye(len(known)).to(kernel)
        weights = known.T @ torch.linalg.solve(damped, (truth - begun)[~held])
        cosine = float(functional.cosine_similarity(begun[held] + seen[held] @ weights, truth[held]).mean())
        if cosine > highest:
            best, chosen, highest = weights, ridge, cosine
    return best, chosen


def _network(seen: Tensor, start: Tensor, truth: Tensor, held: Tensor, rng: Rng, recipe: SetRecipe) -> Network:
    """The layers with the lowest loss on people held out."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed)
        parts = [nn.Linear(seen.shape[2], recipe.hidden), nn.Linear(recipe.hidden, recipe.hidden)]
    last = nn.Linear(recipe.hidden, truth.shape[1])
    nn.init.zeros_(last.weight)
    nn.init.zeros_(last.bias)
    layers = tuple(p for part in (*parts, last) for p in part.to(seen.device).parameters())
    optimiser = torch.optim.AdamW(layers, lr=recipe.learning_rate, weight_decay=0.05)

    def loss(rows: Tensor) -> Tensor:
        made = start[rows] + _added(layers, seen[rows])
        apart = 1 - functional.cosine_similarity(made, truth[rows])
        return (apart + 0.1 * (made - truth[rows]).square().sum(1)).mean()

    best, lowest, since = tuple(layer.detach().clone() for layer in layers), float("inf"), 0
    for step in range(recipe.steps + 1):
        if step % _LOOK == 0:
            with torch.no_grad():
                reached = float(loss(held))
            since += _LOOK
            if reached < lowest:
                best, lowest, since = tuple(layer.detach().clone() for layer in layers), reached, 0
            if since > recipe.patience:
                break
        optimiser.zero_grad()
        torch.autograd.backward(loss(~held))
        optimiser.step()
    return best


def _added(layers: Network, seen: Tensor) -> Tensor:
    """What the network adds to the regression, (N, D)."""
    each = functional.linear(seen, layers[0], layers[1]).relu().mean(1)
    return functional.linear(functional.linear(each, layers[2], layers[3]).relu(), layers[4], layers[5])
