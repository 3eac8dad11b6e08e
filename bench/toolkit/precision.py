"""Devices and number formats: bfloat16 on processors that support it natively, float32 elsewhere.

`VEILBENCH_PRECISION=float32` in the environment forces float32, for runs that must be repeatable on other machines.
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
    """Resolves `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`.

    Raises:
        UserError: the device is unknown or unavailable.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise UserError(f"unknown device {name!r}: use auto, cpu, cuda or cuda:N") from error
    if device.type not in ("cpu", "cuda"):
        raise UserError(f"device {name!r} is not supported: use auto, cpu, cuda or cuda:N")
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(
            f"device {name!r} requested, but torch {torch.__version__} finds no CUDA device: use auto or cpu"
        )
    if device.type == "cuda":
        if (device.index or 0) >= (count := torch.cuda.device_count()):
            raise UserError(
                f"device {name!r} requested, but there is no such card: torch finds {count}, from cuda:0 on"
            )
        _repeatable_cuda()
    return device


@cache
def _repeatable_cuda() -> None:
    """Makes CUDA give the same figures twice, and float32 mean float32 in convolutions (torch's default is TF32)."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = False
    # Where torch has no deterministic kernel, it warns instead of failing.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else each new tensor is filled with NaN, to find what reads it too early.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]


@cache
def _cpu_has_bf16() -> bool:
    # Emulated bfloat16 is slower than float32, so only native support counts.
    probes = ("_is_avx512_bf16_supported", "_is_amx_tile_supported")
    return any(bool(probe()) for name in probes if (probe := getattr(torch.cpu, name, None)) is not None)


def low_precision(device: torch.device) -> bool:
    """Whether decoders run in bfloat16 on this device.

    Raises:
        UserError: the environment requests an unknown format.
    """
    asked = os.environ.get("VEILBENCH_PRECISION", "auto")
    if asked not in ("auto", "float32"):
        raise UserError(f"VEILBENCH_PRECISION={asked}: use auto or float32")
    if asked == "float32":
        return False
    return torch.cuda.is_bf16_supported() if device.type == "cuda" else _cpu_has_bf16()


def precision_name(device: torch.device) -> str:
    """The number format of decoders; part of every key."""
    return "bfloat16" if low_precision(device) else "float32"


def gpu(device: torch.device) -> dict[str, object]:
    """What decides on a GPU's arithmetic, for records; empty on a processor."""
    if device.type != "cuda":
        return {}
    cudnn = torch.backends.cudnn
    return {
        "gpu": torch.cuda.get_device_name(device),
        "cuda": torch.version.cuda,
        "cudnn": cudnn.version(),  # type: ignore[no-untyped-call]
        "tf32": {"convolutions": cudnn.allow_tf32, "matrix products": torch.backends.cuda.matmul.allow_tf32},
        "deterministic": torch.are_deterministic_algorithms_enabled() and not cudnn.benchmark,
    }


def autocast(device: torch.device) -> torch.autocast:
    """A context in which convolutions run in bfloat16 if `low_precision` is true."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=low_precision(device))


def as_decoder_input(features: Tensor) -> Tensor:
    """Features as `autocast` would pass them to a first convolution, in one pass over memory instead of two."""
    dtype = torch.bfloat16 if low_precision(features.device) else features.dtype
    return features.to(dtype, memory_format=torch.channels_last)


@cache
def keep_freed_memory() -> bool:
    """Lets glibc keep freed tensors of up to 1 GB for reuse; returns whether that worked.

    By default glibc maps each large tensor anew and the kernel clears every page: over half the cost of a frequency
    split.
    """
    if sys.platform != "linux":
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)  # other C libraries have none
    trim_threshold, mmap_threshold = -1, -3
    return mallopt is not None and bool(mallopt(mmap_threshold, 1 << 30) and mallopt(trim_threshold, (1 << 31) - 1))
