"""Steps that a GPU repeats: starting their kernels one by one takes the processor longer than the GPU's own work."""

from __future__ import annotations

import logging
from collections.abc import Callable

import torch

log = logging.getLogger("veilbench")

_WARM_UP = 2  #: calls before the recording: libraries and optimisers set themselves up in the first


class Repeated:
    """A step that does the same arithmetic on the same tensors at every call, and writes its results into them.

    On CUDA the third call is recorded as a graph (`torch.cuda.CUDAGraph`), which this and all later calls replay: the
    same kernels, so the same figures. On a processor every call just runs. A step draws no random numbers, and does not
    read the results that it computes.
    """

    def __init__(self, step: Callable[[], None], device: torch.device) -> None:
        self._step, self._calls = step, 0
        # Autograd remembers the stream of its first pass: warm-up and recording share one, which is not the default.
        self._stream: torch.cuda.Stream | None = None
        if device.type == "cuda":
            self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if self._stream is None:
            self._step()
            return
        self._calls += 1
        if self._calls == _WARM_UP + 1:
            self._graph = self._recorded(self._stream)
        if self._graph is not None:
            self._graph.replay()
            return
        current = torch.cuda.current_stream(self._stream.device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            self._step()
        current.wait_stream(self._stream)

    def _recorded(self, stream: torch.cuda.Stream) -> torch.cuda.CUDAGraph | None:
        graph = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.device(stream.device), torch.cuda.graph(graph, stream=stream):
                self._step()
        except torch.OutOfMemoryError:  # a graph has memory of its own, beside what torch has cached
            log.warning("not enough memory on the GPU to record a step as a graph; it continues, more slowly")
            return None
        return graph

    def free(self) -> None:
        """Gives back the graph's memory, which other programs on the card may need."""
        if self._graph is not None:
            self._graph = None
            torch.cuda.empty_cache()
