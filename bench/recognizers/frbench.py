"""Recognisers of the package FRBench: 25 families of backbones, and trained ones for those who can download them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from bench.contracts import Alignment
from bench.errors import DataError, UserError, near_miss
from bench.storage.files import file_hash
from bench.storage.weights import load_strictly, read_weights
from bench.toolkit.cut_recognizer import Channels, Normalisation, SplitRecognizer
from bench.toolkit.onnx_graph import need


@dataclass(frozen=True)
class _Trained:
    """Where the package put a trained network, and what it says of it."""

    weights: Path
    backbone: str
    arguments: Mapping[str, Any]
    pixels: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class FrBench(SplitRecognizer):
    """`BACKBONE_LOSS_DATASET` is a trained network, downloaded by the package; `BACKBONE` alone an untrained one.

    Pixels are normalised and faces cut out as the network's own settings say; an untrained one takes the defaults.
    """

    network: str  #: irse-50_arcface_ms1m, or mobilefacenet-plain
    seed: int = 0  #: of an untrained one's weights

    def place(self) -> str:
        """Its name."""
        return self.network

    def _trained(self) -> _Trained | None:
        need("frbench", "frbench")
        return _asset(self.network) if "_" in self.network else None

    @property
    def alignment(self) -> Alignment:
        """Its own where it is trained and has one, else what `crop` names."""
        own = self._trained()
        points = own.pixels.get("template") if own else None
        if own is None or self.crop != "arcface-112" or points is None:
            return super().alignment
        height, width = own.pixels.get("size", (112, 112))
        return Alignment("five-point", (int(height), int(width)), points=tuple((float(x), float(y)) for x, y in points))

    def normalisation(self) -> Normalisation:
        """(x - 127.5) / 127.5 unless the trained network says otherwise."""
        own = self._trained()
        if own is None:
            return Normalisation()
        mean, std = own.pixels.get("mean", (0.5,) * 3), own.pixels.get("var", own.pixels.get("std", (0.5,) * 3))
        channels: Channels = "bgr" if own.pixels.get("channel", "rgb") == "bgr" else "rgb"
        return Normalisation(tuple(255 * float(x) for x in mean), tuple(255 * float(x) for x in std), channels)

    def weights_hash(self) -> str:
        """sha256 of the weights' file; of name and seed where there is none."""
        own = self._trained()
        return file_hash(own.weights) if own else hashlib.sha256(f"{self.network} {self.seed}".encode()).hexdigest()

    def whole(self) -> nn.Module:
        """The backbone, strictly filled, or drawn from the seed."""
        own = self._trained()
        if own is None:
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(self.seed)
                return _backbone(self.network, {}).eval()
        made = _backbone(own.backbone, own.arguments)
        load_strictly(made, read_weights(own.weights), own.weights)
        return made.eval()


def _backbone(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    from frbench.backbones import BACKBONE_REGISTRY, build_backbone

    if name not in BACKBONE_REGISTRY:
        raise UserError(f"network = {name!r}: FRBench has no such backbone.{near_miss(name, list(BACKBONE_REGISTRY))}")
    made: nn.Module = build_backbone(name, dict(arguments), torch.device("cpu"))
    return made


@cache
def _asset(name: str) -> _Trained:
    """Downloads it where it is not there yet; the package checks its hash."""
    import yaml  # type: ignore[import-untyped]
    from frbench import get_asset

    try:
        found = get_asset(name)
        folder = Path(found["path"])
        config = yaml.safe_load((folder / found["contents"]["config"]).read_text(encoding="utf-8"))
        backbone = config["backbone"]
        weights = folder / found["contents"]["weight"]
        return _Trained(weights, str(backbone["name"]), backbone.get("kwargs", {}), config.get("input", {}))
    except Exception as error:  # of the package's own kinds, or of a network that is not there
        said = (str(error).strip().splitlines() or [type(error).__name__])[0]
        why = f"FRBench cannot give it ({said}); a backbone alone is untrained"
        raise DataError(f"network = {name!r}: {why}") from error
