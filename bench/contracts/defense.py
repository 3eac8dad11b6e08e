"""Defences: how features become templates, and how templates are recognised."""

from __future__ import annotations

from abc import ABC
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, ClassVar, Literal, Self

import torch
from torch import Tensor

from bench.contracts.faces import FaceSet
from bench.contracts.recognizer import Conv, SplitNetwork
from bench.contracts.rng import ImageRng, Rng
from bench.errors import KnowledgeError

# ------------------------------------------------------------------------------------------------------- defences


@dataclass(frozen=True, eq=False)
class State:
    """What `fit` learned: named tensors, and a JSON-able account of the fitting (curve, convergence)."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class System:
    """A deployed, defended recognition system."""

    recognizer: SplitNetwork = field(repr=False)
    defense: Defense
    state: Any = field(default=None, repr=False)  #: what `Defense.prepare` made of the fitted state
    device: torch.device = torch.device("cpu")
    server: Any = field(default=None, repr=False)  #: what `Defense.prepare_server` made of what `fit_server` trained
    templates_only: bool = False  #: the server's own training was left out: nobody here asks it to recognise

    def encode(self, images: Tensor) -> Tensor:
        """Client: images (B, 3, H, W) to features."""
        return self.defense.encode(self, images)

    def protect(self, features: Tensor, rng: ImageRng) -> Tensor:
        """Server: features to the templates that it stores."""
        return self.defense.protect(self, features, rng)

    def send(self, images: Tensor, rng: ImageRng) -> Tensor:
        """What leaves the client for images (B, 3, H, W): features, or templates where the client makes those."""
        features = self.encode(images)
        return self.protect(features, rng) if self.defense.client_side else features

    def embed(self, templates: Tensor) -> Tensor:
        """Server: templates to unit embeddings (B, D).

        Raises:
            KnowledgeError: the server's recogniser was left out of this system.
        """
        if self.templates_only:
            raise KnowledgeError("the server's trained recogniser is asked for: declare asks_server = True")
        return self.defense.embed(self, templates)


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """A way to store features. Override the steps that differ; a feature-noise defence overrides `protect` alone.

    What is learned comes in two parts, so that templates and all that is rebuilt from them outlive a change of the
    server: `fit` learns what `encode` and `protect` need, `fit_server` what `embed` alone does.
    """

    randomized: ClassVar[bool] = False  #: the same image protected twice gives two templates
    #: The client protects, and the server stores what it is sent: whoever has a client device sees templates of own
    #: images, and a probe is protected as well.
    client_side: ClassVar[bool] = False
    adds_noise: ClassVar[bool] = True  #: False: `protect` picks, reorders or mixes; there is no noise to measure
    template_dtype: ClassVar[Literal["float32", "float16"]] = "float32"  #: in which the server stores templates
    #: Fields that change nothing in `fit`, or nothing in the steps up to the stored template (`fit`, `encode`,
    #: `protect`, `prepare`). Settings that differ in these alone share what the step made.
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {}

    def at(self, step: Literal["fit", "protect"]) -> Self:
        """The plugin as the harness runs this step: what the step ignores stands at its default, and cannot matter."""
        own = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        return replace(self, **{name: own[name] for name in self.ignored.get(step, ())})

    @property
    def has_own_client(self) -> bool:
        """Whether the client does something of the defence's own, so that no decoder of plain features fits it."""
        return type(self).encode is not Defense.encode or type(self).layout is not Defense.layout

    @property
    def shares_templates(self) -> bool:
        """Whether other settings may store the same templates behind another server, and making them takes work."""
        return "protect" in self.ignored and type(self).protect is not Defense.protect

    @property
    def protect_batch(self) -> int | None:
        """Images protected together, where a template depends on its batch mates; None where it doesn't."""
        return None

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the defender's own public faces. Default: nothing to learn."""
        return None

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """Turns the stored state into what `System.state` should hold (say, a network). Default: the state itself."""
        return state

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State | None:
        """Learns what `embed` alone needs, on the defender's own public faces. Default: nothing to learn.

        Args:
            system: fitted, without a trained server.
        """
        return None

    def files(self) -> Mapping[str, Path]:
        """What `fit_server` reads from disk, by the field that names it: bytes count as settings, places don't.

        Raises:
            DataError: a file is missing.
        """
        return {}

    def prepare_server(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """Turns what `fit_server` returned into what `System.server` should hold. Default: the state itself."""
        return state

    def encode(self, system: System, images: Tensor) -> Tensor:
        """Client's step: images (B, 3, H, W) in [0, 1] to features. Default: the recogniser's E."""
        return system.recognizer.extract(images)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Server's step: features to templates. Default: stores the features. Randomness comes from `rng` alone."""
        return features

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Server's recognition: templates to unit embeddings (B, D). Default: the recogniser's Psi."""
        return system.recognizer.embed(templates)

    def reference(self, system: System, features: Tensor) -> Tensor:
        """Where the noise starts from, for the record alone (where `adds_noise`). Default: the client's features."""
        return features

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """The convolutions of `encode`, which a mirrored decoder reverses. Default: those of the recogniser's E."""
        return recognizer.layout

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """Formal guarantees for images of (height, width) pixels, each by its name (say, an epsilon). Default: none."""
        return {}
