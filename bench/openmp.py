"""Stops torch's idle threads from spinning, because other programs usually share the machine.

An OpenMP thread that waits for others spins for a while before it sleeps. On an otherwise idle machine that saves
little; beside another program it takes the core from the thread that it waits for. Each OpenMP runtime reads its own
variable once, when it is loaded. So these are set before torch is imported, and later processes inherit them.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import MutableMapping

#: libgomp (torch on Linux): loop iterations before a thread sleeps, by default about 300,000; the runtime of LLVM and
#: Intel (torch on macOS, conda): milliseconds, by default 200. See `tests/benchmarks/test_company.py`.
SHORT_WAIT = {"GOMP_SPINCOUNT": "1000", "KMP_BLOCKTIME": "0"}
_VARIABLES = (*SHORT_WAIT, "OMP_WAIT_POLICY")

_late = False
_said = False


def wait_briefly(environment: MutableMapping[str, str] | None = None) -> None:
    """Sets these variables unless the user set any of them; too late for this process if torch is already imported."""
    global _late
    environment = os.environ if environment is None else environment
    if not any(name in environment for name in _VARIABLES):
        _late = "torch" in sys.modules
        environment.update(SHORT_WAIT)


def in_force() -> str:
    """How this process's threads wait, for the record."""
    if _late:
        return "torch's own: it was imported before bench"
    return " ".join(f"{name}={os.environ[name]}" for name in _VARIABLES if name in os.environ)


def warn_if_late() -> None:
    """Warns once that torch was imported too early, where it matters."""
    global _said
    if _late and not _said:
        wanted = " ".join(f"{name}={value}" for name, value in SHORT_WAIT.items())
        logging.getLogger(__name__).warning(
            "torch was imported before bench: beside other programs its threads will spin while they wait, which can "
            "make a run many times slower. Import bench first, or set %s in the environment.",
            wanted,
        )
        _said = True
