"""What recognisers that are cut where their user says have in common: pixels, faces, halves."""

from __future__ import annotations

from abc import abstractmethod
from collections import OrderedDict
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from bench.contracts import Alignment, Recognizer, SplitNetwork
from bench.errors import UserError
from bench.toolkit.alignments import ALIGNMENTS, box
from bench.toolkit.cutting import layout_of, split, trace

Channels = Literal["rgb", "bgr"]


class Pixels(nn.Module):
    """RGB in [0, 1] to what a network wants: (x - mean) / std on 0..255, in its order of channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...], channels: Channels) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1) / 255, persistent=False)
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1) / 255, persistent=False)
        self.turned = channels == "bgr"

    def forward(self, images: Tensor) -> Tensor:
        """Images (B, 3, H, W); `mean` and `std` are given in the network's own order of channels."""
        own = images.flip(1) if self.turned else images
        normal: Tensor = (own - self.mean) / self.std
        return normal


@dataclass(frozen=True, kw_only=True)
class CroppedRecognizer(Recognizer):
    """A recogniser whose user says how faces are cut out for it.

    Of `crop`, `box` is the detector's box, and `points` are five own ones; both take `size`, where the network does
    not fix it.
    """

    #: How faces are cut out for it.
    crop: Literal["arcface-112", "sphereface-112x96", "facenet-160", "box", "points"] = "arcface-112"
    size: tuple[int, int] | None = None  #: (height, width) in pixels, of `box` and `points`
    #: Of `points`: left eye, right eye, nose, left and right corner of the mouth, (x, y) in pixels.
    points: tuple[tuple[float, float], ...] = ()

    def __post_init__(self) -> None:
        if self.crop in ALIGNMENTS and (self.size is not None or self.points):
            raise ValueError(f"size and points are of crop = 'box' and 'points'; {self.crop} has its own")
        if len(self.points) != (5 if self.crop == "points" else 0):
            raise ValueError("crop = 'points' takes five of them, and no other crop takes any")
        if self.size is not None and min(self.size) < 1:
            raise ValueError("size must be at least 1 x 1")

    @property
    def alignment(self) -> Alignment:
        """What `crop` names."""
        if self.crop in ALIGNMENTS:
            return ALIGNMENTS[self.crop]
        size = self.size or self.own_size()
        if self.crop == "box":
            return box(size)
        return Alignment("five-point", size, points=self.points)

    def own_size(self) -> tuple[int, int]:
        """(height, width) that the network itself asks for.

        Raises:
            UserError: it asks for none.
        """
        raise UserError(f"{self.place()}: size = [HEIGHT, WIDTH] is wanted with crop = {self.crop!r}")

    @abstractmethod
    def place(self) -> str:
        """What to call the network in messages."""


@dataclass(frozen=True)
class Normalisation:
    """What a network wants of pixels of 0..255: (x - mean) / std, and the order of its channels."""

    mean: float | tuple[float, ...] = 127.5
    std: float | tuple[float, ...] = 127.5
    channels: Channels = "rgb"


