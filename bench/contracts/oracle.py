"""The oracle: what an attack may ask at its declared level of knowledge. It counts all queries."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.contracts.defense import Defense, State, System
from bench.contracts.recognizer import Conv, SplitNetwork
from bench.contracts.rng import Rng
from bench.errors import KnowledgeError
from bench.labels import Knowledge


class _Withheld(nn.Module):
    """Takes the place of the server's network for attackers below `whitebox`."""

    def forward(self, *_: Any) -> Tensor:
        raise KnowledgeError("the server's network is not known below level 'whitebox'")


def client_alone(network: SplitNetwork) -> SplitNetwork:
    """The network as a client device has it."""
    return SplitNetwork(
        network.client,
        _Withheld(),
        image_size=network.image_size,
        layout=network.layout,
        mean=network.mean,
        scale=network.scale,
    )


class Stored(Protocol):
    """Stolen values (N, ...) in memory or in a file, read row by row."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: NDArray[np.int64]) -> NDArray[Any]: ...


class Oracle:
    """The attacker's only access to the system; a call beyond the declared level raises `KnowledgeError`.

    All attackers know the shape of a template (`feature_shape`), `image_size`, whether the client is randomised
    (`varies`), and the device to compute on. Who has one end of the system also knows the client's `layout`.

    Attributes:
        queries: the number of calls per method, and in `METHOD_images` the number of images.
    """

    def __init__(
        self,
        level: Knowledge,
        system: System,
        rng: Rng,
        stored: Tensor | None = None,
        surrogate: State | None = None,
        stolen: Stored | None = None,
        *,
        show: Callable[[Tensor], Tensor] = lambda scores: scores,
    ) -> None:
        """An oracle for one attack on one system.

        Args:
            stored: embeddings (N, D) of the victims' templates, for `similarity`.
            surrogate: the state of the defence's `fit` on the attacker's own faces.
            stolen: all stolen values (N, ...), for attacks with `asks_stolen`.
            show: what the server shows of scores, `Attack.shown`.
        """
        self.level = level
        self.queries: Counter[str] = Counter()
        self._reported: dict[str, list[float]] = {}
        self.device = system.device
        self.image_size = system.recognizer.image_size
        self._system, self._rng, self._stored, self._surrogate = system, rng, stored, surrogate
        self._stolen, self._show = stolen, show
        self.varies = system.defense.client_side and system.defense.randomized

    @cached_property
    def layout(self) -> tuple[Conv, ...]:
        """The client's convolutions, its architecture without weights; not for who has neither end of the system."""
        if not (self.level >= Knowledge.SERVER or self.level >= Knowledge.ENCODER):
            raise KnowledgeError(f"layout needs level 'server' or 'encoder', but this attack declared '{self.level}'")
        return self._system.defense.layout(self._system.recognizer)

    @cached_property
    def feature_shape(self) -> tuple[int, ...]:
        """(C, h, w) of what a client sends."""
        with torch.no_grad():
            return tuple(self._sent("probe", torch.zeros(1, 3, *self.image_size)).shape[1:])

    def _sent(self, method: str, images: Tensor) -> Tensor:
        """What a client sends for own images; every call draws fresh randomness."""
        call = self._rng.child(method, self.queries[method])
        return self._system.send(images.to(self.device), call.images([*map(str, range(len(images)))]))

    def _ask(self, method: str, level: Knowledge, images: int = 0) -> None:
        if not level <= self.level:
            raise KnowledgeError(f"{method}() needs level '{level}', but this attack declared '{self.level}'")
        self.queries[method] += 1
        self.queries[f"{method}_images"] += images

    def report(self, **figures: Tensor) -> None:
        """Adds figures of an attack's progress to the record, one per image. `converged` (0 or 1) causes a flag."""
        for name, values in figures.items():
            self._reported.setdefault(name, []).extend(values.double().tolist())

    @property
    def reported(self) -> dict[str, float]:
        """Means over the images of all reported figures."""
        return {name: round(sum(values) / len(values), 6) for name, values in self._reported.items()}

    def stolen(self, count: int) -> Tensor:
        """`database`: at most `count` of the stolen values, spread evenly over the database, (n, ...) float32.

        It is the same selection at every call. Only for attacks that declare `asks_stolen`.
        """
        self._ask("stolen", Knowledge.DATABASE)
        if self._stolen is None:
            raise KnowledgeError("the stolen values are not available here: declare asks_stolen = True")
        rows = np.unique(np.linspace(0, len(self._stolen) - 1, min(count, len(self._stolen))).round().astype(np.int64))
        return torch.from_numpy(np.asarray(self._stolen[rows])).to(self.device, torch.float32)

    def recognise(self, templates: Tensor) -> Tensor:
        """`server`: the server's embeddings (B, D) of templates, differentiable in these.

        Attacks that steal templates must declare `asks_server`.
        """
        self._ask("recognise", Knowledge.SERVER, len(templates))
        return self._system.embed(templates)

    def encode(self, images: Tensor) -> Tensor:
        """`encoder`: what a client device sends for own images; values without gradients."""
        self._ask("encode", Knowledge.ENCODER, len(images))
        with torch.no_grad():
            return self._sent("encode", images)

    @property
    def defense(self) -> Defense:
        """`algorithm`: the defence with its settings, without anything it learned."""
        self._ask("defense", Knowledge.ALGORITHM)
        return self._system.defense

    @property
    def surrogate(self) -> System:
        """`algorithm`: a copy of the defence with the client's extractor only, fitted on the attacker's faces."""
        self._ask("surrogate", Knowledge.ALGORITHM)
        client, copy = client_alone(self._system.recognizer), self._system.defense
        return System(client, copy, copy.prepare(client, self._surrogate), self.device, templates_only=True)

    def enrol(self, images: Tensor, names: Sequence[str]) -> Tensor:
        """`enrolment`: templates that the server stores for own images; every call draws fresh randomness."""
        self._ask("enrol", Knowledge.ENROLMENT, len(images))
        call = self._rng.child("enrol", self.queries["enrol"])
        with torch.no_grad():
            return self._system.protect(self._system.encode(images.to(self.device)), call.images(names)).detach()

    def similarity(self, images: Tensor, targets: Sequence[int]) -> Tensor:
        """`enrolment`: the score of a login with each image against each target's stored template, (B,)."""
        self._ask("similarity", Knowledge.ENROLMENT, len(images))
        if self._stored is None:
            raise KnowledgeError("no stored templates to compare with while fitting")
        with torch.no_grad():
            probes = self._system.embed(self._sent("similarity", images))
            return self._show((probes * self._stored[list(targets)].to(probes)).sum(1))

    def similarities(self, images: Tensor, targets: Sequence[int]) -> Tensor:
        """`enrolment`: the score of every image (B) against every target (T), (B, T); counts as B x T logins."""
        self._ask("similarity", Knowledge.ENROLMENT, len(images) * len(targets))
        if self._stored is None:
            raise KnowledgeError("no stored templates to compare with while fitting")
        with torch.no_grad():
            probes = self._system.embed(self._sent("similarity", images))
            return self._show(probes @ self._stored[list(targets)].to(probes).T)

    def embed(self, images: Tensor) -> Tensor:
        """`enrolment`: the server's embeddings (B, D) of own images as probes."""
        self._ask("embed", Knowledge.ENROLMENT, len(images))
        with torch.no_grad():
            return self._system.embed(self._sent("embed", images))

    @property
    def system(self) -> System:
        """`whitebox`: everything with gradients, including the fitted state, but not the server's randomness."""
        self._ask("system", Knowledge.WHITEBOX)
        return self._system
