"""Controls, which test a defence's noise, and canaries, which test the attacks; both are defences of the harness.

Neither takes part in a ranking. Their labels contain a `~`, which no section of `bench.toml` may have.
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
    LinkageAttack,
    ReconstructionAttack,
    Rng,
    SplitNetwork,
    State,
    System,
)

_Kind = Literal["open", "fixed", "secret", "closed", "affine"]
_CANARY_IMAGES = 64


@dataclass(frozen=True, kw_only=True)
class HarnessDefense(Defense):
    """A defence that the harness adds."""

    @property
    def useful(self) -> bool:
        """Whether its accuracy is meaningful."""
        return False

    @property
    def most_images(self) -> int | None:
        """The number of images that an attack reconstructs at most; None: as many as elsewhere."""
        return None

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The plugins that it consists of: their source counts as part of its own."""
        return ()

    @abstractmethod
    def faces(self, attack: Attack) -> bool:
        """Whether to run this attack on it."""


@dataclass(frozen=True, kw_only=True)
class Control(HarnessDefense):
    """Replaces a defence's noise by other noise of the same strength, image by image, to isolate the noise's effect."""

    defense: Any  #: the Defense; typed loosely, because parameters are converted to JSON by their fields
    noise: Literal["random", "swapped"]

    @property
    def useful(self) -> bool:
        """Meaningful, as noise costs accuracy in any case, unless the server was trained for the original noise."""
        return not self.defense.client_side

    @property
    def parts(self) -> tuple[Defense, ...]:
        """The defence whose noise is replaced."""
        return (self.defense,)

    @property
    def randomized(self) -> bool:  # type: ignore[override]
        """Gaussian noise is drawn anew each time."""
        return bool(self.noise == "random" or self.defense.randomized)

    @property
    def has_own_client(self) -> bool:
        """As in the defence."""
        return bool(self.defense.has_own_client)

    @property
    def client_side(self) -> bool:  # type: ignore[override]
        """As in the defence."""
        return bool(self.defense.client_side)

    def faces(self, attack: Attack) -> bool:
        """Only attacks that do not learn the noise and see it once: a control tests what the noise itself hides."""
        once = not isinstance(attack, ReconstructionAttack) or attack.copies == 1
        return once and attack.level <= Knowledge.ENCODER and not attack.asks_stolen

    @property
    def protect_batch(self) -> int | None:
        """The defence's batch size; swapping needs batches in any case."""
        own: int | None = self.defense.protect_batch
        return own if own is not None or self.noise == "random" else 50

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Fits the defence."""
        learned: State | None = self.defense.fit(recognizer, public, rng)
        return learned

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """As in the defence."""
        return self.defense.prepare(recognizer, state)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """As in the defence."""
        features: Tensor = self.defense.encode(system, images)
        return features

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """As in the defence."""
        layout: tuple[Conv, ...] = self.defense.layout(recognizer)
        return layout

    def reference(self, system: System, features: Tensor) -> Tensor:
        """As in the defence."""
        start: Tensor = self.defense.reference(system, features)
        return start

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """As in the defence, without what its server learned from the original noise."""
        embeddings: Tensor = self.defense.embed(system, templates)
        return embeddings

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Adds the other noise to the defence's reference."""
        start = self.reference(system, features)
        return self.instead(start, self.defense.protect(system, features, rng), rng)

    def instead(self, start: Tensor, template: Tensor, rng: ImageRng) -> Tensor:
        """Computes templates with the other noise from existing templates of the defence."""
        noise = template - start
        if self.noise == "swapped":
            return start + noise.roll(1, 0)
        rms = noise.flatten(1).square().mean(1).sqrt()
        return start + rng.normal(start) * rms.reshape(-1, *[1] * (start.ndim - 1))


