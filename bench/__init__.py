"""Veilbench measures how much of a face leaks with its stored features, and what protecting it costs."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from bench.openmp import wait_briefly

if TYPE_CHECKING:
    from bench.api import Results as Results
    from bench.api import open as open
    from bench.api import run as run

__version__ = "0.1.0"

wait_briefly()  # here, because importing any module of this package runs this file first

_INTERFACE = ("Results", "open", "run")


def __getattr__(name: str) -> Any:
    """Imports `bench.run`, `bench.open` and `bench.Results` on first use, because they need pandas."""
    if name in _INTERFACE:
        return getattr(importlib.import_module("bench.api"), name)  # by name: lower modules must not import higher ones
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """All names, including the lazy ones."""
    return sorted({*globals(), *_INTERFACE})
