"""A shadow client: a network from images to feature maps in which a server, known by itself, recognises people."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, Oracle, Rng
from bench.errors import NotApplicable
from bench.toolkit.progress import track

_SCALE = 24.0  #: of the cosines before the cross-entropy
_BATCH = 50
_RIDGE = 0.01  #: penalty of the shadow client's linear start, relative to a pixel's variance over places
_BYTES = 2**29  #: of stolen templates to read; fewer of large ones
_PLACES = 16  #: a template with fewer places is no feature map


@dataclass(frozen=True)
class ShadowTraining:
    """How the shadow client is trained: with Adam, whose learning rate falls to zero."""

    steps: int = 600  #: of training the client
    batch: int = 32  #: images per step
    learning_rate: float = 2e-3  #: the peak
    match: float = 1.0  #: weight of the stolen templates' moments beside the classification; 0: not used

    def __post_init__(self) -> None:
        if self.steps < 1 or self.batch < 2 or self.learning_rate <= 0 or self.match < 0:
            raise ValueError("steps must be at least 1, batch at least 2, learning_rate above 0, match at least 0")


def taken_templates(oracle: Oracle, count: int) -> Tensor:
    """At most `count` stolen templates (N, C, h, w).

    Raises:
        NotApplicable: they are no feature maps.
    """
    one = oracle.stolen(1)
    shape = tuple(one.shape[1:])
    if len(shape) != 3 or shape[1] * shape[2] < _PLACES:
        raise NotApplicable(f"templates of shape {shape} are no feature maps that a client of convolutions makes")
    return oracle.stolen(min(count, max(4, _BYTES // (4 * one.numel()))))


def train_shadow(
    oracle: Oracle, public: FaceSet, taken: Tensor, width: int, settings: ShadowTraining, shuffled: bool, rng: Rng
) -> tuple[OwnClient, dict[str, Any]]:
    """The shadow client, frozen, and its loss and accuracy on the last steps.

    Args:
        oracle: at level `server` or above.
        taken: stolen templates (N, C, h, w), from `taken_templates`.
        width: channels of the client's hidden layers.
        shuffled: the control: the server's network gets its input channels in a random order.
    """
    began, device, shape = time.perf_counter(), oracle.device, tuple(taken.shape[1:])
    mean, spread = taken.mean(0), taken.std(0)
    unit = taken.std().clamp_min(1e-6)
    order = torch.arange(shape[0], device=device)
    if shuffled:
        order = torch.from_numpy(rng.child("control").numpy().permutation(shape[0])).to(device)
    people, labels = np.unique(np.array(public.subjects or public.names, dtype=object), return_inverse=True)
    size = oracle.recognise(taken[:1]).shape[1]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.child("weights").seed)
        client = OwnClient(shape, oracle.image_size, width).to(device)
        centres = nn.Parameter((torch.randn(len(people), size) / size**0.5).to(device))
    with torch.no_grad():
        client.scale.copy_(taken.std((0, 2, 3)).reshape(-1, 1, 1).clamp_min(1e-6))
        parts = [public.batch(slice(i, i + _BATCH), device).sum(0) for i in range(0, len(public), _BATCH)]
        if settings.match:
            client.start(torch.stack(parts).sum(0) / len(public), mean)
    optimiser = torch.optim.Adam([*client.parameters(), centres], lr=settings.learning_rate)
    turns, losses, right = rng.child("order").numpy(), [], []
    for step in track(range(settings.steps), "training a shadow client", settings.steps):
        chosen = turns.choice(len(public), min(settings.batch, len(public)), replace=False)
        images = public.batch(chosen, device)
        mirrored = torch.from_numpy(turns.random(len(chosen)) < 0.5).to(device)
        images = torch.where(mirrored[:, None, None, None], images.flip(-1), images)
        sent = client(images)
        cosines = oracle.recognise(sent[:, order]).float() @ functional.normalize(centres).T
        truth = torch.from_numpy(labels[chosen]).to(device)
        loss = functional.cross_entropy(_SCALE * cosines, truth)
        if settings.match:
            apart = (sent.mean(0) - mean).square().mean() + (sent.std(0) - spread).square().mean()
            loss = loss + settings.match * 10 * apart / unit.square()
        optimiser.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        for group in optimiser.param_groups:
            group["lr"] = settings.learning_rate * 0.5 * (1 + np.cos(np.pi * step / settings.steps))
        optimiser.step()
        losses.append(float(loss.detach()))
        right.append(float((cosines.argmax(1) == truth).float().mean()))
    last = max(1, settings.steps // 10)
    account = {
        "people": len(people),
        "stolen": len(taken),
        "loss": round(float(np.mean(losses[-last:])), 4),
        "accuracy": round(float(np.mean(right[-last:])), 4),
        "train_s": round(time.perf_counter() - began, 2),
    }
    return client.eval().requires_grad_(False), account


class OwnClient(nn.Module):
    """Images (B, 3, H, W) to maps (B, C, h, w): a linear convolution, plus a network that starts at 0."""

    scale: Tensor

    def __init__(self, shape: tuple[int, ...], image_size: tuple[int, int], width: int) -> None:
        super().__init__()
        self.finer = max(1, round(image_size[0] / shape[1]))
        self.places = (self.finer * shape[1], self.finer * shape[2])
        inputs = 3 * self.finer**2
        self.linear = nn.Conv2d(inputs, shape[0], 3, 1, 1)
        last = nn.Conv2d(width, shape[0], 3, 1, 1)
        nn.init.zeros_(last.weight)
        self.rest = nn.Sequential(
            nn.Conv2d(inputs, width, 3, 1, 1), nn.ReLU(), nn.Conv2d(width, width, 3, 1, 1), nn.ReLU(), last
        )
        self.register_buffer("scale", torch.ones(shape[0], 1, 1))

    def start(self, face: Tensor, template: Tensor) -> None:
        """Solves for the linear convolution that turns the mean face (3, H, W) into the mean template (C, h, w)."""
        rows = functional.unfold(self.pixels(face[None]), 3, padding=1)[0].T.double()
        wanted = template.flatten(1).T.double()
        centre, level = rows.mean(0), wanted.mean(0)
        rows, scale = rows - centre, rows.std(0).clamp_min(1e-6)
        rows = rows / scale
        gram = rows.T @ rows
        gram += _RIDGE * len(rows) * torch.eye(len(gram), dtype=gram.dtype, device=gram.device)
        weights = torch.linalg.solve(gram, rows.T @ (wanted - level)) / scale[:, None]
        with torch.no_grad():
            self.linear.weight.copy_(weights.T.reshape(self.linear.weight.shape).float())
            self.linear.bias.copy_((level - centre @ weights).float())  # type: ignore[union-attr]

    def pixels(self, images: Tensor) -> Tensor:
        resized = functional.interpolate(images, self.places, mode="bilinear", antialias=True, align_corners=False)
        return functional.pixel_unshuffle(resized, self.finer)

    def forward(self, images: Tensor) -> Tensor:
        seen = self.pixels(images)
        made: Tensor = self.linear(seen) + self.rest(seen - 0.5) * self.scale
        return made
