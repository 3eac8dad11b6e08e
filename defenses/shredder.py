"""Shredder (Mireshghallah et al., ASPLOS 2020): noise tensors that were trained to hurt recognition little."""

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from bench.contracts import Defense, FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.feature_scale import feature_batches
from bench.toolkit.progress import track
from bench.toolkit.recognition_loss import recognition_loss


@dataclass(frozen=True, kw_only=True)
class Shredder(Defense):
    """Stores features + noise that is drawn anew for each template from a fitted distribution.

    A collection of tensors as large as the features is trained, each from its own Laplace start, with the recogniser
    frozen. Of each, the location and scale of a Laplace distribution and the order of the entries are kept. A
    template's noise draws one member, then as many values as there are entries, and puts them into that member's order.

    The paper raises the noise with a weighted term and lowers the weight once the wanted ratio of noise to signal
    ("in vivo privacy", 1 / SNR) is reached. Here each tensor is scaled to that ratio after every step, so the ratio is
    exact and there is no weight to choose.

    The order of many values almost determines them: what is drawn anew is little, and the noise is close to one of
    `collection` fixed tensors. `fresh_share` in the record is the share of the noise's variance that is drawn anew.
    """

    randomized: ClassVar[bool] = True

    noise_to_signal: float = 1.0  #: mean square of the noise over mean square of the public features (1 / SNR)
    collection: int = 4  #: number of trained tensors
    fit_steps: int = 100  #: training steps for each
    batch: int = 8  #: images per step
    learning_rate: float = 0.05  #: of Adam, relative to the rms of the noise

    def __post_init__(self) -> None:
        if self.noise_to_signal <= 0 or self.learning_rate <= 0:
            raise ValueError("noise_to_signal and learning_rate must be above 0")
        if min(self.collection, self.fit_steps, self.batch) < 1:
            raise ValueError("collection, fit_steps and batch must be at least 1")

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Trains the collection and fits a distribution to each member."""
        signal = torch.stack([batch.square().mean() for batch in feature_batches(recognizer, public, 500)]).mean()
        rms = float((self.noise_to_signal * signal).sqrt())
        trained, curves = [], []
        for member in range(self.collection):
            noise, curve = self._trained(recognizer, public, rms, rng.child("member", member))
            trained.append(noise.flatten().cpu())
            curves.append(curve)
        noises = torch.stack(trained)
        loc = noises.median(1).values
        scale = (noises - loc[:, None]).abs().mean(1)
        fifth = max(1, self.fit_steps // 5)
        info = {
            "steps": self.fit_steps * self.collection,
            "loss": {"first": mean(c[0] for c in curves), "last": mean(mean(c[-fifth:]) for c in curves)},
            "fresh_share": round(_fresh_share(noises.shape[1], rng.child("share")), 6),
        }
        return State({"loc": loc, "scale": scale, "order": noises.argsort(1).int()}, info)

    def _trained(self, recognizer: SplitNetwork, public: FaceSet, rms: float, rng: Rng) -> tuple[Tensor, list[float]]:
        device, source, cost = (
            next(recognizer.parameters()).device,
            rng.child("faces").numpy(),
            recognition_loss(recognizer),
        )
        with torch.no_grad():
            shape = recognizer.extract(public.batch(slice(0, 1), device)).shape[1:]
        start = torch.from_numpy(rng.child("start").numpy().laplace(size=tuple(shape)).astype(np.float32)).to(device)
        noise = (start * (rms / start.square().mean().sqrt())).requires_grad_()
        optimiser = torch.optim.Adam([noise], lr=self.learning_rate * rms)
        curve = []
        for _ in track(range(self.fit_steps), "training Shredder's noise", self.fit_steps):
            chosen = source.choice(len(public), min(self.batch, len(public)), replace=False)
            with torch.no_grad():
                clean = recognizer.extract(public.batch(chosen, device))
            with torch.enable_grad():
                loss = cost(clean + noise, clean)
                (noise.grad,) = torch.autograd.grad(loss, noise)
            optimiser.step()
            with torch.no_grad():
                noise *= rms / noise.square().mean().sqrt()
            curve.append(float(loss.detach()))
        return noise.detach(), curve

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> Mapping[str, NDArray[np.float32]]:
        """`loc` and `scale` (K,), and `order` (K, C h w): places in ascending order of the trained noise."""
        if state is None:
            raise ValueError("shredder has no trained noise")
        return {name: value.numpy() for name, value in state.tensors.items()}

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """features + noise of one member of the collection."""
        loc, scale, order = (system.state[name] for name in ("loc", "scale", "order"))

        def fill(source: np.random.Generator, row: NDArray[np.float32]) -> None:
            member = source.integers(len(loc))
            drawn = np.sort(source.laplace(loc[member], scale[member], row.size))
            row.reshape(-1)[order[member]] = drawn

        return features + rng.draw(features, fill)


def _fresh_share(count: int, rng: Rng) -> float:
    """The share of the variance of sorted Laplace values that differs from draw to draw."""
    source = rng.numpy()
    drawn = np.sort(source.laplace(size=(8, count)), axis=1)
    return float(drawn.var(0, ddof=1).mean() / drawn.var())
