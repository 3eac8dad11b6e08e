"""Trains a decoder with the L1 loss between image and reconstruction (AdvFace paper, Eq. 1 and 3), with Adam."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.contracts import FaceSet, Rng, State
from bench.toolkit.decoders.feature_cache import FeatureCache
from bench.toolkit.decoders.training_step import TrainingStep
from bench.toolkit.precision import as_decoder_input, autocast, precision_name
from bench.toolkit.progress import track

_HELD_OUT = 64  #: maximum number of held-out images, on which the curve is measured
#: converged: the held-out loss improved by less than this fraction, over the last fifth of the epochs; with schedule =
#: "settle", over `_PATIENCE` epochs of a constant rate
_SETTLED = 0.02
_PATIENCE = 2  #: epochs in which a loss that improves by less than `_SETTLED` has settled (schedule = "settle")
_FALL = 4  #: the rate falls to zero over one in so many epochs (schedule = "settle")


@dataclass(frozen=True)
class Training:
    """Settings of a decoder's training. The paper uses Adam at a constant 1e-4."""

    epochs: int = 10  #: passes over the faces; with schedule = "settle" the most
    batch: int = 16  #: images per step
    learning_rate: float = 2e-3  #: Adam's peak learning rate
    #: cosine: falls to zero at the end; settle: constant until the held-out loss has settled, then falls to zero
    schedule: Literal["cosine", "constant", "settle"] = "cosine"
    flip: bool = True  #: mirror half of the images, as augmentation
    images: int | None = None  #: train on the first so many images; None: all

    def __post_init__(self) -> None:
        if self.epochs < 1 or self.batch < 1 or self.learning_rate <= 0 or (self.images or 1) < 1:
            raise ValueError("epochs, batch and images must be at least 1, and learning_rate above 0")


