"""LPIPS (Zhang et al. 2018) by the lpips package, or a plain word that it is not to be had."""

from __future__ import annotations

import re
import warnings
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from bench.contracts import DataError
from bench.recognizers.weights import load_strictly, read_weights
from bench.store import file_hash

_CACHED = "alexnet-owt-*.pth"  #: torchvision's own name for the backbone
_FEATURE = re.compile(r"(?:features\.)?(\d+\.(?:weight|bias))")


@dataclass(frozen=True)
class Unavailable:
    """Why there is no LPIPS; never taken for 0."""

    reason: str


class Lpips:
    """LPIPS v0.1 with AlexNet's features."""

    def __init__(self, network: nn.Module, backbone: str, device: torch.device) -> None:
        self._network = network.to(device).eval().requires_grad_(False)
        self._device = device
        self.settings = {"net": "alex", "lpips": version("lpips"), "backbone_sha256": backbone}

    @classmethod
    def load(cls, backbone: Path | None, *, device: torch.device, download: bool = False) -> Lpips | Unavailable:
        """From a local file of AlexNet's `features.*`, from torchvision's cache, or from its download if allowed.

        Raises:
            DataError: a file was named, and it is missing, damaged or of another network.
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
                except OSError as error:
                    return Unavailable(f"no network for AlexNet's weights ({error})")
                path = next(iter(sorted(folder.glob(_CACHED))), None)
            if path is None:
                return Unavailable("no AlexNet backbone: set metrics.lpips_backbone, or metrics.lpips_download = true")
        if not path.is_file():
            raise DataError(f"{path}: no such LPIPS backbone; set metrics.lpips_backbone, or metrics.lpips = false")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips calls torchvision in a way that it has deprecated
            network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
        tensors = {m[1]: value for name, value in read_weights(path).items() if (m := _FEATURE.fullmatch(name))}
        # lpips keeps torchvision's layer numbers inside its slices: slice3.6.weight is features.6.weight.
        for part in (
            network.net.slice1,
            network.net.slice2,
            network.net.slice3,
            network.net.slice4,
            network.net.slice5,
        ):
            own = part.state_dict()
            load_strictly(part, {name: tensors[name] for name in own if name in tensors}, path)
        return cls(network, file_hash(path), device)

    def __call__(self, originals: Tensor, reconstructions: Tensor) -> NDArray[np.float64]:
        """Distance of each pair, (B,), of images (B, 3, H, W) in [0, 1]; 0 is identical."""
        with torch.no_grad():
            found: Any = self._network(originals.to(self._device), reconstructions.to(self._device), normalize=True)
        values: NDArray[np.float64] = found.flatten().double().cpu().numpy()
        return values
