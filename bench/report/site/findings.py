"""Finds what the pages of findings say about a defence: sentences in bold, with their section's heading."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.labels import family
from bench.storage.files import read_text

_SHORTEST = 60  #: characters of a sentence; shorter bold text is a term or a label

_BOLD = re.compile(r"\*\*(.+?)\*\*", re.DOTALL)
_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Finding:
    """One conclusion."""

    page: str  #: the Markdown file's name
    section: str
    said: str

    @property
    def anchor(self) -> str:
        """The section's anchor, as MkDocs makes it."""
        kept = re.sub(r"[^\w\s-]", "", self.section).strip().lower()
        return re.sub(r"[-\s]+", "-", kept)


def findings(pages: Sequence[Path], label: str) -> list[Finding]:
    """What the pages say about a defence; empty if they say nothing, or are not there.

    A section counts if its heading or a sentence names the defence; of it, every sentence in bold that does so too, or
    all of them if the heading does.
    """
    name = family(label).partition("_")[0].lower()
    found = []
    for page in pages:
        if not page.is_file():
            continue
        for part in re.split(r"^## ", read_text(page), flags=re.MULTILINE)[1:]:
            heading, _, body = part.partition("\n")
            for said in (_plain(match) for match in _BOLD.findall(body)):
                if len(said) >= _SHORTEST and (_names(heading, name) or _names(said, name)):
                    found.append(Finding(page.name, _plain(heading), said))
    return found


def _names(text: str, name: str) -> bool:
    return bool(re.search(rf"(?<![a-z]){re.escape(name)}(?![a-z])", text.lower()))


def _plain(markdown: str) -> str:
    return " ".join(_LINK.sub(r"\1", markdown).replace("`", "").replace("\\", "").split())
