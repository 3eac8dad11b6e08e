"""Measures what steps of a defence take on the device."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch


class Clock:
    """Seconds by step; waits for the device before and after, so that a step pays for its own work only."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[str, float] = {}

    @contextmanager
    def time(self, step: str) -> Iterator[None]:
        """Adds the duration of the block to the step's, unless it fails."""
        self._wait()
        started = time.perf_counter()
        yield
        self._wait()
        self._seconds[step] = self._seconds.get(step, 0.0) + time.perf_counter() - started

    def ms_each(self, step: str, count: int) -> float:
        """Milliseconds of a step for each of `count` images."""
        return round(1000 * self._seconds.get(step, 0.0) / max(1, count), 4)

    def _wait(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)
