"""From a stolen embedding to a face: a decoder trained on the attacker's own faces (as NbNet, Mai et al.)."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, ReconstructionAttack, Rng, State
from bench.toolkit.progress import track

_BATCH = 50
_WINDOW = 7  #: of SSIM, as it is judged
_HELD_OUT = 64  #: images kept from training, at most
_SETTLED = 0.02  #: converged: the last fifth of the epochs improved the held-out L1 by less than this share


@dataclass(frozen=True)
class EmbeddingTraining:
    """How the decoder is trained: Adam, its rate falling to zero."""

    epochs: int = 40  #: passes over the faces
    batch: int = 32  #: images a step
    learning_rate: float = 2e-3  #: the highest

    def __post_init__(self) -> None:
        if min(self.epochs, self.batch) < 1 or self.learning_rate <= 0:
            raise ValueError("epochs and batch must be at least 1, and learning_rate above 0")


@dataclass(frozen=True, kw_only=True)
class EmbeddingDecoder(ReconstructionAttack):
    """A generator that is asked for each stolen embedding once; the system is asked while it learns, and never after.

    It learns from own public faces and their embeddings, which the system gives whoever may log in. Loss: L1 +
    `structure` (1 - SSIM) + `identity` (1 - cosine) between what an own small network sees in the made and in the real
    face; that network was first taught to give the system's embeddings, so that gradients need nobody else's weights.

    Sources: NbNet (Mai et al. 2018); the losses of Otroshi Shahreza and Marcel (2024), without the perceptual one.
    """

    leaks: ClassVar[Literal["template", "embedding"]] = "embedding"

    width: int = 256  #: channels at the smallest size; halved at every doubling
    structure: float = 0.75  #: weight of 1 - SSIM
    identity: float = 0.1  #: weight of 1 - cosine by the own network; 0: none is trained
    recipe: EmbeddingTraining = field(default=EmbeddingTraining())

    def __post_init__(self) -> None:
        if self.width < 32 or self.structure < 0 or self.identity < 0:
            raise ValueError("width must be at least 32, structure and identity at least 0")

    @property
    def level(self) -> Knowledge:
        """A login tells embeddings of own faces; nobody below may ask."""
        return Knowledge.ENROLMENT

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        """Embeddings of own faces, asked for once each; then the own network, then the decoder."""
        began = time.perf_counter()
        images = [public.batch(slice(i, i + _BATCH), oracle.device) for i in range(0, len(public), _BATCH)]
        known = torch.cat([oracle.embed(batch) for batch in images]).float()
        order = torch.from_numpy(rng.child("split").numpy().permutation(len(public)))
        count = min(_HELD_OUT, max(1, len(public) // 10))
        held, seen = order[:count].sort().values, order[count:].sort().values
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.child("weights").seed)
            decoder = _decoder(known.shape[1], self.width, oracle.image_size).to(oracle.device)
            eye = _eye(known.shape[1]).to(oracle.device)
        turns = rng.child("order").numpy()

        def batches(epoch: int) -> list[Tensor]:
            shuffled = seen[torch.from_numpy(turns.permutation(len(seen)))]
            return list(torch.split(shuffled, self.recipe.batch)) if len(shuffled) > 1 else [shuffled]

        if self.identity:
            self._run(eye, batches, "embedding decoder: an own eye", lambda some: _apart(
                eye(public.batch(some.numpy(), oracle.device)), known[some]))  # fmt: skip
        eye.eval().requires_grad_(False)

        def loss(some: Tensor) -> Tensor:
            real = public.batch(some.numpy(), oracle.device)
            made = decoder(known[some])
            total = (made - real).abs().mean() + self.structure * (1 - _ssim(made, real))
            if self.identity:
                total = total + self.identity * _apart(eye(made), eye(real))
            return cast(Tensor, total)

        def off() -> float:
            with torch.no_grad():
                return float((decoder(known[held]) - public.batch(held.numpy(), oracle.device)).abs().mean())

        curve = self._run(decoder, batches, "embedding decoder", loss, off)
        before = curve[max(0, len(curve) - 1 - max(1, len(curve) // 5))]
        info = {
            "curve_held_out_l1": [round(value, 5) for value in curve],
            "converged": len(curve) > 1 and before - curve[-1] < _SETTLED * before,
            "parameters": sum(p.numel() for p in decoder.parameters()),
            "images": len(seen),
            "train_s": round(time.perf_counter() - began, 2),
        }
        return State({n: v.detach().cpu().contiguous() for n, v in decoder.state_dict().items()}, info)

    def _run(self, module: nn.Module, batches: Any, label: str, loss: Any, judge: Any = None) -> list[float]:
        """Trains a module in place; what `judge` says of it after each epoch."""
        optimiser = torch.optim.Adam(module.parameters(), lr=self.recipe.learning_rate)
        curve = []
        for epoch in track(range(self.recipe.epochs), label, self.recipe.epochs):
            module.train()
            rate = self.recipe.learning_rate * 0.5 * (1 + math.cos(math.pi * epoch / self.recipe.epochs))
            for group in optimiser.param_groups:
                group["lr"] = rate
            for some in batches(epoch):
                optimiser.zero_grad(set_to_none=True)
                loss(some).backward()
                optimiser.step()
            module.eval()
            if judge is not None:
                curve.append(judge())
        return curve

    def prepare(self, oracle: Oracle, state: State | None) -> nn.Module:
        """The trained decoder."""
        if state is None:
            raise ValueError("EmbeddingDecoder has no trained state")
        size = state.tensors["0.weight"].shape[1]
        with torch.random.fork_rng(devices=[]):
            decoder = _decoder(size, self.width, oracle.image_size)
        decoder.load_state_dict(dict(state.tensors))
        return decoder.to(oracle.device).eval().requires_grad_(False)

    def reconstruct(self, oracle: Oracle, state: Any, leak: Leak, rng: ImageRng) -> Tensor:
        """One forward pass; no query."""
        with torch.no_grad():
            images: Tensor = state(leak.values)
        oracle.report(queries_per_target=torch.zeros(len(images)))
        return images


class _Cropped(nn.Module):
    """The middle of the made image, in [0, 1]."""

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, logits: Tensor) -> Tensor:
        (height, width), (tall, wide) = self.size, logits.shape[-2:]
        top, left = (tall - height) // 2, (wide - width) // 2
        return torch.sigmoid(logits[..., top : top + height, left : left + width])


def _decoder(inputs: int, width: int, size: tuple[int, int]) -> nn.Sequential:
    """Embeddings (B, D) to images: a sixteenth of the size first, doubled four times, the last by a pixel shuffle."""
    rows, columns = (math.ceil(side / 16) for side in size)
    layers: list[nn.Module] = [nn.Linear(inputs, width * rows * columns), nn.Unflatten(1, (width, rows, columns))]
    layers += [nn.BatchNorm2d(width), nn.ReLU()]
    for _ in range(3):
        narrow = max(16, width // 2)
        layers += [
            nn.Upsample(scale_factor=2.0), nn.Conv2d(width, narrow, 3, padding=1, bias=False),
            nn.BatchNorm2d(narrow), nn.ReLU(),
        ]  # fmt: skip
        width = narrow
    return nn.Sequential(*layers, nn.Conv2d(width, 12, 3, padding=1), nn.PixelShuffle(2), _Cropped(size))


def _eye(outputs: int) -> nn.Sequential:
    """Images to embeddings: the attacker's own recogniser."""
    layers: list[nn.Module] = []
    for inputs, width in ((3, 24), (24, 48), (48, 96), (96, 128)):
        layers += [nn.Conv2d(inputs, width, 3, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(2048, outputs))


def _apart(one: Tensor, other: Tensor) -> Tensor:
    """Mean of 1 - cosine."""
    return 1 - functional.cosine_similarity(one, other).mean()


def _ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean SSIM of batches in [0, 1], with a uniform window."""
    means = [functional.avg_pool2d(x, _WINDOW, 1) for x in (one, other, one * one, other * other, one * other)]
    x, y, xx, yy, xy = means
    c1, c2 = 0.01**2, 0.03**2
    above = (2 * x * y + c1) * (2 * (xy - x * y) + c2)
    return (above / ((x * x + y * y + c1) * (xx - x * x + yy - y * y + c2))).mean()
