"""Fills `reference/plugins.md` with what `veilbench list` knows, so that it cannot go out of date."""

from typing import Any

from bench.labels import KINDS, word
from bench.settings import registry


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its table of plugins, where it asks for one."""
    return markdown.replace("<!-- plugins -->", _plugins()) if "<!-- plugins -->" in markdown else markdown


def _plugins() -> str:
    parts = []
    for kind in KINDS:
        parts.append(f"## {word(kind)}s".title())
        for name in registry.names(kind):
            plugin = registry.describe(kind, name)
            fields = [f"| `{key}` | `{value}` |" for key, value in plugin.parameters.items()]
            table = "\n".join(["| parameter | default |", "|---|---|", *fields]) if fields else "No parameters."
            parts.append(f"### `{name}`\n\n{plugin.summary}\n\n{table}")
    return "\n\n".join(parts)
