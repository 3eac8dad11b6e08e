"""Soft biometrics: probes that read age, glasses or a beard from templates, without a picture.

The field calls it attribute inference. Age, gender and many other attributes can be predicted from the embeddings of
recognisers that were not trained for it (Terhörst et al., "Beyond Identity: What Information Is Stored in Biometric
Face Templates?", IJCB 2020). A defence against reconstruction does not promise to prevent that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, Rng, State, TraitAttack
from bench.errors import NotApplicable

_BATCH = 50  #: faces enrolled together
_FOLDS = 4  #: of the attacker's people
_COMPONENTS = 256  #: principal components of own templates that the probes see
_DECAYS = (1e5, 1e4, 1e3, 1e2, 1e1, 1e0)  #: weight decays of the linear probe, relative to one face
_EPOCHS = 60  #: of the network, at most
_SEEN = 500  #: templates an epoch is made of, at least: fewer are seen several times
_PATIENCE = 8  #: epochs without a better loss on held-out people
_LEAST = 4  #: people of each answer without which a trait cannot be learned

Model = Sequence[Tensor]  #: weight and bias of each layer


@dataclass(frozen=True, kw_only=True)
class TraitProbe(TraitAttack):
    """Learns yes/no traits from the templates of own faces: a linear probe, or a small network.

    It enrols own faces whose traits it knows, as many people as possible. A trait's probe is the mean of four, each
    trained on the templates of three quarters of these people, while the others decide on its weight decay (linear,
    logistic regression) or on when it stops (a network with one hidden layer). Templates and their magnitudes are
    averaged down to `side` places a side and projected on the principal components of those of own faces.
    """

    probe: Literal["linear", "network"] = "linear"  #: logistic regression, or one hidden layer
    enrolled: int = 800  #: own faces whose templates it learns from
    side: int = 12  #: places a side to which templates are averaged down
    hidden: int = 32  #: units of the network's hidden layer

    def __post_init__(self) -> None:
        if self.enrolled < 2 * _LEAST or min(self.side, self.hidden) < 1:
            raise ValueError(f"enrolled must be at least {2 * _LEAST}, side and hidden at least 1")

    @property
    def level(self) -> Knowledge:
        """Enrols own faces and reads their templates back."""
        return Knowledge.ENROLMENT

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the probes of every trait that has enough faces of both answers.

        Raises:
            NotApplicable: no trait has.
        """
        faces = public.subset(_many_people(public)[: self.enrolled])
        owners = np.array(_owners(faces), dtype=object)
        learned = {name: values for name, values in faces.traits.items() if _learnable(values, owners)}
        if not learned:
            raise NotApplicable(f"no trait of the attacker's faces has {_LEAST} people of each answer")
        values = self._reduced(_enrolled(oracle, faces)).double()
        mean, scale = values.mean(0), values.std(0).clamp_min(1e-6)
        axes = _principal((values - mean) / scale)
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
                if self.probe == "linear":
                    model, loss = _linear(*parts)
                else:
                    model, loss = self._network(*parts, rng.child(name, fold))
                own.append(loss)
                tensors |= {f"{name}.{fold}.{place}": part for place, part in enumerate(model)}
            losses[name] = round(float(np.mean(own)), 4)
        info = {"faces": len(faces), "people": len(set(owners)), "held_out_loss": losses}
        return State({name: part.contiguous() for name, part in tensors.items()}, info)

    def infer(self, oracle: Oracle, state: State, leak: Leak, rng: ImageRng) -> Mapping[str, Tensor]:
        """Probabilities (B,) of yes."""
        parts = {name: part.to(oracle.device) for name, part in state.tensors.items()}
        seen = (self._reduced(leak.values) - parts["mean"]) / parts["scale"] @ parts["axes"]
        found = {}
        for name in state.info["held_out_loss"]:
            models = []
            for fold in range(_FOLDS):
                own = sum(key.startswith(f"{name}.{fold}.") for key in parts)
                models.append([parts[f"{name}.{fold}.{place}"] for place in range(own)])
            found[name] = torch.stack([_answer(model, seen) for model in models]).mean(0).sigmoid()
        return found

    def _reduced(self, templates: Tensor) -> Tensor:
        """Templates (B, C, h, w) as (B, 2 * C * side * side): means and mean magnitudes; as they are without places.

        What alternates in sign, such as a frequency's coefficient, averages to nothing and still has a magnitude.
        """
        if templates.ndim != 4:
            return templates.float().flatten(1)
        height, width = (min(self.side, length) for length in templates.shape[2:])
        both = torch.cat([templates.float(), templates.float().abs()], 1)
        return functional.adaptive_avg_pool2d(both, (height, width)).flatten(1)

    def _network(self, seen: Tensor, truth: Tensor, held: Tensor, told: Tensor, rng: Rng) -> tuple[Model, float]:
        """A network with one hidden layer, of the epoch with the lowest loss on held-out people."""
        scale = seen.square().mean().sqrt()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.seed)
            first, last = nn.Linear(seen.shape[1], self.hidden), nn.Linear(self.hidden, 1)
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


def _owners(faces: FaceSet) -> tuple[str, ...]:
    return faces.subjects or faces.names


def _many_people(public: FaceSet) -> list[int]:
    """All faces: first one of each person, then a second one, and so on."""
    count: dict[str, int] = {}
    turn = []
    for person in _owners(public):
        turn.append(count.get(person, 0))
        count[person] = turn[-1] + 1
    return sorted(range(len(public)), key=turn.__getitem__)


def _learnable(answers: NDArray[np.float32], owners: NDArray[np.object_]) -> bool:
    return min(len(set(owners[answers == said])) for said in (0, 1)) >= _LEAST


def _enrolled(oracle: Oracle, faces: FaceSet) -> Tensor:
    """Templates of own faces, as the server stores them."""
    size = oracle.defense.protect_batch or _BATCH
    made = []
    for start in range(0, len(faces), size):
        some = slice(start, start + size)
        made.append(oracle.enrol(faces.batch(some, oracle.device), faces.names[some]).cpu())
    return torch.cat(made)


def _principal(values: Tensor) -> Tensor:
    """The first principal axes (D, K) of centred values (N, D), from the smaller of the two matrices of products."""
    count, size = values.shape
    if size <= count:
        lengths, axes = torch.linalg.eigh(values.T @ values)
    else:
        lengths, sides = torch.linalg.eigh(values @ values.T)
        axes = values.T @ sides / lengths.clamp_min(1e-12).sqrt()
    kept = torch.nonzero(lengths > 1e-6 * lengths[-1]).flatten()[-_COMPONENTS:]
    found: Tensor = axes[:, kept].flip(1)
    return found


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
