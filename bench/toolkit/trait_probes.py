"""Probes that read yes/no traits from vectors: a linear one, or a small network; shared by attacks on traits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, Rng, State
from bench.errors import NotApplicable
from bench.toolkit.principal import principal_axes

LEAST = 4  #: people of each answer without which a trait cannot be learned
_FOLDS = 4  #: of the attacker's people
_COMPONENTS = 256  #: principal components of own vectors that the probes see
_DECAYS = (1e5, 1e4, 1e3, 1e2, 1e1, 1e0)  #: weight decays of the linear probe, relative to one face
_EPOCHS = 60  #: of the network, at most
_SEEN = 500  #: vectors an epoch is made of, at least: fewer are seen several times
_PATIENCE = 8  #: epochs without a better loss on held-out people

Model = Sequence[Tensor]  #: weight and bias of each layer


def train_probes(
    values: Tensor, faces: FaceSet, rng: Rng, probe: Literal["linear", "network"] = "linear", hidden: int = 32
) -> State:
    """Trains the probes of every trait that has enough faces of both answers.

    A trait's probe is the mean of four, each trained on three quarters of the people, while the others decide on its
    weight decay (logistic regression) or on when it stops (a network with one hidden layer). Vectors are standardised
    and projected on their principal components.

    Args:
        values: a vector (N, D) of each face.
        faces: with `traits` of 0, 1 and NaN.
        hidden: units of the network's hidden layer.

    Raises:
        NotApplicable: no trait has enough.
    """
    owners = np.array(owners_of(faces), dtype=object)
    learned = {name: said for name, said in faces.traits.items() if _learnable(said, owners)}
    if not learned:
        raise NotApplicable(f"no trait of the attacker's faces has {LEAST} people of each answer")
    values = values.double()
    mean, scale = values.mean(0), values.std(0).clamp_min(1e-6)
    axes = principal_axes((values - mean) / scale, _COMPONENTS)
    seen = ((values - mean) / scale @ axes).float()
    tensors = {"mean": mean.float(), "scale": scale.float(), "axes": axes.float()}
    losses = {}
    for name, answers in learned.items():
        known = np.flatnonzero(np.isfinite(answers))
        places, truth = seen[known], torch.from_numpy(answers[known])
        people = _folds(owners[known], answers[known], rng.child("folds"))
        own = []
        for fold in range(_FOLDS):
            held = people == fold
            parts = (places[~held], truth[~held], places[held], truth[held])
            model, loss = _linear(*parts) if probe == "linear" else _network(*parts, hidden, rng.child(name, fold))
            own.append(loss)
            tensors |= {f"{name}.{fold}.{place}": part for place, part in enumerate(model)}
        losses[name] = round(float(np.mean(own)), 4)
    info = {"faces": len(faces), "people": len(set(owners)), "held_out_loss": losses}
    return State({name: part.contiguous() for name, part in tensors.items()}, info)


def probabilities(state: State, values: Tensor) -> dict[str, Tensor]:
    """The probability (B,) of yes by trait, from vectors (B, D)."""
    parts = {name: part.to(values.device) for name, part in state.tensors.items()}
    seen = (values - parts["mean"]) / parts["scale"] @ parts["axes"]
    found = {}
    for name in state.info["held_out_loss"]:
        models = []
        for fold in range(_FOLDS):
            own = sum(key.startswith(f"{name}.{fold}.") for key in parts)
            models.append([parts[f"{name}.{fold}.{place}"] for place in range(own)])
        found[name] = torch.stack([_answer(model, seen) for model in models]).mean(0).sigmoid()
    return found


def owners_of(faces: FaceSet) -> tuple[str, ...]:
    """Who is on each face; where nobody knows, each shows a person of its own."""
    return faces.subjects or faces.names


def many_people(public: FaceSet) -> list[int]:
    """All faces: first one of each person, then a second one, and so on."""
    count: dict[str, int] = {}
    turn = []
    for person in owners_of(public):
        turn.append(count.get(person, 0))
        count[person] = turn[-1] + 1
    return sorted(range(len(public)), key=turn.__getitem__)


def _learnable(answers: NDArray[np.float32], owners: NDArray[np.object_]) -> bool:
    return min(len(set(owners[answers == said])) for said in (0, 1)) >= LEAST


def _network(seen: Tensor, truth: Tensor, held: Tensor, told: Tensor, hidden: int, rng: Rng) -> tuple[Model, float]:
    """A network with one hidden layer, of the epoch with the lowest loss on held-out people."""
    scale = seen.square().mean().sqrt()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed)
        first, last = nn.Linear(seen.shape[1], hidden), nn.Linear(hidden, 1)
        layers = [*first.parameters(), *last.parameters()]
        optimiser = torch.optim.AdamW(layers, lr=2e-3, weight_decay=0.1)
        best: tuple[Model, float] = ([], float("inf"))
        since = 0
        for _ in range(_EPOCHS):
            order = torch.cat([torch.randperm(len(seen)) for _ in range(-(-_SEEN // len(seen)))])
            for some in torch.split(order, 32):
                made = _answer(layers, functional.dropout(seen[some] / scale, 0.3))
                optimiser.zero_grad()
                torch.autograd.backward(functional.binary_cross_entropy_with_logits(made, truth[some]))
                optimiser.step()
            model = [first.weight / scale, *layers[1:]]
            loss = _loss(model, held, told)
            since += 1
            if loss < best[1]:
                best, since = ([part.detach().clone() for part in model], loss), 0
            if since >= _PATIENCE:
                break
    return best


def _folds(owners: NDArray[np.object_], answers: NDArray[np.float32], rng: Rng) -> Tensor:
    """The fold (N,) of each face; all of a person's are in one, and every fold has people of both answers."""
    people, number = np.unique(owners, return_inverse=True)
    said = np.bincount(number, answers) / np.bincount(number)
    order = np.lexsort((rng.numpy().permutation(len(people)), said))
    folds = np.empty(len(people), dtype=np.int64)
    folds[order] = np.arange(len(people)) % _FOLDS
    return torch.from_numpy(folds[number])


