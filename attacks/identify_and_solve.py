"""Identifies the channels that a client selected, solves for the face by linear algebra and predicts the missing part.

The defences of the frequency family hide a face by the choice of channels, their order, or added noise. The channels
come from a map that is affine in the pixels, and the attacker knows the algorithm (Kerckhoffs), so three steps undo it:

1. Identify: how much detail a face has at each frequency, and where, varies little between faces. The attack picks the
   channel order, among those that the algorithm may draw, that makes the template's channels most likely.
2. Solve: compute the most likely face under a Gaussian prior and the noise that the algorithm adds (a Wiener filter).
3. Predict: a ridge regression, fitted on own faces after steps 1 and 2, adds what the channels barely contain: the
   lowest frequencies, brightness and colour.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor

from bench.contracts import (
    Defense,
    FaceSet,
    ImageRng,
    Knowledge,
    Leak,
    NotApplicable,
    ReconstructionAttack,
    Rng,
    State,
    System,
)
from bench.toolkit.affine import AFFINE, FacePrior, cosine, departure, likeliest, spectrum
from bench.toolkit.progress import track

if TYPE_CHECKING:
    from bench.contracts.oracle import Oracle

_BATCH = 8  #: images solved in parallel
_GRID = 12  #: cells per side in which a channel's detail is measured
_FEW = 100  #: try at most this many orders exhaustively; beyond that, identify each channel separately
_DRAWS = 400  #: samples of the orders that the algorithm draws
_NOISY = 48  #: samples of its noise
_LOW = 6  #: predicted frequencies per side
_COARSE = 12  #: cells per side of the picture that the prediction uses as input
_LEVELS = (0.0, 0.02, 0.1, 0.25, 0.5, 0.75, 0.9, 0.98, 1.0)


@dataclass(frozen=True, kw_only=True)
class IdentifyAndSolve(ReconstructionAttack):
    """Undoes a client that selects, repeats or reorders channels of an affine map, or adds noise to them.

    The attack learns orders and noise by experiment, not from the defence's code: it feeds a copy of the defence
    channels that contain their own index, feeds a client device own faces, and inspects the output. It solves
    `captures` templates of one image together, which combines their channels and averages their noise.
    """

    wants_affine: ClassVar[bool] = True

    captures: int = 1  #: templates per image, where the client draws fresh randomness
    iterations: int = 20  #: conjugate-gradient iterations
    rounds: int = 2  #: repetitions of channel identification with the solved face, where there are many orders
    noise: float = 1e-2  #: assumed uncertainty of a channel, as a fraction of its standard deviation
    faces: int = 200  #: public faces used to estimate channel statistics and the prior
    learned: int = 128  #: public faces solved to fit the regression for the missing part; 0: no prediction
    ridge: float = 3.0  #: penalty of that regression, in standard deviations of its inputs
    images: int | None = None  #: images to attack; None: all

    def __post_init__(self) -> None:
        if min(self.captures, self.iterations, self.faces - 1) < 1 or min(self.rounds, self.learned) < 0:
            raise ValueError(
                "captures and iterations must be at least 1, faces at least 2, rounds and learned at least 0"
            )
        if min(self.noise, self.ridge) <= 0:
            raise ValueError("noise and ridge must be above 0")

    @property
    def level(self) -> Knowledge:
        """Needs its own copy of the client, with gradients; it also queries a client device that is randomised."""
        return Knowledge.ALGORITHM

    @property
    def asks_surrogate(self) -> bool:
        """Returns the copy of the client."""
        return True

    @property
    def copies(self) -> int:
        """The number of templates that are solved together."""
        return self.captures

    def subset(self, defense: Defense) -> int | None:
        """As configured."""
        return self.images

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Samples what the algorithm draws, measures the channels on own faces and fits the regression for the missing
        part.

        Raises:
            NotApplicable: the client is not affine, or its templates are neither a selection of its channels nor noisy
                channels.
        """
        system = oracle.surrogate
        apart = departure(system.encode, public, oracle.device)
        if apart > AFFINE:
            raise NotApplicable(f"the client's step is not affine (departs by {apart:.2g})")
        faces = public.subset(range(min(len(public), self.faces)))
        prior = FacePrior.of(faces)
        tensors, info = _law(oracle, system, faces.batch(slice(0, _BATCH), oracle.device), rng.child("law"))
        tensors |= {"mean": prior.mean, "colours": prior.colours, "power": prior.power}
        with torch.no_grad():
            sent = [system.encode(some) for some in _batches(faces, oracle.device)]
        if "chances" in tensors:
            profiles = torch.cat([_profile(some) for some in sent])
            common = (profiles - profiles.mean(0)).mean((1, 2), keepdim=True)
            tensors["profile"] = profiles.mean(0).cpu()
            tensors["spread"] = ((profiles - profiles.mean(0) - common).var(0) + 1e-3).cpu()
            deviation = torch.stack([some.var((0, 2, 3)) for some in sent]).mean(0).sqrt().clamp_min(1e-6)
            tensors["weight"] = (self.noise * deviation).square().reciprocal().cpu()
            expected = tensors["weight"] * tensors["chances"].sum(0)
            weight = expected[:, None, None]
        else:
            weight = tensors["weight"]
        prior = prior.to(oracle.device)
        seen = spectrum(system.encode, prior.mean, rng, weight.to(oracle.device), prior.to_waves)
        state = State({**tensors, "spectrum": seen.cpu()}, {"departure_from_affine": apart, **info})
        return self._learn_to_guess(oracle, state, public, rng) if self.learned else state

    def _learn_to_guess(self, oracle: Oracle, state: State, public: FaceSet, rng: Rng) -> State:
        system, own = oracle.surrogate, public.subset(range(min(len(public), self.learned)))
        seen, missing = [], []
        batches = -(-len(own) // _BATCH)
        for number, images in enumerate(track(_batches(own, oracle.device), "solving own faces", batches)):
            names = [*map(str, range(len(images)))]
            with torch.no_grad():
                sent = system.encode(images)
                if oracle.varies:
                    stolen = [oracle.encode(images) for _ in range(self.captures)]
                else:
                    draws = range(self.captures if system.defense.randomized else 1)
                    stolen = [system.protect(sent, rng.child("own", number, draw).images(names)) for draw in draws]
            solved = self._solve(system, state, stolen)[0]
            seen.append(_clues(solved))
            missing.append(cosine(images - solved)[..., :_LOW, :_LOW].flatten(1).cpu())
        x, y = torch.cat(seen), torch.cat(missing)
        centre, scale, offset = x.mean(0), x.std(0) + 1e-9, y.mean(0)
        x = (x - centre) / scale
        gram = x @ x.T + self.ridge * len(x) * torch.eye(len(x), dtype=x.dtype)
        weights = x.T @ torch.linalg.solve(gram, (y - offset).double())
        guess = {"centre": centre, "scale": scale, "offset": offset, "weights": weights.float()}
        rms = {"missing_low_waves_rms": float(y.square().mean().sqrt())}
        return State(
            {**state.tensors, **{f"guess.{name}": value for name, value in guess.items()}}, {**state.info, **rms}
        )

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Identifies, solves and predicts, a few images in parallel, each independently."""
        system, learned = oracle.surrogate, state.tensors
        templates = [leak.values, *leak.others]
        parts = []
        for first in track(range(0, len(leak.values), _BATCH), "solving", -(-len(leak.values) // _BATCH)):
            images, left, margin = self._solve(system, state, [some[first : first + _BATCH] for some in templates])
            oracle.report(relative_residual=left, margin=margin)
            if self.learned:
                clues = (_clues(images) - learned["guess.centre"]) / learned["guess.scale"]
                guess = learned["guess.offset"] + clues.float() @ learned["guess.weights"]
                waves = torch.zeros_like(images)
                waves[..., :_LOW, :_LOW] = guess.reshape(len(images), 3, _LOW, _LOW).to(images)
                images = images + cosine(waves, inverse=True)
            parts.append(images)
        return torch.cat(parts)

    def _solve(self, system: System, state: State, stolen: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Returns (images, relative residual of the equations, margin of the chosen order over the next best)."""
        known = {name: value.to(stolen[0].device) for name, value in state.tensors.items()}
        prior = FacePrior(known["mean"], known["colours"], known["power"])
        nothing = torch.zeros(len(stolen[0]), device=stolen[0].device)
        if "chances" not in known:
            target, weight = torch.stack([*stolen]).mean(0) - known["offset"], len(stolen) * known["weight"]
            return *likeliest(system.encode, prior, target, weight, known["spectrum"], self.iterations), nothing
        named, margins = zip(*(_identify(some, known) for some in stolen), strict=True)
        chosen, target = torch.cat(named, 1), torch.cat([*stolen], 1)
        many = known["orders"].shape[0] == 0
        for turn in range(1 + self.rounds * many):
            equations = _by_channel(target, chosen, known["weight"])
            found, left = likeliest(system.encode, prior, *equations, len(stolen) * known["spectrum"], self.iterations)
            if turn < self.rounds * many:
                with torch.no_grad():
                    chosen = _nearest(target, system.encode(found))
        return found, left, torch.stack(margins).mean(0)


def _batches(faces: FaceSet, device: torch.device) -> Iterator[Tensor]:
    return (faces.batch(slice(i, i + _BATCH), device) for i in range(0, len(faces), _BATCH))


def _law(oracle: Oracle, system: System, faces: Tensor, rng: Rng) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Determines by experiment what the algorithm does to the channels.

    The selection is part of the algorithm, so a copy reveals it. Noise may be learned and differ between systems: if
    the client adds it, the attack measures it with a client device on own faces.

    Returns:
        For a selection, `orders` (N, C') if there are few, and `chances` (C', C), the probability of each channel at
        each position. For noise, its `offset` and `weight` (the inverse variance), each (C, h, w).
    """
    with torch.no_grad():
        sent = system.encode(faces)
        channels = sent.shape[1]
        numbers = torch.arange(1.0, channels + 1, device=sent.device)[:, None, None].expand(_BATCH, *sent.shape[1:])

        def looks(features: Tensor, count: int) -> Iterator[Tensor]:
            for first in range(0, count, _BATCH):
                names = [f"{first + place}" for place in range(_BATCH)]
                yield system.protect(features.contiguous(), rng.images(names))

        stored = next(looks(numbers, _BATCH))
        flat = stored[:, :, 0, 0]
        if bool((stored == flat[:, :, None, None]).all()) and bool(torch.isin(flat, numbers[0, :, 0, 0]).all()):
            drawn = torch.cat([some[:, :, 0, 0].long() - 1 for some in looks(numbers, _DRAWS)]).cpu()
            chances = F.one_hot(drawn, channels).float().mean(0)
            orders = torch.unique(drawn, dim=0)  # type: ignore[no-untyped-call]
            few = orders if len(orders) <= _FEW else orders[:0]
            return {"chances": chances, "orders": few}, {"orders_seen": len(orders)}
        if not system.defense.adds_noise or stored.shape[1:] != sent.shape[1:]:
            raise NotApplicable("what is stored is neither channels of the client's nor these with noise")
        if oracle.varies:
            drawn = torch.cat([oracle.encode(faces) - sent for _ in range(-(-_NOISY // len(faces)))])
        else:
            drawn = torch.cat([*looks(torch.zeros_like(numbers), _NOISY)])
        # Rounding to half precision also counts as noise.
        rounding = (1e-4 * sent.std()).square() + (2.0**-11 * drawn.mean(0)).square()
        variance = drawn.var(0) * (1 + 1 / len(drawn)) + rounding
        weight = variance.reciprocal()
        return {"offset": drawn.mean(0).cpu(), "weight": weight.cpu()}, {}


def _profile(channels: Tensor) -> Tensor:
    """Log variance of each channel within each cell of the picture, (B, C, cells)."""
    square, level = (F.adaptive_avg_pool2d(x, _GRID) for x in (channels.square(), channels))
    return ((square - level.square()).clamp_min(0) + 1e-8).log().flatten(2)


def _identify(stolen: Tensor, known: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Returns (the channel at each position (B, C'), its log-likelihood margin (B,) in nats per channel)."""
    seen, mean, spread, orders = _profile(stolen), known["profile"], known["spread"], known["orders"]
    if len(orders) == 1:
        return orders.expand(len(stolen), -1), torch.zeros(len(stolen), device=stolen.device)
    rare = -2 * (known["chances"] + 1e-4).log()
    energy = stolen.double().square().sum((2, 3))
    same = ((energy[:, :, None] - energy[:, None]).abs() < 1e-9 * energy[:, :, None]).float()
    contrast = seen.new_zeros(len(seen), 1, 1)
    for _ in range(4):  # a high-contrast picture has more of every channel, so subtract the common part
        x = seen - contrast
        cost = x.square() @ (1 / spread).T - 2 * x @ (mean / spread).T + (mean.square() / spread + spread.log()).sum(1)
        if len(orders):
            places = torch.arange(orders.shape[1], device=orders.device)
            total = torch.stack([cost[:, places, order].sum(1) for order in orders], 1)
            chosen = orders[total.argmin(1)]
            best = total.topk(2, largest=False).values
            margin = (best[:, 1] - best[:, 0]) / 2 / orders.shape[1]
        else:
            # Positions that hold the same picture show the same channel.
            total = torch.einsum("bij,bjc->bic", same, 16 * cost / seen.shape[2] + rare)
            chosen = total.argmin(2)
            best = total.topk(2, largest=False).values
            margin = ((best[..., 1] - best[..., 0]) / 2).mean(1)
        contrast = (seen - mean[chosen]).mean((1, 2), keepdim=True)
    return chosen, margin


def _nearest(target: Tensor, sent: Tensor) -> Tensor:
    """For each position, (B, C'): which channel of the solved face is most similar to the template's."""
    one, other = target.flatten(2), sent.flatten(2)
    apart: Tensor = other.square().sum(2)[:, None] - 2 * one @ other.transpose(1, 2)
    return apart.argmin(2)


def _clues(solved: Tensor) -> Tensor:
    """Regression inputs (B, F) float64: quantiles of each plane about its mean, and the picture in coarse cells."""
    planes = solved.cpu().flatten(2).double()
    planes = planes - planes.mean(2, keepdim=True)
    levels = torch.quantile(planes, torch.tensor(_LEVELS, dtype=torch.float64), dim=2).permute(1, 2, 0)
    return torch.cat([levels.flatten(1), F.adaptive_avg_pool2d(solved.cpu().double(), _COARSE).flatten(1)], 1)


def _by_channel(target: Tensor, chosen: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
    """Mean (B, C, h, w) of the positions that show the same channel, and its weight (B, C, 1, 1): 0 where none does.

    This gives the same equations as all positions, which repeat channels: 16 templates of FracFace show 162 in 1,296.
    """
    total = target.new_zeros(len(target), len(weight), *target.shape[-2:])
    count = target.new_zeros(len(target), len(weight))
    for image, (shown, channels) in enumerate(zip(target, chosen, strict=True)):
        total[image].index_add_(0, channels, shown)
        count[image].index_add_(0, channels, torch.ones_like(channels, dtype=count.dtype))
    return total / count.clamp_min(1)[..., None, None], (count * weight)[..., None, None]