@dataclass(frozen=True, kw_only=True)
class Canary(HarnessDefense):
    """A system known to be broken or known to be safe; an attack that gets it wrong is not trusted elsewhere.

    `open` stores the features. `fixed` mixes their channels by an orthogonal matrix that is part of the algorithm, and
    `secret` by one that is drawn in `fit`: both are broken by an attacker with enough knowledge, and `embed` undoes
    them. `closed` stores noise that is independent of the image. `affine` replaces `open` for attacks that need an
    affine client: its client divides the image into blocks and mixes their pixels.
    """

    kind: _Kind

    @property
    def most_images(self) -> int:
        """Enough to tell a broken attack from a sound one."""
        return _CANARY_IMAGES

    @property
    def randomized(self) -> bool:  # type: ignore[override]
        """The template of `closed`, which does not depend on the image."""
        return self.kind == "closed"

    @property
    def has_own_client(self) -> bool:
        """Whether blocks of pixels replace features."""
        return self.kind == "affine"

    def faces(self, attack: Attack) -> bool:
        """Whether the attack is tried: where it should succeed, by its level, and above `blind` on `closed`."""
        if attack.level == Knowledge.BLIND or attack.leaks == "embedding" or attack.yardstick:
            return False
        if attack.control and self.kind != "closed":
            return False
        if attack.wants_affine:
            return self.kind == "affine"
        if isinstance(attack, LinkageAttack) and type(attack).fit is LinkageAttack.fit:
            # It names people by logging in, and raw probes do not fit templates of mixed channels.
            return self.kind in ("open", "closed")
        opens = {
            "open": attack.level == Knowledge.ENCODER,
            "fixed": attack.level == Knowledge.ALGORITHM,
            # Who has no pairs cannot be told apart from who has them by a mixing that he need not know.
            "secret": attack.level >= Knowledge.ENROLMENT or attack.level in (Knowledge.DATABASE, Knowledge.SERVER),
            "closed": True,
            "affine": False,
        }
        return opens[self.kind]

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The recogniser's features; for `affine`, mixed blocks of 4 x 4 pixels."""
        if self.kind != "affine":
            return system.recognizer.extract(images)
        blocks = torch.nn.functional.pixel_unshuffle(_even(images), 4)
        return torch.einsum("dc,bchw->bdhw", _orthogonal(blocks.shape[1], Rng(0)).to(blocks), blocks - 0.5)

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """No layers to mirror if the client has no convolutions."""
        return () if self.kind == "affine" else recognizer.layout

    def _channels(self, recognizer: SplitNetwork) -> int:
        device = next(recognizer.parameters()).device
        with torch.no_grad():
            return recognizer.extract(torch.zeros(1, 3, *recognizer.image_size, device=device)).shape[1]

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Draws the mixing matrix: a public one, or one of this system."""
        if self.kind in ("fixed", "secret"):
            drawn = Rng(0) if self.kind == "fixed" else rng
            return State({"mixing": _orthogonal(self._channels(recognizer), drawn)})
        return None

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Tensor | None:
        """The matrix on the system's device."""
        return state.tensors["mixing"].to(next(recognizer.parameters()).device) if state else None

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Mixes the channels, replaces them by noise, or returns them unchanged."""
        if self.kind == "closed":
            return rng.normal(features)
        return features if system.state is None else torch.einsum("dc,bchw->bdhw", system.state, features)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Undoes the mixing first."""
        if system.state is not None:
            templates = torch.einsum("dc,bdhw->bchw", system.state, templates)
        return system.recognizer.embed(templates)


def _orthogonal(count: int, rng: Rng) -> Tensor:
    square = torch.randn(count, count, generator=rng.torch(), dtype=torch.float64)
    mixing: Tensor = torch.linalg.qr(square).Q.float()
    return mixing


def _even(images: Tensor) -> Tensor:
    """The image size, reduced to multiples of 4."""
    return images[..., : images.shape[-2] // 4 * 4, : images.shape[-1] // 4 * 4]


def canaries() -> dict[str, Defense]:
    """One canary of each kind, by label."""
    return {labels.canary(kind): Canary(kind=kind) for kind in get_args(_Kind)}


def controls(label: str, defense: Defense) -> dict[str, Defense]:
    """The controls of a defence that adds noise to the features; none for other defences."""
    if type(defense).protect is Defense.protect or not defense.adds_noise:
        return {}
    return {labels.control(label, noise): Control(defense=defense, noise=noise) for noise in ("random", "swapped")}
