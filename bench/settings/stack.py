"""Defences one after another as one: `stack = ["laplace", "advface"]` in bench.toml."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor, nn

from bench.contracts import Conv, Defense, FaceSet, ImageRng, KeyedDefense, Rng, SplitNetwork, State, System
from bench.errors import UserError


def stack(names: Sequence[str], parts: Sequence[Defense], where: str) -> Defense:
    """The parts in sequence, as one defence.

    Args:
        names: what the user calls the parts, for errors.
        where: where the stack is defined, for errors.

    Raises:
        UserError: the parts do not fit; names the part and says why.
    """
    for name, part in zip(names, parts, strict=True):
        if isinstance(part, KeyedDefense):
            raise UserError(f"{where}: {name!r} protects embeddings under a key; a stack is of defences of features")
        if isinstance(part, Stack):
            raise UserError(f"{where}: {name!r} is itself a stack; list its parts")
    for name, part in zip(names[1:], parts[1:], strict=True):
        if type(part).encode is not Defense.encode:
            raise UserError(f"{where}: {name!r} has a client of its own, which only the first of a stack can have")
    deferred = _deferred(parts)
    for before, after in zip(range(deferred, len(parts)), range(deferred + 1, len(parts)), strict=False):
        if parts[after].client_side and not parts[before].client_side:
            raise UserError(
                f"{where}: {names[after]!r} protects on the client and {names[before]!r} on the server: the client's "
                "steps come first"
            )
        if parts[before].client_side and not parts[after].client_side:
            raise UserError(
                f"{where}: {names[before]!r} is random on the client, and {names[after]!r} protects on the server; a "
                "stack protects on one side"
            )
    batches = {part.protect_batch for part in parts[deferred:]} - {None}
    if len(batches) > 1:
        raise UserError(f"{where}: parts are protected in batches of {sorted(map(str, batches))}: give them one size")
    serves = any(type(part).fit_server is not Defense.fit_server for part in parts)
    kind = ServedStack if serves else Stack
    return kind(order=tuple(type(part).__name__.lower() for part in parts), parts=tuple(parts))


def _deferred(parts: Sequence[Defense]) -> int:
    """The place of the first part that protects at random or on the server; those before are part of the client."""
    for place, part in enumerate(parts):
        if type(part).protect is not Defense.protect and (part.randomized or not part.client_side):
            return place
    return len(parts)


class _Front(nn.Module):
    """The client of the stack so far: images in [0, 1] to features."""

    def __init__(self, system: System, protects: bool) -> None:
        super().__init__()
        self.inner, self.system, self.protects = system.recognizer, system, protects

    def forward(self, images: Tensor) -> Tensor:
        features = self.system.encode(images)
        if not self.protects:
            return features
        return self.system.protect(features, Rng(0).images([*map(str, range(len(images)))]))


class _Back(nn.Module):
    """The server of the stack so far: templates to embeddings."""

    def __init__(self, system: System) -> None:
        super().__init__()
        self.inner, self.system = system.recognizer, system

    def forward(self, templates: Tensor) -> Tensor:
        return self.system.embed(templates)


@dataclass(frozen=True, kw_only=True)
class Stack(Defense):
    """Each part protects what the part before gives it; the first may have a client of its own.

    To a part, the parts before it are the recogniser: their client's features are what it is fitted on, and its
    embeddings go through their server. It is not fitted on the noise that a part before it adds.
    """

    order: tuple[str, ...] = ()  #: the plugins of the parts
    parts: tuple[Any, ...] = ()  #: the parts, first one first

    @property
    def _late(self) -> tuple[Any, ...]:
        return self.parts[_deferred(self.parts) :]

    @property
    def randomized(self) -> bool:  # type: ignore[override]
        """Whether a part is."""
        return any(part.randomized for part in self.parts)

    @property
    def client_side(self) -> bool:  # type: ignore[override]
        """Whether no part protects on the server."""
        return all(part.client_side for part in self._late)

    @property
    def adds_noise(self) -> bool:  # type: ignore[override]
        """Whether a part does that is not part of the client."""
        return any(part.adds_noise for part in self._late)

    @property
    def template_dtype(self) -> Literal["float32", "float16"]:  # type: ignore[override]
        """The last part's."""
        found: Literal["float32", "float16"] = self.parts[-1].template_dtype
        return found

    @property
    def value_bits(self) -> int | None:
        """The last part's."""
        found: int | None = self.parts[-1].value_bits
        return found

    @property
    def ignored(self) -> Mapping[Literal["fit", "protect"], frozenset[str]]:  # type: ignore[override]
        """None of its own; `at` asks the parts."""
        return {"protect": frozenset()} if any("protect" in part.ignored for part in self.parts) else {}

    def at(self, step: Literal["fit", "protect"]) -> Self:
        """Every part as the harness runs this step."""
        return replace(self, parts=tuple(part.at(step) for part in self.parts))

    @property
    def has_own_client(self) -> bool:
        """Whether a part changes what the client sends."""
        early = self.parts[: _deferred(self.parts)]
        changed = any(type(part).protect is not Defense.protect for part in early)
        return bool(self.parts[0].has_own_client or changed or (self._late and self.client_side))

    @property
    def shares_templates(self) -> bool:
        """Whether a part does."""
        return any(part.shares_templates for part in self.parts)

    @property
    def protect_batch(self) -> int | None:
        """The size that a part asks for."""
        return next((part.protect_batch for part in self._late if part.protect_batch is not None), None)

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State | None:
        """Fits part after part."""
        tensors: dict[str, Tensor] = {}
        infos: list[Mapping[str, Any] | None] = []
        for place, part in enumerate(self.parts):
            state = part.fit(recognizer, public, rng.child("part", place))
            infos.append(None if state is None else state.info)
            tensors |= {} if state is None else {f"{place}.{name}": value for name, value in state.tensors.items()}
            system = System(recognizer, part, part.prepare(recognizer, state), _device(recognizer))
            recognizer = self._after(place, system)
        return None if not any(info is not None for info in infos) else State(tensors, _account(infos))

    def _after(self, place: int, system: System) -> SplitNetwork:
        """The recogniser that the next part sees."""
        early = place < _deferred(self.parts)
        protects = early and type(system.defense).protect is not Defense.protect
        layout = () if protects else system.defense.layout(system.recognizer)
        front, back = _Front(system, protects), _Back(system)
        size = system.recognizer.image_size
        return SplitNetwork(front, back, image_size=size, layout=layout, mean=0.0, scale=1.0).eval()

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> tuple[System, ...]:
        """A system for each part."""
        found = []
        for place, part in enumerate(self.parts):
            system = System(recognizer, part, part.prepare(recognizer, _part(state, place)), _device(recognizer))
            found.append(system)
            recognizer = self._after(place, system)
        return tuple(found)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The client of all parts together; without a state, where no part changes the client."""
        if not self.has_own_client:
            return system.recognizer.extract(images)
        last: System = system.state[-1]
        if _deferred(self.parts) == len(self.parts):
            return self._after(len(self.parts) - 1, last).extract(images)
        return last.encode(images)

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """Part after part, without those that are part of the client."""
        for part in system.state[_deferred(self.parts) :]:
            features = part.protect(features, rng)
        return features

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """The last part's way back through those before it."""
        embeddings: Tensor = system.state[-1].embed(templates)
        return embeddings

    def reference(self, system: System, features: Tensor) -> Tensor:
        """Part after part, without noise."""
        for part in system.state[_deferred(self.parts) :]:
            features = part.defense.reference(part, features)
        return features

    def noise_information(self, system: System, features: Tensor) -> Tensor | None:
        """That of the only part that protects after the client; None if there are several."""
        late = system.state[_deferred(self.parts) :]
        found: Tensor | None = late[0].defense.noise_information(late[0], features) if len(late) == 1 else None
        return found

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """The first part's, unless the client also protects."""
        early = self.parts[: _deferred(self.parts)]
        if any(type(part).protect is not Defense.protect for part in early):
            return ()
        found: tuple[Conv, ...] = self.parts[0].layout(recognizer)
        return found

    def files(self) -> Mapping[str, Path]:
        """Those of all parts."""
        return {f"{place}.{name}": path for place, part in enumerate(self.parts) for name, path in part.files().items()}

    def claims(self, image_size: tuple[int, int]) -> Mapping[str, str | float]:
        """Those of the first part that protects after the client: later parts see only what it gives them."""
        late = self._late
        found: Mapping[str, str | float] = late[0].claims(image_size) if late else {}
        return found