@dataclass(frozen=True, kw_only=True)
class SplitRecognizer(CroppedRecognizer):
    """A network that is cut in two where `cut` says. Subclasses give the whole network and its normalisation."""

    cut: str = ""  #: the client's last operation, as `veilbench recognizer cuts` lists them

    @abstractmethod
    def normalisation(self) -> Normalisation:
        """Of pixels."""

    @abstractmethod
    def whole(self) -> nn.Module:
        """The network before it is cut, with its weights, in eval mode: normalised pixels to embeddings.

        Raises:
            DataError: a file is missing, damaged or of another kind.
        """

    def traced(self) -> fx.GraphModule:
        """`whole` as a graph of operations."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            return trace(self.whole(), self.place())

    def load(self) -> SplitNetwork:
        """The network with its weights, cut."""
        return self.halves(self.traced())

    def halves(self, graph: fx.GraphModule) -> SplitNetwork:
        """A traced network, cut.

        Raises:
            UserError: it cannot be cut there; or features and embeddings are not what they should be.
        """
        if not self.cut:
            raise UserError(f"{self.place()}: cut says where the client ends; see: veilbench recognizer cuts FILE")
        size = self.alignment.size
        front, back = split(graph, self.cut, self.place())
        pixels = self.normalisation()
        client: nn.Module = front
        mean, scale = 0.0, 1.0
        if pixels.channels == "rgb" and len(set(_each(pixels.mean))) == len(set(_each(pixels.std))) == 1:
            mean, scale = _each(pixels.mean)[0] / 255, _each(pixels.std)[0] / 255
        else:
            turn = Pixels(_each(pixels.mean), _each(pixels.std), pixels.channels)
            client = nn.Sequential(OrderedDict(pixels=turn, network=front))
        server = nn.Sequential(OrderedDict(network=back, flat=nn.Flatten()))
        probe = torch.zeros(1, 3, *size)
        try:
            with torch.no_grad():
                features = client(probe)
                embeddings = server(features)
        except Exception as error:
            said = (str(error).strip().splitlines() or [type(error).__name__])[0]
            raise UserError(
                f"{self.place()}: fails on faces of {size[0]} x {size[1]} pixels ({said}); is crop = "
                f"{self.crop!r} right?"
            ) from error
        if not isinstance(features, Tensor) or features.ndim != 4 or embeddings.ndim != 2:
            shape = tuple(getattr(features, "shape", ()))
            raise UserError(f"{self.place()}: {self.cut!r} gives {shape}, where features (B, C, h, w) are wanted")
        layout = layout_of(client, probe)
        return SplitNetwork(client, server, image_size=size, layout=layout, mean=mean, scale=scale).eval()


@dataclass(frozen=True, kw_only=True)
class CutElsewhere(Recognizer):
    """A recogniser with fixed halves, cut at another place."""

    of: Recognizer
    cut: str  #: the client's last operation, by the names in `traced_whole`

    @property
    def alignment(self) -> Alignment:
        """The recogniser's own."""
        return self.of.alignment

    def identity(self) -> dict[str, Any]:
        """The recogniser's, and the cut."""
        return {**self.of.identity(), "cut": self.cut}

    def weights_hash(self) -> str:
        """The recogniser's own."""
        return self.of.weights_hash()

    def load(self) -> SplitNetwork:
        """The network with its weights, cut here."""
        own = self.of.load()
        front, back = split(traced_whole(own, type(self.of).__name__), self.cut, type(self.of).__name__)
        layout = layout_of(front, torch.zeros(1, 3, *own.image_size))
        return SplitNetwork(
            front, back, image_size=own.image_size, layout=layout, mean=own.mean, scale=own.scale
        ).eval()


def traced_whole(halves: SplitNetwork, where: str) -> fx.GraphModule:
    """Client and server in one again: normalised pixels to embeddings."""
    return trace(nn.Sequential(halves.client, halves.server), where)


def cut_at(recognizer: Recognizer, cut: str) -> Recognizer:
    """The same network, cut behind the operation of that name."""
    if isinstance(recognizer, SplitRecognizer):
        return replace(recognizer, cut=cut)
    return CutElsewhere(of=recognizer, cut=cut)


def _each(value: float | tuple[float, ...]) -> tuple[float, ...]:
    """One a channel."""
    return tuple(value) if isinstance(value, tuple | list) else (float(value),) * 3


@dataclass(frozen=True, kw_only=True)
class CutRecognizer(SplitRecognizer):
    """A network that is cut in two where `cut` says, and whose user says how pixels are normalised.

    Of `crop`, `box` is the detector's box, and `points` are five own ones; both take `size`, where the network does
    not fix it.
    """

    mean: float | tuple[float, float, float] = 127.5  #: taken from pixels of 0..255, or one a channel
    std: float | tuple[float, float, float] = 127.5  #: what the difference is divided by; insightface: 127.5 or 128
    channels: Channels = "rgb"  #: the order that the network wants

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(_each(self.std)) <= 0:
            raise ValueError("std must be above 0")

    def normalisation(self) -> Normalisation:
        """As the parameters say."""
        return Normalisation(self.mean, self.std, self.channels)
