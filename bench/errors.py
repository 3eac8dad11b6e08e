"""Errors that users see: each message says what is wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """An error that the user can correct. The message says what is wrong, where, and what to do; exit status 2."""


class DataError(UserError):
    """A file is missing, damaged, malicious or of the wrong kind."""


class NotApplicable(Exception):
    """An attack does not apply to this defence. The message says why; the cell is skipped and reported as skipped."""


class KnowledgeError(Exception):
    """An attack requested more from the oracle than its declared level of knowledge allows."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or the known names."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known) or 'none'}."
