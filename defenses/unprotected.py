"""No defence: the server stores clean features. Every attack must succeed here first."""

from dataclasses import dataclass

from bench.contracts import Defense


@dataclass(frozen=True, kw_only=True)
class Unprotected(Defense):
    """Stores clean features."""
