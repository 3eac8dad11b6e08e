"""Identity without pictures: a student learns from templates the embedding of the clean face, as FaceLinkGen does."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import Defense, FaceSet, ImageRng, Knowledge, Leak, LinkageAttack, Oracle, Rng, State
from bench.errors import NotApplicable
from bench.toolkit.decoders.disturbed import TrainingNoise
from bench.toolkit.embedding_training import Recipe, train_embedding
from bench.toolkit.own_templates import own_templates
from bench.toolkit.template_cache import TemplateCache

_BATCH = 50
_DIMENSIONS = 128  #: of an own embedding
_SMALLEST = 8  #: a side of the features from which the student's last layer sees every place by itself
_KEPT = 2**29  #: bytes that features of own faces may take to be kept, each made once
_SEEN = 500  #: templates an epoch of the recipe is made of; fewer faces take as many steps


@dataclass(frozen=True, kw_only=True)
class Distill(LinkageAttack):
    """Links a stolen template to a photograph by an embedding that a student makes of the template.

    Two steps. First the student learns an embedding of what a client sends for the attacker's own faces, under noise of
    all kinds. At `enrolment` its targets are the system's own embeddings of these faces, as a login makes them; below
    that nobody gives any, and it learns to tell the attacker's people apart. Then, above `encoder`, it goes on with
    templates, of a copy of the defence (`algorithm`) or of faces enrolled in the real system (`enrolment`), towards the
    embedding of the clean face.

    Source: FaceLinkGen distils a recogniser that is known. Here nobody below `whitebox` has its weights, and the
    student starts from nothing.
    """

    #: What the attacker knows; bench.toml writes it as NAME@LEVEL.
    knowledge: Literal["encoder", "algorithm", "enrolment"] = "enrolment"
    enrolled: int = 300  #: own faces whose templates it learns from, above `encoder`; 0: the first step alone
    width: int = 32  #: channels of the student's first layer
    augment: float = 1.0  #: largest noise in the first step, in the features' standard deviations
    recipe: Recipe = Recipe(epochs=10, batch=32, learning_rate=2e-3, schedule="cosine")

    def __post_init__(self) -> None:
        if 0 < self.enrolled < 4 or self.enrolled < 0 or self.width < 4 or self.augment < 0:
            raise ValueError("enrolled must be 0 or at least 4, width at least 4, and augment at least 0")

    @property
    def level(self) -> Knowledge:
        """By default somebody who may enrol."""
        return Knowledge[self.knowledge.upper()]

    @property
    def asks_surrogate(self) -> bool:
        """At level `algorithm` alone: who may enrol has the real thing."""
        return self.level == Knowledge.ALGORITHM

    @property
    def base(self) -> Distill | None:
        """The first step, which all numbers of enrolled faces share; below `enrolment`, all levels too."""
        below: Literal["encoder", "enrolment"] = "enrolment" if self.level >= Knowledge.ENROLMENT else "encoder"
        base = replace(self, enrolled=0, knowledge=below)
        return None if base == self else base

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the student on what a client sends.

        Raises:
            NotApplicable: below `enrolment`, where no two of the attacker's faces are known to show one person.
        """
        device, teacher = oracle.device, self._teacher(oracle)
        if teacher is None and len(set(public.subjects or public.names)) == len(public):
            raise NotApplicable(
                "no two of the attacker's faces show one person, and below 'enrolment' nothing else teaches"
            )
        size = _DIMENSIONS if teacher is None else teacher(public.batch(slice(0, 1), device)).shape[1]
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.child("weights").seed)
            clean = _student(oracle.feature_shape, self.width, size)
        noise = TrainingNoise(self.augment, rng.child("augment").torch())
        features = self._features(oracle, len(public))
        first = train_embedding(
            clean,
            lambda images: noise.grainy(features(images)),
            public,
            replace(self.recipe, loss="softmax+triplet" if teacher is None else "distill"),
            rng.child("clean"),
            device,
            "distilling: clean features",
            teacher=teacher,
        )
        return _state(clean, clean, {"clean": dict(first.info)})

    def adapt(self, oracle: Oracle, public: FaceSet, rng: Rng, start: State | None) -> State | None:
        """Continues with templates, if they differ from what a client sends."""
        if start is None or not self._learns_templates(oracle):
            return start
        device, teacher = oracle.device, self._teacher(oracle)
        pair = self._pair(oracle.feature_shape, start)
        own = pair["clean"].to(device).eval().requires_grad_(False)
        faces = public.subset(range(min(len(public), self.enrolled)))
        second = train_embedding(
            pair["student"].requires_grad_(True),
            self._templates(oracle, faces, rng.child("protect")),
            faces,
            replace(
                self.recipe,
                loss="distill",
                flip=False,
                epochs=math.ceil(self.recipe.epochs * max(1.0, _SEEN / len(faces))),
                learning_rate=self.recipe.learning_rate / 4,
            ),
            rng.child("templates"),
            device,
            "distilling: templates",
            teacher=teacher or (lambda images: _unit(own, oracle.encode(images))),
        )
        accounts = {name: value for name, value in start.info.items() if isinstance(value, Mapping)}
        return _state(own, pair["student"], {"clean": accounts["clean"], "templates": dict(second.info)})

    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """Cosines (B, N) of the student's embeddings of templates with embeddings of the gallery's photographs."""
        if state is None:
            raise ValueError("Distill has no trained state")
        pair = self._pair(leak.values.shape[1:], state).to(oracle.device).eval()
        see = self._teacher(oracle) or (lambda images: _unit(pair["clean"], oracle.encode(images)))
        known = [see(gallery.batch(slice(i, i + _BATCH), oracle.device)) for i in range(0, len(gallery), _BATCH)]
        return _unit(pair["student"], leak.values) @ torch.cat(known).T

    def _pair(self, shape: Sequence[int], state: State) -> nn.ModuleDict:
        """The trained networks: `clean` for what a client sends, `student` for templates."""
        size = state.tensors["clean.embedding.weight"].shape[0]
        with torch.random.fork_rng(devices=[]):
            pair = nn.ModuleDict({name: _student(shape, self.width, size) for name in ("clean", "student")})
        pair.load_state_dict(dict(state.tensors))
        return pair

    def _teacher(self, oracle: Oracle) -> Callable[[Tensor], Tensor] | None:
        """The system's embeddings of own images, each asked for once; None for who may not ask."""
        if self.level < Knowledge.ENROLMENT:
            return None
        return TemplateCache(lambda images, _: oracle.embed(images), oracle.device)

    def _features(self, oracle: Oracle, faces: int) -> Callable[[Tensor], Tensor]:
        """What a client sends for own images; each made once where all of them, and mirrored, find room."""
        if oracle.varies or 2 * 2 * faces * math.prod(oracle.feature_shape) > _KEPT:
            return oracle.encode
        return TemplateCache(lambda images, _: oracle.encode(images), oracle.device)

    def _learns_templates(self, oracle: Oracle) -> bool:
        """Whether what is stored is something else than what a client sends, and the attacker sees it of own faces."""
        if self.level < Knowledge.ALGORITHM:
            return False
        return type(oracle.defense).protect is not Defense.protect and not oracle.defense.client_side

    def _templates(self, oracle: Oracle, faces: FaceSet, rng: Rng) -> Callable[[Tensor], Tensor]:
        """Own images to templates: anew each time where the defence draws for each image, otherwise each made once."""
        enrol = own_templates(oracle, rng)
        if oracle.defense.randomized and oracle.defense.protect_batch is None:
            return lambda images: enrol(images, [*map(str, range(len(images)))])
        kept = TemplateCache(enrol, oracle.device)
        kept.fill(faces, oracle.defense.protect_batch or _BATCH, "enrolling for Distill")
        return kept