class _Rate:
    """The learning rate of each step, and when the training ends.

    Under a cosine, the held-out loss improves until the end and never settles. With `settle` the rate is constant until
    it has, or for three quarters of the epochs, and then falls linearly to zero within a quarter of them (Hu et al.
    2024, MiniCPM, section 4).
    """

    def __init__(self, settings: Training, batches: int) -> None:
        self._settings, self._batches = settings, batches
        self._steps = settings.epochs * batches
        self._fall = max(1, settings.epochs // _FALL) * batches
        self.settles, self.settled = settings.schedule == "settle", False
        self.end = self._steps  #: number of steps
        self._from = self._steps - self._fall  #: the step at which the rate starts to fall (schedule = "settle")

    def at(self, step: int) -> float:
        """The rate of a step."""
        peak = self._settings.learning_rate
        if self._settings.schedule == "constant":
            return peak
        warm = min(1.0, (step + 1) / max(1, self._steps // 20))
        if self.settles:
            return peak * warm * min(1.0, (self.end - step) / self._fall)
        return peak * warm * 0.5 * (1 + math.cos(math.pi * step / self._steps))

    def look(self, step: int, curve: Sequence[float]) -> None:
        """After an epoch: lets the rate fall from now on if the held-out loss has settled."""
        if not self.settles or step + 1 >= self._from or len(curve) <= _PATIENCE:
            return
        if min(curve[-_PATIENCE:]) > (1 - _SETTLED) * min(curve[:-_PATIENCE]):
            self.settled, self._from, self.end = True, step + 1, step + 1 + self._fall


def _anew(encode: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Sequence[int]], Tensor]:
    # `encode` runs in full precision: it may be a defence's whole protection.
    return lambda images, _: as_decoder_input(encode(images))


def _held_out_loss(
    decoder: nn.Module,
    faces: FaceSet,
    held: NDArray[np.int64],
    see: Callable[[Tensor, Sequence[int]], Tensor],
    device: torch.device,
) -> float:
    decoder.eval()
    total = torch.zeros((), dtype=torch.float64, device=device)
    with torch.no_grad():
        for start in range(0, len(held), 16):
            some = held[start : start + 16]
            images = faces.batch(some, device)
            features = see(images, (2 * some).tolist())
            with autocast(device):
                output = decoder(features)
            total += (output - images).abs().sum()
    decoder.train()
    return float(total) / (len(held) * 3 * faces.image_size[0] * faces.image_size[1])


def train_decoder(
    make: Callable[[], nn.Module],
    encode: Callable[[Tensor], Tensor],
    public: FaceSet,
    settings: Training,
    rng: Rng,
    device: torch.device,
    label: str,
    fixed: bool = False,
    disturb: Callable[[Tensor], Tensor] | None = None,
) -> State:
    """Trains the decoder that `make` builds to undo `encode` on public faces.

    Args:
        make: builds the decoder, drawing its weights from torch's global generator (seeded here).
        encode: maps images (B, 3, H, W) to the decoder's input features; called without gradients.
        public: at least two faces.
        fixed: `encode` is deterministic for each image, so its features are cached.
        disturb: perturbs the features anew at every step.

    Returns:
        Its state dict, and a log of the training: `curve` (held-out L1 per epoch), `converged`, `images`, ...
    """
    faces = public.subset(range(min(len(public), settings.images or len(public))))
    if len(faces) < 2:
        raise ValueError(f"{label}: training needs at least two public faces, got {len(faces)}")
    order = rng.child("split").numpy().permutation(len(faces))
    count = min(_HELD_OUT, max(1, len(faces) // 10))
    held, seen = np.sort(order[:count]), np.sort(order[count:])
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(rng.child("weights").seed)
        decoder = make()
    decoder = decoder.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    learn = TrainingStep(decoder, min(settings.batch, len(seen)), device)
    shuffle = rng.child("order").numpy()
    batches = math.ceil(len(seen) / settings.batch)
    steps = settings.epochs * batches
    rate = _Rate(settings, batches)
    made = FeatureCache(encode) if fixed and device.type == "cpu" else _anew(encode)
    look_at = faces.loader(device)
    see = made if disturb is None else lambda images, names: disturb(made(images, names))
    curve: list[float] = []
    started = time.perf_counter()
    for step in track(range(steps), label, steps):
        if step % batches == 0:
            epoch = shuffle.permutation(len(seen))
        chosen = seen[epoch[(step % batches) * settings.batch :][: settings.batch]]
        images = look_at(chosen)
        mirrored = np.zeros(len(chosen), dtype=np.bool_)
        if settings.flip:
            mirrored = shuffle.random(len(chosen)) < 0.5
            images = torch.where(torch.from_numpy(mirrored).to(device)[:, None, None, None], images.flip(-1), images)
        with torch.no_grad():
            features = see(images, (2 * chosen + mirrored).tolist())
        learn(features, images, rate.at(step))
        if (step + 1) % batches == 0:
            curve.append(_held_out_loss(decoder, faces, held, see, device))
            rate.look(step, curve)
        if step + 1 == rate.end:
            break
    learn.free()
    return State(
        {name: value.detach().cpu().contiguous() for name, value in decoder.state_dict().items()},
        _account(curve, rate, len(seen), time.perf_counter() - started, device),
    )


def _account(curve: list[float], rate: _Rate, images: int, seconds: float, device: torch.device) -> dict[str, Any]:
    before = curve[max(0, len(curve) - 1 - max(1, len(curve) // 5))]
    calm = len(curve) > 1 and (before - curve[-1]) < _SETTLED * before
    return {
        "curve_held_out_l1": [round(loss, 6) for loss in curve],
        # A falling rate always lowers the loss: what counts is whether it had settled before.
        "converged": rate.settled if rate.settles else calm,
        "images": images,
        "epochs": len(curve),
        "stopped": "the held-out loss had settled" if rate.settled else "after all epochs",
        "steps": rate.end,
        "precision": precision_name(device),
        "train_s": round(seconds, 2),
    }
