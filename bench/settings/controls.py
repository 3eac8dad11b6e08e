"""What the harness puts beside the real defences: controls, which test their noise, and canaries, which test attacks.

Neither takes part in a ranking. Their labels have a `~`, which no section of `bench.toml` may have.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, Literal, get_args

import torch
from torch import Tensor

from bench import labels
from bench.contracts import (
    Attack,
    Conv,
    Defense,
    FaceSet,
    ImageRng,
    Knowledge,
    ReconstructionAttack,
    Rng,
    SplitNetwork,
    State,
    System,
)

_Kind = Literal["open", "fixed", "secret", "closed", "affine"]


@dataclass(frozen=True, kw_only=True)
class HarnessDefense(Defense):
    """A defence of the harness's own."""

    @property
    def useful(self) -> bool:
        """Whether its accuracy is worth knowing."""
        return False

    @property
    def parts(self) -> tuple[Defense, ...]:
        """Plugins that it is made of: their source counts as its own."""
        return ()

    @abstractmethod
    def faces(self, attack: Attack) -> bool:
        """Whether this attack is tried on it."""


@dataclass(frozen=True, kw_only=True)
class Control(HarnessDefense):
    """A defence's noise replaced by other noise as strong, image by image: what remains is not the defence's doing.

    `random`: Gaussian of the same rms. `swapped`: the noise that another image of the batch was given.
    """

    defense: Any  #: the Defense; typed loosely, since parameters become JSON by their fields
    noise: Literal["random", "swapped"]

    @property
    def useful(self) -> bool:
        """Noise costs accuracy, whatever it hides; unless only a server that was trained for the real one could say."""
        return not self.defense.client_side

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The defence whose noise it is."""
        return (self.defense,)

    @property
    def randomized(self) -> bool:  # type: ignore[override]
        """Gaussian noise is drawn anew."""
        return bool(self.noise == "random" or self.defense.randomized)

    @property
    def has_own_client(self) -> bool:
        """As the defence."""
        return bool(self.defense.has_own_client)

    @property
    def client_side(self) -> bool:  # type: ignore[override]
        """As the defence."""
        return bool(self.defense.client_side)

    def faces(self, attack: Attack) -> bool:
        """Those who learn nothing of the noise and see it once: a control asks what the noise itself hides."""
        once = not isinstance(attack, ReconstructionAttack) or attack.copies == 1
        return once and attack.level <= Knowledge.ENCODER

    @property
    def protect_batch(self) -> int | None:
        """The defence's; swapping takes batches in any case."""
        own: int | None = self.defense.protect_batch
        return own if own is not None or self.noise == "random" else 50

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """What the defence learns."""
        learned: State | None = self.defense.fit(recognizer, public, rng)
        return learned

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """As the defence."""
        return self.defense.prepare(recognizer, state)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """As the defence."""
        features: Tensor = self.defense.encode(system, images)
        return features

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """As the defence."""
        layout: tuple[Conv, ...] = self.defense.layout(recognizer)
        return layout

    def reference(self, system: System, features: Tensor) -> Tensor:
        """As the defence."""
        start: Tensor = self.defense.reference(system, features)
        return start

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """As the defence, without what its server may have learned from the real noise."""
        embeddings: Tensor = self.defense.embed(system, templates)
        return embeddings

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """The defence's starting point with the other noise."""
        start = self.reference(system, features)
        return self.instead(start, self.defense.protect(system, features, rng), rng)

    def instead(self, start: Tensor, template: Tensor, rng: ImageRng) -> Tensor:
        """Templates with the other noise, where those with the defence's own are there already."""
        noise = template - start
        if self.noise == "swapped":
            return start + noise.roll(1, 0)
        rms = noise.flatten(1).square().mean(1).sqrt()
        return start + rng.normal(start) * rms.reshape(-1, *[1] * (start.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class Canary(HarnessDefense):
    """Known broken or known safe: an attack that gets it wrong is not to be believed elsewhere.

    `open` stores the features; `fixed` mixes their channels by one orthogonal matrix that is part of the algorithm,
    `secret` by one that is drawn in `fit`: both broken for whoever knows enough, and undone by `embed`. `closed` stores
    noise that has nothing to do with the image. `affine` stands for `open` where an attack wants an affine client: its
    client cuts the image into blocks and mixes their pixels.
    """

    kind: _Kind

    @property
    def randomized(self) -> bool:  # type: ignore[override]
        """What is stored of an image when nothing is stored of it."""
        return self.kind == "closed"

    @property
    def has_own_client(self) -> bool:
        """Where blocks of pixels stand for features."""
        return self.kind == "affine"

    def faces(self, attack: Attack) -> bool:
        """Who ought to open it, by level; everybody above `blind` ought to fail on the closed one."""
        if attack.level == Knowledge.BLIND or attack.leaks == "embedding":
            return False
        if attack.wants_affine:
            return self.kind == "affine"
        opens = {
            "open": attack.level == Knowledge.ENCODER,
            "fixed": attack.level == Knowledge.ALGORITHM,
            "secret": attack.level >= Knowledge.ENROLMENT,
            "closed": True,
            "affine": False,
        }
        return opens[self.kind]

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The recogniser's features; for `affine` blocks of 4 x 4 pixels, mixed."""
        if self.kind != "affine":
            return system.recognizer.extract(images)
        blocks = torch.nn.functional.pixel_unshuffle(_even(images), 4)
        return torch.einsum("dc,bchw->bdhw", _orthogonal(blocks.shape[1], Rng(0)).to(blocks), blocks - 0.5)

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """Nothing to mirror, where the client has no convolutions."""
        return () if self.kind == "affine" else recognizer.layout

    def _channels(self, recognizer: SplitNetwork) -> int:
        device = next(recognizer.parameters()).device
        with torch.no_grad():
            return recognizer.extract(torch.zeros(1, 3, *recognizer.image_size, device=device)).shape[1]

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Draws the mixing matrix: the same everywhere, or one of this system's own."""
        if self.kind in ("fixed", "secret"):
            drawn = Rng(0) if self.kind == "fixed" else rng
            return State({"mixing": _orthogonal(self._channels(recognizer), drawn)})
        return None

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Tensor | None:
        """The matrix, where it is computed with."""
        return state.tensors["mixing"].to(next(recognizer.parameters()).device) if state else None

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Mixes, forgets, or does nothing."""
        if self.kind == "closed":
            return rng.normal(features)
        return features if system.state is None else torch.einsum("dc,bchw->bdhw", system.state, features)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Unmixes first."""
        if system.state is not None:
            templates = torch.einsum("dc,bdhw->bchw", system.state, templates)
        return system.recognizer.embed(templates)


def _orthogonal(count: int, rng: Rng) -> Tensor:
    square = torch.randn(count, count, generator=rng.torch(), dtype=torch.float64)
    mixing: Tensor = torch.linalg.qr(square).Q.float()
    return mixing


def _even(images: Tensor) -> Tensor:
    """Cut to multiples of 4."""
    return images[..., : images.shape[-2] // 4 * 4, : images.shape[-1] // 4 * 4]


def canaries() -> dict[str, Defense]:
    """One of each kind, by label."""
    return {labels.canary(kind): Canary(kind=kind) for kind in get_args(_Kind)}


def controls(label: str, defense: Defense) -> dict[str, Defense]:
    """The controls of a defence that adds something to the features; none for others."""
    if type(defense).protect is Defense.protect or not defense.adds_noise:
        return {}
    return {labels.control(label, noise): Control(defense=defense, noise=noise) for noise in ("random", "swapped")}
