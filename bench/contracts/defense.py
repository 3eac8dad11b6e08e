"""The contract of defences: how features become templates, and how templates are recognised."""

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
    """What `fit` learned: named tensors, and a JSON-able log of the training (curve, convergence)."""

    tensors: Mapping[str, Tensor] = field(default_factory=dict, repr=False)
    info: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class System:
    """A deployed, defended recognition system."""

    recognizer: SplitNetwork = field(repr=False)
    defense: Defense
    state: Any = field(default=None, repr=False)  #: the result of `Defense.prepare` on the fitted state
    device: torch.device = torch.device("cpu")
    server: Any = field(default=None, repr=False)  #: the result of `Defense.prepare_server` on the server's state
    templates_only: bool = False  #: the server's own training is missing, because it is not needed here

    def encode(self, images: Tensor) -> Tensor:
        """Client: maps images (B, 3, H, W) to features."""
        return self.defense.encode(self, images)

    def protect(self, features: Tensor, rng: ImageRng) -> Tensor:
        """Server: maps features to the templates that it stores."""
        return self.defense.protect(self, features, rng)

    def send(self, images: Tensor, rng: ImageRng) -> Tensor:
        """What the client sends for images (B, 3, H, W): features, or templates if the client protects."""
        features = self.encode(images)
        return self.protect(features, rng) if self.defense.client_side else features

    def embed(self, templates: Tensor) -> Tensor:
        """Server: maps templates to unit embeddings (B, D).

        Raises:
            KnowledgeError: this system lacks the server's recogniser.
        """
        if self.templates_only:
            raise KnowledgeError("the server's trained recogniser is not available: declare asks_server = True")
        return self.defense.embed(self, templates)


@dataclass(frozen=True, kw_only=True)
class Defense(ABC):
    """A way to store features. Override the steps that differ; a defence that adds noise only overrides `protect`.

    Training has two parts, so that templates and reconstructions stay valid when the server changes: `fit` trains what
    `encode` and `protect` need, and `fit_server` what only `embed` needs.
    """

    randomized: ClassVar[bool] = False  #: protecting the same image twice gives two templates
    #: The client protects, and the server stores what it receives: anyone with a client device can see templates of own
    #: images, and probes are protected too.
    client_side: ClassVar[bool] = False
    adds_noise: ClassVar[bool] = True  #: False: `protect` selects, reorders or mixes, so there is no noise to measure
    template_dtype: ClassVar[Literal["float32", "float16"]] = "float32"  #: type of stored templates
    #: Fields that have no effect in `fit`, or none in the steps up to the stored template (`fit`, `encode`, `protect`,
    #: `prepare`). Settings that differ only in these share the result of the step.
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {}

    def at(self, step: Literal["fit", "protect"]) -> Self:
        """The plugin as the harness runs this step: fields that the step ignores have their default values."""
        own = {f.name: f.default if f.default_factory is MISSING else f.default_factory() for f in fields(self)}
        return replace(self, **{name: own[name] for name in self.ignored.get(step, ())})

    @property
    def has_own_client(self) -> bool:
        """Whether the client itself is changed by the defence, so that no decoder of plain features fits it."""
        protects = self.client_side and type(self).protect is not Defense.protect
        return protects or type(self).encode is not Defense.encode or type(self).layout is not Defense.layout

    @property
    def shares_templates(self) -> bool:
        """Whether settings with another server may have the same templates, and these are costly to compute."""
        return "protect" in self.ignored and type(self).protect is not Defense.protect

    @property
    def value_bits(self) -> int | None:
        """Bits that a value of a template takes, if fewer than `template_dtype` has; None: those of the type."""
        return None

    @property
    def protect_batch(self) -> int | None:
        """The number of images protected together, if a template depends on its batch; None if not."""
        return None

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Learns from the defender's own public faces. Default: learns nothing."""
        return None

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """Converts the stored state to `System.state` (for example a network). Default: the state itself."""
        return state

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State | None:
        """Trains what only `embed` needs, on the defender's own public faces. Default: learns nothing.

        Args:
            system: fitted, without a trained server.
        """
        return None

    def files(self) -> Mapping[str, Path]:
        """The files that `fit_server` reads, by the field that names them; content counts as a setting, a path not."""
        return {}

    def prepare_server(self, recognizer: SplitNetwork, state: State | None) -> Any:
        """Converts the result of `fit_server` to `System.server`. Default: the state itself."""
        return state

    def encode(self, system: System, images: Tensor) -> Tensor:
        """Client: maps images (B, 3, H, W) in [0, 1] to features. Default: the recogniser's E."""
        return system.recognizer.extract(images)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Server: maps features to templates. Default: the features. All randomness must come from `rng`."""
        return features

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """Server: maps templates to unit embeddings (B, D). Default: the recogniser's Psi."""
        return system.recognizer.embed(templates)

    def reference(self, system: System, features: Tensor) -> Tensor:
        """The origin from which noise is measured (if `adds_noise`). Default: the client's features."""
        return features

    def noise_information(self, system: System, features: Tensor) -> Tensor | None:
        """Fisher information of each entry's noise about its location, shaped like the template, if its law is known.

        For a template reference(features) + noise, with independent entries whose law does not depend on the features:
        1 / sigma^2 for a normal law, 1 / b^2 for Laplace's of scale b. It gives the leaderboard's MSE floor. Default:
        None, a law that is unknown or has no density.
        """
        return None

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """The convolutions of `encode`, which a mirrored decoder reverses. Default: those of the recogniser's E."""
        return recognizer.layout

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """Formal guarantees for images of (height, width) pixels, by name (for example an epsilon). Default: none."""
        return {}
