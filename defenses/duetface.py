"""DuetFace-style channel splitting (Mi et al., ACM MM 2022, section 3): what matters little to the eye is stored.

Their interactive attention and region of interest are left out: the client's crucial channels guide the server there.
That can only lower the accuracy here; the templates are the same.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Conv, Defense, FaceSet, Rng, SplitNetwork, State, System
from bench.storage.weights import find_weights
from bench.toolkit.block_dct import BLOCK, CHANNELS, block_dct, inverse_block_dct
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.server_training import Labels, restore_server, teaching_faces, train_server, trained_server

_CRUCIAL = (0, 1, 2, 3, 4, 5, 8, 9, 16, 24)  #: of each plane's 64 channels, those that show the face; the client's
_STORED = [c for c in range(CHANNELS) if c % BLOCK**2 not in _CRUCIAL]
_FACES, _PLACES, _BATCH = 300, 64, 10  #: public faces, places in each, that the new first layer is solved on
_RIDGE = 1e-2  #: of the mean square of an input


def _first_convolution(client: nn.Module) -> tuple[str, nn.Conv2d]:
    """The client's first convolution and its name in there ("" where it is the client itself)."""
    for name, module in client.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and isinstance(module.padding, tuple):
            return name, module
    raise ValueError("duetface needs a recogniser whose client begins with a convolution of the three colours")


class _Recognizer(nn.Module):
    """The recogniser under test behind a new first convolution, which takes standardised stored channels.

    Plain blocks (`upsample` 1) are an eighth of the image's size, so they are laid out as pixels first: the inverse
    transform without the crucial channels.
    """

    def __init__(self, recognizer: SplitNetwork, upsample: int) -> None:
        super().__init__()
        self.image_size, self.upsample = recognizer.image_size, upsample
        client = copy.deepcopy(recognizer.client)
        name, old = _first_convolution(client)
        inputs = len(_STORED) if upsample > 1 else 3
        with torch.random.fork_rng(devices=[]):
            self.first = nn.Conv2d(inputs, old.out_channels, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
        if name:
            client.set_submodule(name, nn.Identity())
        self.body = nn.Sequential(client if name else nn.Identity(), copy.deepcopy(recognizer.server))
        self.register_buffer("mean", torch.zeros(inputs, 1, 1))
        self.register_buffer("scale", torch.ones(inputs, 1, 1))
        self.mean: Tensor
        self.scale: Tensor

    def pixels(self, templates: Tensor) -> Tensor:
        """What the first convolution slides over, before it is standardised."""
        if self.upsample > 1:
            return templates
        whole = templates.new_zeros(len(templates), CHANNELS, *templates.shape[-2:])
        whole[:, _STORED] = templates
        return inverse_block_dct(whole, self.image_size, self.upsample)

    def forward(self, templates: Tensor) -> Tensor:
        """Templates to embeddings (B, D), not normalised."""
        x = (self.pixels(templates) - self.mean) / self.scale
        embeddings: Tensor = self.body(self.first(x.contiguous(memory_format=torch.channels_last)))
        return embeddings

    @torch.no_grad()
    def solve_first(self, recognizer: SplitNetwork, encode: Callable[[Tensor], Tensor], faces: FaceSet) -> None:
        """Standardises, and starts the new convolution where it best gives what the old one gave (least squares).

        Both are linear in the pixels, so this is most of what a first layer can learn, in seconds.
        """
        old, device = _first_convolution(recognizer.client)[1], self.mean.device
        patches, wanted = [], []
        for start in range(0, min(len(faces), _FACES), _BATCH):
            images = faces.batch(slice(start, start + _BATCH), device)
            found = F.unfold(self.pixels(encode(images)), old.kernel_size, old.dilation, old.padding, old.stride)  # type: ignore[arg-type]
            target = old((images - recognizer.mean) / recognizer.scale).flatten(2)
            places = torch.linspace(0, target.shape[2] - 1, min(_PLACES, target.shape[2])).long().to(device)
            patches.append(found[:, :, places].transpose(1, 2).flatten(0, 1))
            wanted.append(target[:, :, places].transpose(1, 2).flatten(0, 1))
        x, y = torch.cat(patches).double(), torch.cat(wanted).double()
        x = x.view(len(x), len(self.mean), -1)
        mean, scale = x.mean((0, 2), keepdim=True), x.std((0, 2), keepdim=True).clamp_min(1e-6)
        self.mean.copy_(mean.view_as(self.mean))
        self.scale.copy_(scale.view_as(self.scale))
        x = ((x - mean) / scale).flatten(1)
        shift, level = x.mean(0), y.mean(0)
        x -= shift
        gram = x.T @ x
        gram.diagonal().add_(_RIDGE * len(x))
        weights = torch.linalg.solve(gram, x.T @ (y - level)).T
        self.first.weight.copy_(weights.view_as(self.first.weight))
        assert self.first.bias is not None
        self.first.bias.copy_(level - weights @ shift)


@dataclass(frozen=True, kw_only=True)
class DuetFace(Defense):
    """Stores the 162 of 192 block-DCT channels that show least; the client keeps the 30 crucial ones.

    The server recognises with the body of the recogniser under test behind a new first convolution. It is trained on
    identities, or distilled from the recogniser under test where there are too few (`mode`), or read from `weights`.
    """

    template_dtype: ClassVar[Literal["float32", "float16"]] = "float16"  #: 3.5 MB an image of 112 x 96, instead of 7
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"upsample", "mode", "weights", "recipe"}),
        "protect": frozenset({"mode", "weights", "recipe"}),
    }

    upsample: Literal[1, 8] = 8  #: 8: the paper's, channels as large as the image; 1: plain 8 x 8 blocks
    mode: Labels = "auto"  #: what the server's recogniser learns from
    weights: str = ""  #: a trained recogniser (.safetensors); empty: trained here, on the defender's public faces
    recipe: Recipe = Recipe(epochs=6, batch=32, schedule="cosine", warm_up=0)

    def encode(self, system: System, images: Tensor) -> Tensor:
        """The channels that are not crucial, (B, 162, h, w)."""
        return self._channels(images)

    def _channels(self, images: Tensor) -> Tensor:
        return block_dct(images, self.upsample, _STORED)

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """A transform of frequencies: there are no layers to mirror."""
        return ()

    def files(self) -> Mapping[str, Path]:
        """The trained recogniser, where there is one."""
        return {"weights": find_weights(self.weights, "[defenses.duetface] weights")} if self.weights else {}

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State:
        """The recogniser of stored channels: read, or trained from the recogniser under test."""
        network = _Recognizer(system.recognizer, self.upsample).to(system.device)
        if self.weights:
            return trained_server(network, self.files()["weights"])
        faces, identities = teaching_faces(public, self.mode, None, rng.child("faces"))
        network.solve_first(system.recognizer, self._channels, faces)
        what = "training a recogniser of frequencies"
        return train_server(
            network,
            self._channels,
            system.recognizer,
            faces,
            identities,
            self.recipe,
            rng.child("train"),
            what,
            backbone=network.body,
        )

    def prepare_server(self, recognizer: SplitNetwork, state: State | None) -> nn.Module:
        """The trained recogniser."""
        if state is None:
            raise ValueError("duetface has no trained recogniser")
        network = _Recognizer(recognizer, self.upsample)
        return restore_server(network, state, next(recognizer.parameters()).device)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """The server's recogniser of stored channels."""
        return F.normalize(system.server(templates))
