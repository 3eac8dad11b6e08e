"""Fills `reference/plugins.md` with what `veilbench list` knows, so that it cannot go out of date."""

import json
from typing import Any

from bench.labels import KINDS, kind_name
from bench.settings import registry
from bench.settings.describe import describe


def on_page_markdown(markdown: str, **_: Any) -> str:
    """The page with its table of plugins, where it asks for one."""
    return markdown.replace("<!-- plugins -->", _plugins()) if "<!-- plugins -->" in markdown else markdown


def _plugins() -> str:
    parts = []
    for kind in KINDS:
        parts.append(f"## {kind_name(kind)}s".title())
        for name in registry.names(kind):
            plugin = describe(kind, name)
            rows = [
                f"| `{p.name}` | {'required' if p.required else f'`{json.dumps(p.default, ensure_ascii=False)}`'} "
                f"| {_cell(' or '.join(map(str, p.choices)) or p.type)} | {_cell(p.meaning)} |"
                for p in plugin.parameters
            ]
            head = ["| parameter | default | values | meaning |", "|---|---|---|---|"]
            table = "\n".join([*head, *rows]) if rows else "No parameters."
            levels = f"\n\nLevels of knowledge: {', '.join(plugin.levels)}." if plugin.levels else ""
            parts.append(f"### `{name}`\n\n{plugin.source}\n\n{plugin.summary}{levels}\n\n{table}")
    return "\n\n".join(parts)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
