"""Errors that users see: each message names what was wrong, where, and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class UserError(Exception):
    """Something that the user can mend. The message names what was wrong, where, and what to do; shown bare, exit 2."""


class DataError(UserError):
    """A file that is missing, damaged, hostile or of the wrong kind."""


class NotApplicable(Exception):
    """An attack has nothing to try on this defence. The message says why; the cell is skipped, and shown as that."""


class KnowledgeError(Exception):
    """An attack asked the oracle for more than its declared level of knowledge allows."""


def near_miss(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or what there is to choose from."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known) or 'none'}."
