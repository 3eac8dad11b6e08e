"""LPIPS (Zhang et al. 2018) from the lpips package, or a stated reason why it is unavailable."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.errors import DataError
from bench.storage.files import file_hash
from bench.storage.weights import load_strictly, read_weights

_CACHED = "alexnet-owt-*.pth"  #: the file name that torchvision uses for the backbone
_FEATURE = re.compile(r"(?:features\.)?(\d+\.(?:weight|bias))")
#: `_digest` of torchvision's ImageNet features, to which the heads in the lpips package were fitted. With them, the
#: package's example pairs give the published 0.7219 and 0.1376.
_BACKBONE = "75e6a889035bb6078511a8412db5b05606bc8372b2eeabe845eb1fc4cc8b7aed"


@dataclass(frozen=True)
class Unavailable:
    """The reason why there is no LPIPS; it is never reported as 0."""

    reason: str


class Lpips:
    """LPIPS v0.1 with AlexNet's features."""

    def __init__(self, network: nn.Module, backbone: str, weights: str, device: torch.device) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        self.settings = {
            "net": "alex",
            "lpips": version("lpips"),
            "backbone_sha256": backbone,  # hash of the file
            "weights_sha256": weights,  # hash of the weights, the same in every file format
        }

    @classmethod
    def load(cls, backbone: Path | None, *, device: torch.device, download: bool = False) -> Lpips | Unavailable:
        """Loads AlexNet's `features.*` from a local file, from torchvision's cache, or by download if allowed.

        Raises:
            DataError: the file is missing or damaged, or holds weights that LPIPS was not fitted to.
        """
        import lpips

        path = backbone
        if path is None:
            folder = Path(torch.hub.get_dir()) / "checkpoints"
            path = next(iter(sorted(folder.glob(_CACHED))), None)
            if path is None and download:
                from torchvision.models import AlexNet_Weights

                try:
                    AlexNet_Weights.DEFAULT.get_state_dict(progress=False)
                except (OSError, RuntimeError) as error:  # RuntimeError: the download has another hash
                    return Unavailable(f"AlexNet's weights could not be downloaded ({error})")
                path = next(iter(sorted(folder.glob(_CACHED))), None)
            if path is None:
                return Unavailable("no AlexNet backbone: set metrics.lpips_backbone, or metrics.lpips_download = true")
        if not path.is_file():
            raise DataError(f"{path}: no such LPIPS backbone; set metrics.lpips_backbone, or metrics.lpips = false")
        # lpips calls torchvision in a deprecated way, and initialises AlexNet from the global generator.
        with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
            warnings.simplefilter("ignore")
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        tensors = {m[1]: value for name, value in read_weights(path).items() if (m := _FEATURE.fullmatch(name))}
        # lpips keeps torchvision's layer numbers inside its slices: slice3.6.weight is features.6.weight.
        for number in range(1, 6):
            part = getattr(network.net, f"slice{number}")
            load_strictly(part, {name: tensors[name] for name in part.state_dict() if name in tensors}, path)
        digest = _digest(tensors)
        if digest != _BACKBONE:
            raise DataError(
                f"{path}: an AlexNet, but not torchvision's ImageNet weights, which LPIPS was fitted to "
                f"(their digest is {digest[:12]}, not {_BACKBONE[:12]}); set metrics.lpips_backbone to those"
            )
        return cls(network, file_hash(path), digest, device)

    def __call__(self, originals: Tensor, reconstructions: Tensor) -> NDArray[np.float64]:
        """LPIPS distance of each pair, (B,), of images (B, 3, H, W) in [0, 1]; 0 for identical images.

        Raises:
            ValueError: the shapes differ (lpips would silently broadcast them).
        """
        if originals.shape != reconstructions.shape:
            raise ValueError(f"shapes differ: {tuple(originals.shape)} and {tuple(reconstructions.shape)}")
        with torch.no_grad():
            # normalize: lpips expects [-1, 1] and converts from [0, 1] itself.
            found: Any = self._network(originals.to(self._device), reconstructions.to(self._device), normalize=True)
        values: NDArray[np.float64] = found.flatten().double().cpu().numpy()
        return values


def _digest(tensors: Mapping[str, Tensor]) -> str:
    """sha256 of names and float32 values: the same digest for the same weights in a .pth and a .safetensors."""
    total = hashlib.sha256()
    for name in sorted(tensors):
        total.update(name.encode() + b"\0" + tensors[name].float().cpu().contiguous().numpy().tobytes())
    return total.hexdigest()
