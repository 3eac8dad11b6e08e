"""Makes output work on consoles and in files whose encoding lacks some characters."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata

_PLAIN = {
    "↑": "^", "↓": "v", "→": "->", "←": "<-", "≥": ">=", "≤": "<=", "±": "+-", "×": "x", "–": "-", "—": "-", "…": "...",
    "·": "|", "“": '"', "”": '"', "‘": "'", "’": "'", "≈": "~", "•": "*",
}  # fmt: skip


def _plain(error: UnicodeError) -> tuple[str, int]:
    """Replacements for characters that an encoding lacks: similar ones, letters without accents, or `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    told = []
    for sign in error.object[error.start : error.end]:
        bare = unicodedata.normalize("NFKD", sign).encode("ascii", "ignore").decode()
        told.append(_PLAIN.get(sign) or bare or "?")
    return "".join(told), error.end


def write_any_text() -> None:
    """Ensures that printing never fails because of a character (`PYTHONIOENCODING=cp1252`, an old Windows console)."""
    codecs.register_error("veilbench", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "backslashreplace"):
            stream.reconfigure(errors="veilbench")
