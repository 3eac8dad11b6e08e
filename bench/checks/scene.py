"""A small system to test plugins on: synthetic people and the client included in the package."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import Tensor, nn

from bench.checks.verdict import Wrong
from bench.contracts import Alignment, Defense, FaceSet, ImageRng, Recognizer, SplitNetwork, State, System
from bench.datasets.synthetic import Synthetic
from bench.recognizers.compact import Compact

_JUDGED = 12  #: number of images that a plugin is tested on


@dataclass(frozen=True, kw_only=True)
class Open(Defense):
    """Stores features unchanged."""


@dataclass(frozen=True, kw_only=True)
class Noisy(Defense):
    """Adds a little fresh noise, so that an attack that enrols sees templates that differ from features."""

    randomized = True

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + noise."""
        return features + 0.1 * features.std((1, 2, 3), keepdim=True) * rng.normal(features)


@dataclass(frozen=True, eq=False)
class Scene:
    """Public faces, faces to judge, and a recogniser; the recogniser is frozen and in eval mode."""

    network: SplitNetwork
    public: FaceSet
    test: FaceSet

    @classmethod
    def shipped(cls, public: int = 240) -> Scene:
        """The complete recogniser included in the package, at 96 x 96."""
        return cls.of(Compact(), public)

    @classmethod
    def of(cls, recognizer: Recognizer, public: int = 240) -> Scene:
        """Any recogniser."""
        return cls(_frozen(recognizer.load()), *_faces(recognizer.alignment, public))

    @classmethod
    def small(cls, size: tuple[int, int] = (48, 40), public: int = 160) -> Scene:
        """The included client with a server of random weights, on small images: takes seconds instead of a minute."""
        whole = Compact().load()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            server = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.LazyLinear(32))
            network = SplitNetwork(
                whole.client, server, image_size=size, layout=whole.layout, mean=whole.mean, scale=whole.scale
            )
            network.embed(network.extract(torch.zeros(1, 3, *size)))
        return cls(_frozen(network), *_faces(Alignment("margin", size), public))

    def resized(self, size: tuple[int, int]) -> Scene:
        """The small scene at another image size, with as few faces as possible."""
        return Scene.small(size, min(16, len(self.public)))

    def images(self, count: int = _JUDGED) -> Tensor:
        """The faces to judge, (count, 3, H, W)."""
        return self.test.batch(slice(0, count))

    def names(self, count: int = _JUDGED) -> tuple[str, ...]:
        """Their names."""
        return self.test.names[:count]

    def system(self, defense: Defense, state: State | None = None) -> System:
        """The defended system, before its server is trained."""
        return System(self.network, defense, defense.prepare(self.network, state))

    def serving(self, system: System, server: State | None) -> System:
        """The defended system with its trained server."""
        return replace(system, server=system.defense.prepare_server(self.network, server))

    def weights(self) -> Mapping[str, Tensor]:
        """Copies of the recogniser's weights."""
        return {name: value.clone() for name, value in self.network.state_dict().items()}

    def refuse_changes(self, before: Mapping[str, Tensor]) -> None:
        """Checks that the shared recogniser is unchanged.

        Raises:
            Wrong: its weights have changed, or it was left in training mode.
        """
        now = self.network.state_dict()
        changed = [name for name, value in before.items() if not torch.equal(value, now[name])]
        if changed or self.network.training:
            came = f"a change of {changed[0]}" if changed else "a network in training mode"
            raise Wrong("the recogniser unchanged", came, "Train a copy (copy.deepcopy); the recogniser is shared.")


def _frozen(network: SplitNetwork) -> SplitNetwork:
    return network.eval().requires_grad_(False)


def _faces(alignment: Alignment, public: int) -> tuple[FaceSet, FaceSet]:
    people = Synthetic(folds=2, pairs_per_fold=_JUDGED // 4, public=public)
    with tempfile.TemporaryDirectory() as folder:
        found = people.load(alignment, Path(folder))
        pixels = found.test.pixels.copy()  # copies of both sets, because the temporary folder is about to be deleted
    assert found.public is not None
    return replace(found.public, pixels=pixels), replace(found.test, pixels=pixels)
