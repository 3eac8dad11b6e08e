"""MinusFace (Mi et al., CVPR 2024): subtracts the part of a face that a generator can draw, and shuffles the rest.

x are the image's frequencies, g(x) a reconstruction that looks like the original, and r = x - g(x) the residue. Each
query shuffles the 192 channels of r again and sends the picture that the inverse transform makes of them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import FaceSet, ImageRng, Rng, SplitNetwork, State, System
from bench.toolkit.block_dct import CHANNELS, block_dct, read_block_dct
from bench.toolkit.frequency_defense import FrequencyDefense, FrequencyNetwork, learn_client

_DEPTH = 4  #: levels of the generator's U-Net
_FACES, _CHUNK = 100, 10  #: public faces used to standardise its inputs


class _Generator(nn.Module):
    """Maps 192 channels to 192: a U-Net without normalisation, on standardised channels; starts at their mean."""

    def __init__(self, width: int) -> None:
        super().__init__()
        wide = [width << level for level in range(_DEPTH + 1)]
        self.down = nn.ModuleList(_pair(i, o) for i, o in zip([CHANNELS, *wide], wide, strict=False))
        self.up = nn.ModuleList(_pair(wide[i] + wide[i + 1], wide[i]) for i in reversed(range(_DEPTH)))
        self.head = nn.Conv2d(width, CHANNELS, 1)
        self.register_buffer("mean", torch.zeros(CHANNELS, 1, 1))
        self.register_buffer("scale", torch.ones(CHANNELS, 1, 1))
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, x: Tensor) -> Tensor:
        found = (x - self.mean) / self.scale
        kept: list[Tensor] = []
        for level, block in enumerate(self.down):
            found = block(F.max_pool2d(found, 2, ceil_mode=True) if level else found)
            kept.append(found)
        kept.pop()
        for block in self.up:
            beside = kept.pop()
            found = block(torch.cat([beside, F.interpolate(found, size=beside.shape[-2:])], 1))
        out: Tensor = self.mean + self.scale * self.head(found)
        return out


def _pair(inputs: int, outputs: int) -> nn.Module:
    first, second = nn.Conv2d(inputs, outputs, 3, padding=1), nn.Conv2d(outputs, outputs, 3, padding=1)
    return nn.Sequential(first, nn.ReLU(), second, nn.ReLU())


@dataclass(frozen=True, kw_only=True)
class MinusFace(FrequencyDefense):
    """Stores a picture (3, H, W) made of the shuffled residue, clamped to [0, 1] as in the paper.

    The paper trains g with 5 * L1 of pictures in [-1, 1] and an ArcFace recogniser of the residue that is discarded
    afterwards. Here the recogniser is the client's part behind a new first layer, trained to reproduce the client's own
    features from the residue: a copy of the client has neither identities nor the server's weights. The released code
    trains everything at a tenth of its configured learning rate because of a misspelt name; this implementation does
    not.
    """

    randomized: ClassVar[bool] = True
    solved: ClassVar[bool] = False
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"clamp", "mode", "weights", "recipe"}),
        "protect": frozenset({"mode", "weights", "recipe"}),
    }

    width: int = 16  #: channels of the generator's first level; the paper uses 64
    fit_steps: int = 300  #: training steps of the generator
    batch: int = 8  #: batch size of the generator's training
    learning_rate: float = 2e-3  #: learning rate of the generator
    picture: float = 5.0  #: weight of the picture's L1 relative to recognition
    clamp: bool = True  #: scale of the picture in [0, 1]; values outside are clipped

    def __post_init__(self) -> None:
        if min(self.width, self.fit_steps, self.batch) < 1 or self.learning_rate <= 0 or self.picture < 0:
            raise ValueError("width, fit_steps and batch must be at least 1, learning_rate above 0, picture at least 0")

    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """The recogniser's own layers, because templates are as large as images."""
        return FrequencyNetwork(recognizer, 3)

    def fit(self, recognizer: SplitNetwork, public: FaceSet, rng: Rng) -> State:
        """Trains the generator together with a student that recognises the residue."""
        device = next(recognizer.parameters()).device
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(rng.child("weights").seed)
            generator = _Generator(self.width).to(device)
        few = range(0, min(len(public), _FACES), _CHUNK)
        seen = [block_dct(public.batch(slice(first, first + _CHUNK), device)) for first in few]
        moments = torch.stack([torch.stack([s.mean((0, 2, 3)), s.square().mean((0, 2, 3))]) for s in seen]).mean(0)
        generator.mean.copy_(moments[0][:, None, None])
        generator.scale.copy_((moments[1] - moments[0].square()).clamp_min(1e-6).sqrt()[:, None, None])
        student = FrequencyNetwork(recognizer, CHANNELS, whole=False).to(device)
        student.start(recognizer, block_dct, public.subset(range(min(len(public), _FACES))))
        student.eval().requires_grad_(True)

        def loss(images: Tensor, step: int) -> Tensor:
            x = block_dct(images)
            drawn = generator(x)
            picture = 2 * (read_block_dct(drawn, images.shape[-2:]).clamp(0, 1) - images).abs().mean()  # type: ignore[arg-type]
            found, wanted = student(x - drawn).flatten(1), recognizer.extract(images).flatten(1)
            return self.picture * picture + 1 - torch.cosine_similarity(found, wanted).mean()

        trained = [*generator.parameters(), *student.parameters()]
        what = "training the generator of MinusFace"
        account = learn_client(
            trained, loss, public, self.fit_steps, self.batch, self.learning_rate, rng.child("order"), what
        )
        return State({name: value.detach().cpu().clone() for name, value in generator.state_dict().items()}, account)

    def prepare(self, recognizer: SplitNetwork, state: State | None) -> nn.Module:
        """The generator."""
        if state is None:
            raise ValueError("minusface has no generator")
        with torch.random.fork_rng(devices=[]):
            generator = _Generator(self.width)
        generator.load_state_dict(dict(state.tensors))
        return generator.to(next(recognizer.parameters()).device).eval().requires_grad_(False)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The residue, (B, 192, H, W)."""
        x = block_dct(images)
        residue: Tensor = x - system.state(x)
        return residue

    def protect(self, system: System, features: Tensor, rng: ImageRng) -> Tensor:
        """The picture of the shuffled residue, (B, 3, H, W)."""
        order = rng.uniform(features.new_empty(len(features), CHANNELS)).argsort(1)
        shuffled = features.gather(1, order[:, :, None, None].expand_as(features))
        picture = read_block_dct(shuffled, system.recognizer.image_size)
        return picture.clamp(0, 1) if self.clamp else picture
