"""Why something could not be made or judged. No heavy imports: Dask workers pass these on without loading torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Failure:
    """What every cell's record says that wanted what failed."""

    reason: str
    traceback: str = ""
    status: Literal["skipped", "error"] = "error"
    fatal: bool = False  #: not this cell's alone (data, weights, disk): the run ends, and `reason` says why
