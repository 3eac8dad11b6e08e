"""Identity without pictures: a student learns from templates the embedding of the clean face, as FaceLinkGen does."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import Defense, FaceSet, ImageRng, Knowledge, Leak, LinkageAttack, Oracle, Rng, State
from bench.errors import NotApplicable
from bench.toolkit.decoders.disturbed import grainy
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
    enrolled: int = 300  #: own faces whose templates it learns from, above `encoder`
    width: int = 32  #: channels of the student's first layer
    augment: float = 1.0  #: largest noise in the first step, in the features' standard deviations
    recipe: Recipe = Recipe(epochs=10, batch=32, learning_rate=2e-3, schedule="cosine")

    def __post_init__(self) -> None:
        if self.enrolled < 4 or self.width < 4 or self.augment < 0:
            raise ValueError("enrolled and width must be at least 4, and augment at least 0")

    @property
    def level(self) -> Knowledge:
        """By default somebody who may enrol."""
        return Knowledge[self.knowledge.upper()]

    @property
    def asks_surrogate(self) -> bool:
        """At level `algorithm` alone: who may enrol has the real thing."""
        return self.level == Knowledge.ALGORITHM

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Trains the student.

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
        noise, features = rng.child("augment").torch(), self._features(oracle, len(public))
        first = train_embedding(
            clean,
            lambda images: grainy(features(images), self.augment, noise),
            public,
            replace(self.recipe, loss="softmax+triplet" if teacher is None else "distill"),
            rng.child("clean"),
            device,
            "distilling: clean features",
            teacher=teacher,
        )
        student, accounts = copy.deepcopy(clean), {"clean": dict(first.info)}
        if self._learns_templates(oracle):
            faces = public.subset(range(min(len(public), self.enrolled)))
            own = clean.to(device).eval().requires_grad_(False)
            epochs = math.ceil(self.recipe.epochs * max(1.0, _SEEN / len(faces)))
            second = train_embedding(
                student.requires_grad_(True),
                self._templates(oracle, faces, rng.child("protect")),
                faces,
                replace(
                    self.recipe, loss="distill", flip=False, epochs=epochs, learning_rate=self.recipe.learning_rate / 4
                ),
                rng.child("templates"),
                device,
                "distilling: templates",
                teacher=teacher or (lambda images: _unit(own, oracle.encode(images))),
            )
            accounts["templates"] = dict(second.info)
        parts = nn.ModuleDict({"clean": clean, "student": student}).cpu()
        tensors = {name: value.detach().contiguous() for name, value in parts.state_dict().items()}
        last = list(accounts.values())[-1]
        return State(tensors, {**accounts, "converged": last["converged"], "train_s": _seconds(accounts)})

    def score(self, oracle: Oracle, state: State | None, leak: Leak, gallery: FaceSet, rng: ImageRng) -> Tensor:
        """Cosines (B, N) of the student's embeddings of templates with embeddings of the gallery's photographs."""
        if state is None:
            raise ValueError("Distill has no trained state")
        size = state.tensors["clean.embedding.weight"].shape[0]
        with torch.random.fork_rng(devices=[]):
            pair = nn.ModuleDict(
                {name: _student(leak.values.shape[1:], self.width, size) for name in ("clean", "student")}
            )
        pair.load_state_dict(dict(state.tensors))
        pair.to(oracle.device).eval()
        see = self._teacher(oracle) or (lambda images: _unit(pair["clean"], oracle.encode(images)))
        known = [see(gallery.batch(slice(i, i + _BATCH), oracle.device)) for i in range(0, len(gallery), _BATCH)]
        return _unit(pair["student"], leak.values) @ torch.cat(known).T

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
    channels, side = shape[0], max(shape[1:])
    parts: list[tuple[str, nn.Module]] = [("scale", nn.BatchNorm2d(channels))]
    while side > _SMALLEST or len(parts) == 1:
        parts.append((f"down{len(parts)}", _half(channels, width)))
        channels, width, side = width, min(2 * width, 256), -(-side // 2)
    places = side * side
    parts += [
        ("pool", nn.AdaptiveAvgPool2d(side)),
        ("flat", nn.Flatten()),
        ("drop", nn.Dropout(0.1)),
        ("embedding", nn.Linear(channels * places, size, bias=False)),
        ("norm", nn.BatchNorm1d(size)),
    ]
    found = nn.Sequential()
    for name, part in parts:
        found.add_module(name, part)
    return found


def _half(inputs: int, outputs: int) -> nn.Sequential:
    """Two convolutions, the first of which halves the sides."""
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, 2, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
        nn.Conv2d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU(),
    )  # fmt: skip


def _unit(module: nn.Module, values: Tensor) -> Tensor:
    with torch.no_grad():
        return functional.normalize(module(values).float())


def _seconds(accounts: dict[str, dict[str, float]]) -> float:
    return round(sum(account["train_s"] for account in accounts.values()), 2)
