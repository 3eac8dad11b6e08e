"""Searches the synthetic people of the suite's own renderer for the one with a stolen embedding: a perfect prior."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.synthesis import render, sample_person, sample_shot
from bench.toolkit.progress import track

_BATCH = 32
_KINDS = 8  #: a trait with at most so many values among the first people is inherited, and never varied
_FIRST, _LAST = 0.5, 0.1  #: of mutations, in the traits' standard deviations, in the first and the last generation
_CHANGED = 0.2  #: share of the traits that a mutation changes


@dataclass(frozen=True, kw_only=True)
class RendererSearch(ReconstructionAttack):
    """Evolves rendered people until the client's embedding of a studio portrait comes close to the stolen one.

    On synthetic people this attacker has the very distribution that the victims were drawn from, as no attacker of
    photographs ever has: what it reaches is a reference for attacks on embeddings whose prior is learned from public
    faces. It uses no gradients. The pose, light and background of the victim's photograph are not searched for, so the
    cosine and the judge's figures say more than SSIM.

    A generation crosses two of the best people so far, trait by trait, and varies some of the traits.
    """

    leaks: ClassVar[Literal["template", "embedding"]] = "embedding"
    yardstick: ClassVar[bool] = True

    people: int = 512  #: people drawn at random first, and embedded once for all targets
    generations: int = 20  #: rounds of crossing and varying
    children: int = 24  #: people tried per target and generation
    parents: int = 6  #: people who are crossed
    #: Eyes, nose and corners of the mouth as (x, y), in shares of the image's width and height: those of `compact`.
    points: tuple[tuple[float, float], ...] = (
        (0.354, 0.417), (0.646, 0.417), (0.5, 0.583), (0.385, 0.754), (0.621, 0.752),
    )  # fmt: skip
    images: int | None = 16  #: number of targets to attack

    def __post_init__(self) -> None:
        if not 2 <= self.parents <= self.people or self.generations < 0 or self.children < 1:
            raise ValueError("parents must be between 2 and people, children at least 1, generations at least 0")
        if len(self.points) != 5:
            raise ValueError("points must be five: eyes, nose and corners of the mouth")

    @property
    def level(self) -> Knowledge:
        """Needs embeddings of own images."""
        return Knowledge.ENROLMENT

    def subset(self, defense: Defense) -> int | None:
        """Each target has its own search."""
        return self.images

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Draws the first people and embeds their portraits."""
        names = list(self._drawn(0))
        table = np.array([[self._drawn(i)[name] for name in names] for i in range(self.people)], dtype=np.float32)
        return State({"traits": torch.from_numpy(table), "embeddings": self._embedded(oracle, names, table).cpu()})

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """Searches for each target by itself."""
        names, first = list(self._drawn(0)), state.tensors["traits"].numpy()
        known = state.tensors["embeddings"].to(leak.values)
        found, reached = [], []
        for target, source in zip(
            track(leak.values, "searching people", len(leak.values)), rng.generators, strict=True
        ):
            best, cosine = self._evolved(oracle, names, first, known @ target, target, source)
            found.append(best)
            reached.append(cosine)
        oracle.report(cosine_of_the_search=torch.tensor(reached))
        oracle.report(cosine_of_the_first=(leak.values @ known.T).amax(1))
        return self._portraits(oracle.image_size, names, np.stack(found)).to(leak.values.device)

    def _evolved(
        self, oracle: Oracle, names: Sequence[str], first: NDArray[np.float32], scores: Tensor, target: Tensor,
        source: np.random.Generator,
    ) -> tuple[NDArray[np.float32], float]:  # fmt: skip
        """(traits of the best person, the cosine to the target)."""
        spread, low, high = first.std(0), first.min(0), first.max(0)
        spread[[len(np.unique(column)) <= _KINDS for column in first.T]] = 0
        order = scores.argsort(descending=True)[: self.parents].cpu()
        best, cosines = first[order.numpy()], scores.cpu()[order]
        for turn in range(self.generations):
            size = _FIRST * (_LAST / _FIRST) ** (turn / max(1, self.generations - 1))
            pairs = source.integers(len(best), size=(2, self.children))
            mixed = np.where(source.random((self.children, len(names))) < 0.5, best[pairs[0]], best[pairs[1]])
            moved = source.standard_normal(mixed.shape) * (source.random(mixed.shape) < _CHANGED)
            children = np.clip(mixed + size * spread * moved, low, high).astype(np.float32)
            seen = self._embedded(oracle, names, children) @ target
            every, all_cosines = np.concatenate([best, children]), torch.cat([cosines, seen.cpu()])
            top = all_cosines.argsort(descending=True, stable=True)[: self.parents]
            best, cosines = every[top.numpy()], all_cosines[top]
        return best[0], float(cosines[0])

    def _drawn(self, number: int) -> dict[str, float]:
        return sample_person("renderer search", number)

    def _embedded(self, oracle: Oracle, names: Sequence[str], table: NDArray[np.float32]) -> Tensor:
        shown = self._portraits(oracle.image_size, names, table)
        return torch.cat([oracle.embed(some) for some in torch.split(shown, _BATCH)])

    def _portraits(self, size: tuple[int, int], names: Sequence[str], table: NDArray[np.float32]) -> Tensor:
        """Studio portraits (N, 3, H, W) in [0, 1]: frontal, evenly lit, all with one background."""
        people: list[Mapping[str, float]] = [dict(zip(names, map(float, row), strict=True)) for row in table]
        shots = [sample_shot(person, "renderer search", calm=0.0) for person in people]
        points = [(x * size[1] - 0.5, y * size[0] - 0.5) for x, y in self.points]
        return torch.from_numpy(render(people, shots, size, points)).permute(0, 3, 1, 2).float() / 255