def _student(shape: Sequence[int], width: int, size: int) -> nn.Sequential:
    """Features (B, C, h, w) to embeddings (B, size), not normalised: halved until small, then each place by itself."""
    channels, height, across = shape
    parts: list[tuple[str, nn.Module]] = [("scale", nn.BatchNorm2d(channels))]
    while max(height, across) > _SMALLEST or len(parts) == 1:
        parts.append((f"down{len(parts)}", _half(channels, width)))
        channels, width, height, across = width, min(2 * width, 256), -(-height // 2), -(-across // 2)
    side = max(height, across)
    parts += [
        ("pool", _Pool(height, across, side)),
        ("flat", nn.Flatten()),
        ("drop", nn.Dropout(0.1)),
        ("embedding", nn.Linear(channels * side * side, size, bias=False)),
        ("norm", nn.BatchNorm1d(size)),
    ]
    found = nn.Sequential()
    for name, part in parts:
        found.add_module(name, part)
    return found


class _Pool(nn.Module):
    """`nn.AdaptiveAvgPool2d(side)` as two products of matrices, whose gradients are deterministic on a GPU too."""

    def __init__(self, height: int, width: int, side: int) -> None:
        super().__init__()
        self.register_buffer(
            "rows", functional.adaptive_avg_pool1d(torch.eye(height)[None], side)[0].T, persistent=False
        )
        self.register_buffer(
            "columns", functional.adaptive_avg_pool1d(torch.eye(width)[None], side)[0], persistent=False
        )
        self.rows: Tensor
        self.columns: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, h, w) to (B, C, side, side)."""
        return self.rows.to(x.dtype) @ x @ self.columns.to(x.dtype)


def _half(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, the first of which halves the sides."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


def _unit(module: nn.Module, values: Tensor) -> Tensor:
    with torch.no_grad():
        return functional.normalize(module(values).float())


def _state(clean: nn.Module, student: nn.Module, accounts: Mapping[str, Mapping[str, Any]]) -> State:
    """Both networks, and a log of the steps."""
    parts = nn.ModuleDict({"clean": clean, "student": student}).cpu()
    tensors = {name: value.detach().clone().contiguous() for name, value in parts.state_dict().items()}
    last = list(accounts.values())[-1]
    spent = round(sum(account["train_s"] for account in accounts.values()), 2)
    return State(tensors, {**accounts, "converged": last["converged"], "train_s": spent})
