"""DISCO (Singh et al., CVPR 2021): a network removes the channels that an adversary needs, anew for each image."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.feature_scale import feature_scale
from bench.toolkit.frequency_defense import learn_client
from bench.toolkit.inner_decoder import InnerDecoder
from bench.toolkit.recognition_loss import recognition_loss
from bench.toolkit.server_training import Labels, restore_server, teaching_faces, train_server

_TEMPERATURE = 1 / 30  #: of the soft choice in training


@dataclass(frozen=True, kw_only=True)
class Pruning(Defense):
    """Stores the features with a share `ratio` of the channels set to zero, those with the lowest scores.

    A small network gives each channel of an image a score from the channels' means. It is trained against a decoder
    that learns at the same time to rebuild the face from what is left, with the loss (1 - `weight`) * recognition +
    `weight` * the decoder's success. Training chooses softly, by sigmoid((score - quantile) / temperature). Afterwards
    the server is distilled from the recogniser under test on pruned features.

    DISCO hides an attribute and keeps another one; here the decoder of faces is the adversary, as in SIMBA's row.
    """

    client_side: ClassVar[bool] = True
    adds_noise: ClassVar[bool] = False
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"mode", "recipe"}),
        "protect": frozenset({"mode", "recipe"}),
    }

    ratio: float = 0.5  #: share of the channels that is removed; SIMBA takes .99
    weight: float = 0.5  #: weight of privacy against recognition, between 0 and 1
    fit_steps: int = 150  #: training steps of scores and decoder
    batch: int = 8  #: images per step
    learning_rate: float = 2e-3  #: of both
    width: int = 16  #: channels of the decoder
    mode: Labels = "teacher"  #: the training target of the server
    recipe: Recipe = Recipe(epochs=4, rounds=1, batch=32, schedule="cosine", warm_up=0)

    def __post_init__(self) -> None:
        if not 0 <= self.ratio < 1 or not 0 <= self.weight <= 1:
            raise ValueError("ratio must be at least 0 and below 1, and weight between 0 and 1")
        if min(self.fit_steps, self.batch, self.width) < 1 or self.learning_rate <= 0:
            raise ValueError("fit_steps, batch and width must be at least 1, and learning_rate above 0")

    def _scorer(self, channels: int) -> nn.Sequential:
        return nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, channels), nn.Sigmoid())

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Trains the scores against a decoder."""
        device = next(recognizer.parameters()).device
        with torch.no_grad():
            shape = recognizer.extract(public.batch(slice(0, 1), device)).shape[1:]
        unit = float(feature_scale(recognizer, public, 100)["std"])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.child("weights").seed)
            scorer = self._scorer(shape[0]).to(device)
        inner = InnerDecoder(recognizer, shape, public, self.width, self.learning_rate, rng.child("decoder"))
        cost = recognition_loss(recognizer)

        def loss(images: Tensor, step: int) -> Tensor:
            with torch.no_grad():
                clean = recognizer.extract(images)
            scores = scorer(clean.mean((2, 3)) / unit)
            bar = scores.detach().quantile(self.ratio, 1, keepdim=True)
            left = clean * ((scores - bar) / _TEMPERATURE).sigmoid()[:, :, None, None]
            inner.learn(left, images)
            return (1 - self.weight) * cost(left, clean) + self.weight * inner.success(left, images)

        account = learn_client(
            list(scorer.parameters()), loss, public, self.fit_steps, self.batch, self.learning_rate,
            rng.child("order"), "learning which channels to prune",
        )  # fmt: skip
        tensors = {name: value.detach().cpu() for name, value in scorer.state_dict().items()}
        return State({**tensors, "unit": torch.tensor(unit)}, account)

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> tuple[nn.Module, float]:
        """The network of scores, and the unit of its input."""
        if state is None:
            raise ValueError("pruning has no scores")
        tensors = dict(state.tensors)
        unit = float(tensors.pop("unit"))
        scorer = self._scorer(len(tensors["0.bias"]))
        scorer.load_state_dict(tensors)
        return scorer.to(next(recognizer.parameters()).device).eval().requires_grad_(False), unit

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """The features with the other channels set to zero."""
        scorer, unit = system.state
        scores = scorer(features.mean((2, 3)) / unit)
        kept = features.shape[1] - round(self.ratio * features.shape[1])
        mask = torch.zeros_like(scores).scatter(1, scores.topk(max(1, kept), 1).indices, 1.0)
        return features * mask[:, :, None, None]

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State:
        """Distils the server's part on pruned features."""
        faces, identities = teaching_faces(public, self.mode, None, rng.child("faces"))

        def sent(images: Tensor) -> Tensor:
            return system.send(images, rng.images([*map(str, range(len(images)))]))

        server = copy.deepcopy(system.recognizer.server)
        what = "retraining the server on pruned features"
        return train_server(server, sent, system.recognizer, faces, identities, self.recipe, rng.child("train"), what)

    def prepare_server(self, recognizer: SplitNetwork, state: State | None) -> nn.Module:
        """The retrained Psi."""
        if state is None:
            raise ValueError("pruning has no trained server")
        return restore_server(copy.deepcopy(recognizer.server), state, next(recognizer.parameters()).device)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """The retrained Psi."""
        return normalize(system.server(templates))
