"""No defence: the server stores the client's features as they are. What every attack must open first."""

from dataclasses import dataclass

from bench.contracts import Defense


@dataclass(frozen=True, kw_only=True)
class Unprotected(Defense):
    """Stores clean features."""
