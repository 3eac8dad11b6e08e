"""FaceNet as the AdvFace paper uses it: facenet-pytorch's Inception-ResNet-v1, split after its third convolution."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn

from bench.contracts import Alignment, Conv, Recognizer, SplitNetwork
from bench.errors import DataError
from bench.storage.files import file_hash
from bench.storage.weights import fill, find_weights, is_split, load_strictly, read_weights

_SETTING = "[recognizers.facenet] weights"
_CLIENT = ("conv2d_1a", "conv2d_2a", "conv2d_2b")
_MIDDLE = (
    "maxpool_3a", "conv2d_3b", "conv2d_4a", "conv2d_4b", "repeat_1", "mixed_6a", "repeat_2", "mixed_7a", "repeat_3",
    "block8", "avgpool_1a", "dropout",
)  # fmt: skip
# The file names of facenet-pytorch's own downloads.
_DOWNLOADS = {"vggface2": "20180402-114759-vggface2.pt", "casia-webface": "20180408-102900-casia-webface.pt"}


class _Server(nn.Module):
    """The rest of Inception-ResNet-v1, in its own forward order (the caller normalises the embedding)."""

    def __init__(self, whole: nn.Module) -> None:
        super().__init__()
        parts = [(name, part) for name, part in whole.named_children() if name not in (*_CLIENT, "logits")]
        for name, part in parts:
            self.add_module(name, part)

    def forward(self, features: Tensor) -> Tensor:
        x = features
        for name in _MIDDLE:
            x = self.get_submodule(name)(x)
        embedding: Tensor = self.get_submodule("last_bn")(self.get_submodule("last_linear")(x.flatten(1)))
        return embedding


@dataclass(frozen=True, kw_only=True)
class FaceNet(Recognizer):
    """160 x 160 pixels; features of 64 x 77 x 77; 512-d embeddings."""

    weights: str = ""  #: a local state dict; empty: facenet-pytorch's own download
    #: The training set of the weights, which determines the number of classes.
    pretrained: Literal["vggface2", "casia-webface"] = "vggface2"
    normalisation: Literal["fixed", "unit"] = "fixed"  #: (x - 127.5) / 128, or the paper's [0, 1]
    margin: int = 14  #: pixels around MTCNN's box; facenet-pytorch's LFW example uses 14 at this size

    @property
    def alignment(self) -> Alignment:
        """MTCNN's box with a margin."""
        return Alignment("margin", (160, 160), margin=self.margin)

    def _path(self) -> Path:
        if self.weights:
            return find_weights(self.weights, _SETTING)
        from facenet_pytorch.models.inception_resnet_v1 import InceptionResnetV1, get_torch_home

        name = _DOWNLOADS[self.pretrained]
        # facenet-pytorch's own folder; torch.hub's is hub/checkpoints below it
        path = Path(get_torch_home()) / "checkpoints" / name
        if not path.is_file():
            try:
                with torch.random.fork_rng(devices=[]):
                    InceptionResnetV1(pretrained=self.pretrained)  # this downloads the file
            except (OSError, RuntimeError, HTTPException) as error:
                raise DataError(
                    f"FaceNet's weights could not be downloaded ({error}): get {name} from facenet-pytorch's releases "
                    f"on another machine, then set {_SETTING} to it, or put it into {path.parent}"
                ) from error
            if not path.is_file():
                raise DataError(f"facenet-pytorch left no {name} in {path.parent}; set {_SETTING} to a local file")
        return path

    def weights_hash(self) -> str:
        """sha256 of the weight file, which is downloaded first if it is missing."""
        return file_hash(self._path())

    def build(self) -> SplitNetwork:
        """Builds the network without weights."""
        from facenet_pytorch import InceptionResnetV1

        return self._split(InceptionResnetV1(pretrained=None, classify=False))

    def load(self) -> SplitNetwork:
        """Builds the network and loads its weights strictly, except for the classifier, which recognition does not
        need.
        """
        path = self._path()
        tensors = read_weights(path)
        from facenet_pytorch import InceptionResnetV1

        with torch.random.fork_rng(devices=[]):
            whole = InceptionResnetV1(pretrained=None, classify=False)
        if is_split(tensors):
            return fill(self._split(whole), tensors, path).eval()
        load_strictly(whole, tensors, path)
        return self._split(whole).eval()

    def _split(self, whole: nn.Module) -> SplitNetwork:
        client = nn.Sequential(OrderedDict((name, getattr(whole, name)) for name in _CLIENT))
        layout = (Conv(3, 32, 3, 2), Conv(32, 32, 3), Conv(32, 64, 3, 1, 1))
        mean, scale = (0.5, 128 / 255) if self.normalisation == "fixed" else (0.0, 1.0)
        return SplitNetwork(client, _Server(whole), image_size=(160, 160), layout=layout, mean=mean, scale=scale)
