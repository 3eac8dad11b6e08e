"""Links templates of two applications by a score that it learned from own people, enrolled in both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import CrossmatchAttack, KeyedDefense, KeyOracle, Knowledge, OwnPeople, Rng, State, Stolen
from bench.errors import NotApplicable
from bench.toolkit.template_learning import SetRecipe, held_out, learn_embeddings, learned_embeddings, numbers

_SIZES = (2, 4, 8, 16, 32)  #: entries of a group whose lengths are compared
_UNITS = 16  #: of the network's hidden layer
_STEPS, _PATIENCE, _LOOK = 400, 60, 5
_FEWEST = 8  #: own people: in each half, two to learn from and two held out


@dataclass(frozen=True, kw_only=True)
class TrainedLinker(CrossmatchAttack):
    """A small network that judges a pair of templates by many scores of it, trained on own pairs under unknown keys.

    It enrols own people in both applications and reads the records back: two of one person are mated, others are not.
    The scores are the scheme's own, the absolute cosine at each shift of one template against the other, the
    correlation of magnitudes and of the lengths of groups of entries, and the cosine of embeddings that a decoder reads
    from both, which tells something where keys recur. The decoder that scores an own pair has not seen its people.
    """

    breaks: ClassVar[tuple[str, Mapping[str, Any]] | None] = ("polyprotect", {"overlap": 4})
    required: ClassVar[float] = 0.8

    rounds: int = 3  #: pairs of own people: each has one per round, of two faces if there are
    people: int = 300  #: maximum number of own people
    shifts: int = 4  #: the largest shift tried, in entries
    recipe: SetRecipe = field(default_factory=lambda: SetRecipe(steps=100))

    def __post_init__(self) -> None:
        if self.rounds < 1 or self.people < _FEWEST or self.shifts < 0:
            raise ValueError(f"rounds must be at least 1, people at least {_FEWEST}, and shifts at least 0")

    @property
    def level(self) -> Knowledge:
        """Enrols own faces."""
        return Knowledge.ENROLMENT

    def fit(self, oracle: KeyOracle, own: OwnPeople, rng: Rng) -> State:
        """Trains the decoders, then the network that weighs the scores.

        Raises:
            NotApplicable: there are own faces of fewer than eight people.
        """
        faces: dict[str, list[int]] = {}
        for row, person in enumerate(own.people):
            faces.setdefault(person, []).append(row)
        names = sorted(faces, key=lambda name: (len(faces[name]) < 2, name))[
            : self.people
        ]  # those with two faces first
        if len(names) < _FEWEST:
            raise NotApplicable(f"it needs own faces of {_FEWEST} people or more, and there are {len(names)}")
        pairs = []
        for turn in range(self.rounds):
            left = [faces[name][turn % len(faces[name])] for name in names]
            right = [faces[name][(turn + 1) % len(faces[name])] for name in names]
            sides = (oracle.enrol_own(left, 0, turn).templates, oracle.enrol_own(right, 1, turn).templates)
            pairs.append((left, right, *sides))
        rows = [row for left, right, *_ in pairs for row in (*left, *right)]
        read = numbers(torch.cat([side for *_, first, second in pairs for side in (first, second)]))[:, None]
        people, truth = [own.people[row] for row in rows], own.embeddings[rows]
        halves = held_out(people, rng.child("halves"), 0.5)

        def decoder(some: Tensor, name: str) -> Mapping[str, Tensor]:
            known = [person for person, chosen in zip(people, some.tolist(), strict=True) if chosen]
            return learn_embeddings(read[some], truth[some], known, rng.child(name), self.recipe).tensors

        whole = decoder(torch.ones_like(halves), "whole")
        blind = {True: decoder(~halves, "first half"), False: decoder(halves, "second half")}
        of_half = torch.tensor([bool(halves[people.index(name)]) for name in names])
        defense = oracle.defense
        seen = []
        for *_, first, second in pairs:
            made = torch.stack([self._scores(defense, blind[half], first, second) for half in (False, True)])
            seen.append(torch.where(of_half[:, None, None], made[1], made[0]))
        scores = torch.stack(seen)  # (rounds, P, P, F)
        same_half = of_half[:, None] == of_half  # others would be scored by a decoder that has seen one of the two
        held = torch.zeros(len(names), dtype=torch.bool)
        for half in (~of_half, of_half):
            order = torch.nonzero(half).flatten()[torch.randperm(int(half.sum()), generator=rng.child("held").torch())]
            held[order[: max(2, len(order) // 5)]] = True
        tensors, info = _weighed(scores, same_half, held, rng.child("network"))
        tensors |= {f"decoder.{name}": part for name, part in whole.items()}
        return State({name: part.contiguous() for name, part in tensors.items()}, {**info, "people": len(names)})

    def link(self, oracle: KeyOracle, first: Stolen, second: Stolen) -> Tensor:
        """Log odds (A, B) that two templates are of one person."""
        if oracle.learned is None:
            raise ValueError("TrainedLinker has no trained state")
        state = oracle.learned.tensors
        decoder = {name.removeprefix("decoder."): part for name, part in state.items() if name.startswith("decoder.")}
        scores = self._scores(oracle.defense, decoder, first.templates, second.templates)
        return _odds([state[f"layer{n}"] for n in range(4)], (scores - state["middle"]) / state["spread"])

    def _scores(self, defense: KeyedDefense, decoder: Mapping[str, Tensor], first: Tensor, second: Tensor) -> Tensor:
        """Scores (A, B, F) of all pairs."""
        forth = torch.stack([defense.score(one.expand_as(second), second) for one in first])
        back = torch.stack([defense.score(one.expand_as(first), first) for one in second], 1)
        found = [forth.float() + back.float()]
        one, other = (learned_embeddings(decoder, numbers(side)[:, None]) for side in (first, second))
        found.append(one @ other.T)
        if first.is_floating_point():
            found += self._of_numbers(first.flatten(1).float(), second.flatten(1).float())
        return torch.stack(found, 2)

    def _of_numbers(self, one: Tensor, other: Tensor) -> list[Tensor]:
        """Scores (A, B) that look at entries as numbers in an order."""
        length, shifts = one.shape[1], min(self.shifts, (one.shape[1] - 1) // 2)
        moved, magnitudes = [], []
        for shift in range(-shifts, shifts + 1):
            left = one[:, max(0, shift) : length + min(0, shift)]
            right = other[:, max(0, -shift) : length + min(0, -shift)]
            moved.append(_cosines(left, right).abs())
            magnitudes.append(_correlations(left.abs(), right.abs()))
        found = [*moved, torch.stack(moved).amax(0), torch.stack(magnitudes).amax(0)]
        for size in _SIZES:
            if length >= 2 * size:
                groups = (
                    side[:, : length // size * size].reshape(len(side), -1, size).norm(dim=2) for side in (one, other)
                )
                found.append(_correlations(*((part + 1e-9).log() for part in groups)))
        return found


def _cosines(one: Tensor, other: Tensor) -> Tensor:
    return functional.normalize(one) @ functional.normalize(other).T


def _correlations(one: Tensor, other: Tensor) -> Tensor:
    return _cosines(one - one.mean(1, keepdim=True), other - other.mean(1, keepdim=True))


def _odds(layers: Sequence[Tensor], scores: Tensor) -> Tensor:
    """Log odds (...) from scores (..., F)."""
    inner = functional.linear(scores, layers[0], layers[1]).tanh()
    return functional.linear(inner, layers[2], layers[3]).squeeze(-1)


def _weighed(scores: Tensor, usable: Tensor, held: Tensor, rng: Rng) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """A network with one hidden layer, of the step with the lowest loss on people held out.

    Args:
        scores: (rounds, P, P, F); the diagonal is mated.
        usable: (P, P), which of them count.
        held: (P,) people held out.
    """
    mated = torch.eye(scores.shape[1], dtype=torch.bool).expand(scores.shape[:3])
    parts = []
    for side in (~held, held):
        within = (side[:, None] & side & usable).expand(scores.shape[:3])
        parts.append((scores[within], mated[within]))
    (known, truth), (others, told) = parts
    middle, spread = known.mean(0), known.std(0).clamp_min(1e-6)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.seed)
        network = [nn.Linear(scores.shape[3], _UNITS), nn.Linear(_UNITS, 1)]
    layers = [p for part in network for p in part.to(scores.device).parameters()]
    optimiser = torch.optim.AdamW(layers, lr=1e-2, weight_decay=0.1)

    def loss(some: Tensor, same: Tensor) -> Tensor:
        """Mated and other pairs weigh one half each."""
        odds = _odds(layers, (some - middle) / spread)
        return functional.softplus(-odds[same]).mean() + functional.softplus(odds[~same]).mean()

    best, lowest, since = [layer.detach().clone() for layer in layers], float("inf"), 0
    for step in range(_STEPS + 1):
        if step % _LOOK == 0:
            with torch.no_grad():
                reached = float(loss(others, told))
            since += _LOOK
            if reached < lowest:
                best, lowest, since = [layer.detach().clone() for layer in layers], reached, 0
            if since > _PATIENCE:
                break
        optimiser.zero_grad()
        torch.autograd.backward(loss(known, truth))
        optimiser.step()
    tensors = {f"layer{number}": layer for number, layer in enumerate(best)} | {"middle": middle, "spread": spread}
    return tensors, {"scores": scores.shape[3], "held_out_loss": round(lowest, 4)}
