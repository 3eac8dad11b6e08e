"""Devices and number formats: bfloat16 where the processor multiplies in it, float32 elsewhere.

`VEILBENCH_PRECISION=float32` in the environment asks for float32 everywhere: for runs that other machines repeat.
"""

from __future__ import annotations

import ctypes
import os
import sys
from functools import cache

import torch
from torch import Tensor

from bench.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto` (CUDA where there is one), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: the device is unknown, or not on this machine.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {name!r} asked for, but torch {torch.__version__} sees no CUDA device: use auto or cpu"
        )
    return device


@cache
def _cpu_has_bf16() -> bool:
    # Emulated bfloat16 is slower than float32, so only processors with instructions for it count.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(probe()) for name in probes if (probe := getattr(torch.cpu, name, None)) is not None)


def low_precision(device: torch.device) -> bool:
    """Whether decoders run in bfloat16 on this device.

    Raises:
        UserError: the environment asks for a format that is not known.
    """
    asked = os.environ.get("VEILBENCH_PRECISION", "auto")
    if asked not in ("auto", "float32"):
        raise UserError(f"VEILBENCH_PRECISION={asked}: use auto or float32")
    if asked == "float32":
        return False
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()


def precision_name(device: torch.device) -> str:
    """The number format that decoders compute in; part of every key."""
    return "bfloat16" if low_precision(device) else "float32"


def autocast(device: torch.device) -> torch.autocast:
    """Context in which convolutions run in bfloat16 where `low_precision` says so."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=low_precision(device))


def as_decoder_input(features: Tensor) -> Tensor:
    """Features as `autocast` would hand them to a first convolution, in one pass over memory instead of two."""
    dtype = torch.bfloat16 if low_precision(features.device) else features.dtype
    return features.to(dtype, memory_format=torch.channels_last)


@cache
def keep_freed_memory() -> bool:
    """Has glibc keep what large tensors free, up to 1 GB a piece; whether it does.

    By default it maps each anew, and the kernel clears every page of it: more than half of a frequency split's cost.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    trim_threshold, mmap_threshold = -1, -3
    return mallopt is not None and bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))