def _answer(model: Model, seen: Tensor) -> Tensor:
    """Log odds (B,) of yes."""
    for place in range(0, len(model), 2):
        seen = functional.linear(seen if place == 0 else seen.relu(), model[place], model[place + 1])
    return seen.squeeze(1)


def _loss(model: Model, seen: Tensor, truth: Tensor) -> float:
    with torch.no_grad():
        return float(functional.binary_cross_entropy_with_logits(_answer(model, seen), truth))


def _linear(seen: Tensor, truth: Tensor, held: Tensor, told: Tensor) -> tuple[Model, float]:
    """Logistic regression with the weight decay whose loss on held-out people is lowest."""
    weight = torch.zeros(1, seen.shape[1], requires_grad=True)
    bias = torch.zeros(1, requires_grad=True)
    best: tuple[Model, float] = ([], float("inf"))
    for decay in _DECAYS:  # each starts where the stronger one ended
        optimiser = torch.optim.LBFGS([weight, bias], max_iter=50, line_search_fn="strong_wolfe")
        optimiser.step(_objective([weight, bias], seen, truth, decay, optimiser))  # type: ignore[no-untyped-call]
        model = [weight.detach().clone(), bias.detach().clone()]
        loss = _loss(model, held, told)
        if loss < best[1]:
            best = (model, loss)
    return best


def _objective(
    model: Model, seen: Tensor, truth: Tensor, decay: float, optimiser: torch.optim.Optimizer
) -> Callable[[], Tensor]:
    def closure() -> Tensor:
        optimiser.zero_grad()
        loss = functional.binary_cross_entropy_with_logits(_answer(model, seen), truth)
        loss = loss + decay / len(seen) * model[0].square().sum() / 2
        torch.autograd.backward(loss)
        return loss

    return closure
