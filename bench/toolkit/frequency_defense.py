"""The common base of frequency-domain defences: their recogniser, and the training of its server."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from statistics import mean
from typing import Any, ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from bench.contracts import Conv, Defense, FaceSet, Rng, SplitNetwork, State, System
from bench.storage.weights import find_weights
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.progress import track
from bench.toolkit.server_training import Labels, restore_server, teaching_faces, train_server, trained_server

#: The channels of each plane with most of its energy: DuetFace's crucial ones, which its successors drop.
STRONG = (0, 1, 2, 3, 4, 5, 8, 9, 16, 24)
_FACES, _PLACES, _BATCH = 300, 64, 10  #: public faces, and positions in each, to solve a new first layer
_RIDGE = 1e-2  #: ridge penalty, relative to the mean square of an input


def _first_convolution(client: nn.Module) -> tuple[str, nn.Conv2d]:
    """The client's first convolution and its module name ("" if it is the client itself)."""
    for name, module in client.named_modules():
        if isinstance(module, nn.Conv2d) and module.in_channels == 3 and isinstance(module.padding, tuple):
            return name, module
    raise ValueError("a frequency defence needs a recogniser whose client begins with a convolution of three colours")


class FrequencyNetwork(nn.Module):
    """The recogniser under test behind a new first convolution, which takes standardised templates.

    Args:
        inputs: input channels of the first convolution.
        pixels: maps templates to the input of the convolution; None: the templates themselves.
        whole: include the server's part; otherwise the network ends with the client's features.
    """

    def __init__(
        self,
        recognizer: SplitNetwork,
        inputs: int,
        pixels: Callable[[Tensor], Tensor] | None = None,
        whole: bool = True,
    ) -> None:
        super().__init__()
        self.pixels = pixels or (lambda templates: templates)
        client = copy.deepcopy(recognizer.client)
        name, old = _first_convolution(client)
        with torch.random.fork_rng(devices=[]):
            self.first = nn.Conv2d(inputs, old.out_channels, old.kernel_size, old.stride, old.padding)  # type: ignore[arg-type]
        if name:
            client.set_submodule(name, nn.Identity())
        server = copy.deepcopy(recognizer.server) if whole else nn.Identity()
        self.body = nn.Sequential(client if name else nn.Identity(), server)
        self.register_buffer("mean", torch.zeros(inputs, 1, 1))
        self.register_buffer("scale", torch.ones(inputs, 1, 1))
        self.mean: Tensor
        self.scale: Tensor

    def forward(self, templates: Tensor) -> Tensor:
        """Maps templates to embeddings (B, D), not normalised, or to features (B, C, h, w)."""
        x = (self.pixels(templates) - self.mean) / self.scale
        found: Tensor = self.body(self.first(x.contiguous(memory_format=torch.channels_last)))
        return found

    @torch.no_grad()
    def start(
        self, recognizer: SplitNetwork, encode: Callable[[Tensor], Tensor], faces: FaceSet, solve: bool = True
    ) -> None:
        """Standardises the inputs and initialises the new convolution.

        Args:
            encode: maps images to templates.
            solve: initialise by least squares to reproduce the old layer's output. Both are linear in the pixels, so
                this
                gives most of what a first layer can learn, in seconds. Otherwise copy the old weights, which suits
                templates
                of three channels that are no longer an image.
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
        assert self.first.bias is not None
        if not solve:
            self.first.weight.copy_(old.weight)
            self.first.bias.copy_(torch.zeros_like(self.first.bias) if old.bias is None else old.bias)
            return
        x = ((x - mean) / scale).flatten(1)
        shift, level = x.mean(0), y.mean(0)
        x -= shift
        gram = x.T @ x
        gram.diagonal().add_(_RIDGE * len(x))
        weights = torch.linalg.solve(gram, x.T @ (y - level)).T
        self.first.weight.copy_(weights.view_as(self.first.weight))
        self.first.bias.copy_(level - weights @ shift)


def learn_client(
    parameters: Sequence[Tensor],
    loss: Callable[[Tensor, int], Tensor],
    faces: FaceSet,
    steps: int,
    batch: int,
    learning_rate: float,
    rng: Rng,
    label: str,
) -> dict[str, Any]:
    """Minimises `loss(images, step)` in place with Adam and a cosine schedule; returns a log of the training."""
    if steps == 0:
        return {"steps": 0}
    optimiser = torch.optim.Adam(parameters, lr=learning_rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps)
    source, device = rng.numpy(), parameters[0].device
    curve = []
    for step in track(range(steps), label, steps):
        chosen = source.choice(len(faces), min(batch, len(faces)), replace=False)
        with torch.enable_grad():
            found = loss(faces.batch(chosen, device), step)
            gradients = torch.autograd.grad(found, parameters)
        for value, gradient in zip(parameters, gradients, strict=True):
            value.grad = gradient
        optimiser.step()
        schedule.step()
        curve.append(float(found.detach()))
    fifth = max(1, steps // 5)
    return {"steps": steps, "loss": {"first": mean(curve[:fifth]), "last": mean(curve[-fifth:])}}


@dataclass(frozen=True, kw_only=True)
class FrequencyDefense(Defense):
    """A client that sends frequencies, and a server with the recogniser under test, retrained on them.

    The server is distilled from the recogniser under test, learns from identities (`mode`), or is read from `weights`.
    """

    client_side: ClassVar[bool] = True
    adds_noise: ClassVar[bool] = False
    solved: ClassVar[bool] = True  #: templates are linear in the pixels: solve the first layer by least squares
    template_dtype: ClassVar[Literal["float32", "float16"]] = "float16"
    ignored: ClassVar[Mapping[Literal["fit", "protect"], frozenset[str]]] = {
        "fit": frozenset({"mode", "weights", "recipe"}),
        "protect": frozenset({"mode", "weights", "recipe"}),
    }

    mode: Labels = "teacher"  #: the training target of the server's recogniser
    weights: str = ""  #: a trained recogniser (.safetensors); empty: train one here, on the defender's public faces
    recipe: Recipe = Recipe(epochs=20, batch=16, schedule="cosine", warm_up=0)

    @abstractmethod
    def network(self, recognizer: SplitNetwork) -> FrequencyNetwork:
        """Builds the server's recogniser without trained weights."""

    def layout(self, recognizer: SplitNetwork) -> tuple[Conv, ...]:
        """A frequency transform has no layers to mirror."""
        return ()

    def files(self) -> Mapping[str, Path]:
        """The trained recogniser, if there is one."""
        where = f"[defenses.{type(self).__name__.lower()}] weights"
        return {"weights": find_weights(self.weights, where)} if self.weights else {}

    def fit_server(self, system: System, public: FaceSet, rng: Rng) -> State:
        """Reads the recogniser of templates, or trains it from the recogniser under test, on fresh templates."""
        network = self.network(system.recognizer).to(system.device)
        if self.weights:
            return trained_server(network, self.files()["weights"])
        faces, identities = teaching_faces(public, self.mode, None, rng.child("faces"))
        calls = count()

        def sent(images: Tensor) -> Tensor:
            names = rng.child("client", next(calls)).images([*map(str, range(len(images)))])
            return system.send(images, names)

        network.start(system.recognizer, sent, faces, self.solved)
        what = f"training the server of {type(self).__name__}"
        return train_server(
            network,
            sent,
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
            raise ValueError(f"{type(self).__name__} has no trained server")
        return restore_server(self.network(recognizer), state, next(recognizer.parameters()).device)

    def embed(self, system: System, templates: Tensor) -> Tensor:
        """The server's recogniser of templates."""
        return F.normalize(system.server(templates))