@dataclass(frozen=True, kw_only=True)
class ServedStack(Stack):
    """A stack in which a part trains its server, on templates of that part alone."""

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State | None:
        """Trains the parts' servers, first one first."""
        tensors: dict[str, Tensor] = {}
        infos: list[Mapping[str, Any] | None] = []
        recognizer = system.recognizer
        for place, (part, own) in enumerate(zip(self.parts, system.state, strict=True)):
            own = replace(own, recognizer=recognizer)
            state = part.fit_server(own, public, rng.child("part", place))
            infos.append(None if state is None else state.info)
            tensors |= {} if state is None else {f"{place}.{name}": value for name, value in state.tensors.items()}
            recognizer = self._after(place, replace(own, server=part.prepare_server(recognizer, state)))
        return None if not any(info is not None for info in infos) else State(tensors, _account(infos))

    def prepare_server(self, recognizer: SplitNetwork, state: State | None) -> Sequence[State | None]:
        """A state for each part."""
        return [_part(state, place) for place in range(len(self.parts))]

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """As in any stack, through the trained servers."""
        recognizer = system.recognizer
        for place, own in enumerate(system.state):
            part = replace(own, recognizer=recognizer)
            if system.server is not None:
                part = replace(part, server=self.parts[place].prepare_server(recognizer, system.server[place]))
            recognizer = self._after(place, part)
        return recognizer.embed(templates)


def _device(recognizer: SplitNetwork) -> torch.device:
    return next(recognizer.parameters()).device


def _account(infos: Sequence[Mapping[str, Any] | None]) -> dict[str, Any]:
    """The parts' logs; not converged if one of them is not."""
    unfinished = any(info is not None and info.get("converged") is False for info in infos)
    return {"parts": [None if i is None else dict(i) for i in infos], **({"converged": False} if unfinished else {})}


def _part(state: State | None, place: int) -> State | None:
    """What one part learned."""
    if state is None or state.info["parts"][place] is None:
        return None
    own = {n.removeprefix(f"{place}."): v for n, v in state.tensors.items() if n.startswith(f"{place}.")}
    return State(own, state.info["parts"][place])
