"""Keys of artefacts: hashes of everything that a result depends on."""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

# Where a change cannot alter what a plugin computes, or is covered by the protocol number.
_NOT_HASHED = (
    "abc", "builtins", "typing", "bench.contracts", "bench.errors", "bench.labels", "bench.seeds", "bench.storage",
    "bench.toolkit.precision", "bench.toolkit.progress",
)  # fmt: skip


def _counts(module: str) -> bool:
    return not any(module == name or module.startswith(f"{name}.") for name in _NOT_HASHED)


@cache
def source_hash(plugin: type[Any]) -> str:
    """sha256 of the source of a plugin, of its bases, and of the parts of `bench` that compute for it.

    Comments, docstrings, layout and imports do not count: neither tidying up nor moving a module should retrain every
    decoder. What is imported counts by its own code.
    """
    bases = {base.__module__ for base in plugin.__mro__ if _counts(base.__module__)}
    used = {getattr(value, "__module__", None) or "" for name in bases for value in vars(sys.modules[name]).values()}
    counted = {"bench", plugin.__module__.partition(".")[0]}  # the plugin's own package too, if it came in one
    modules = bases | {name for name in used if name.partition(".")[0] in counted and _counts(name)}
    return hashlib.sha256("\0".join(_code(name) for name in sorted(modules)).encode()).hexdigest()


@cache
def _code(name: str) -> str:
    """A module's code as a syntax tree, without docstrings and imports."""
    path = getattr(sys.modules[name], "__file__", None)
    if not path:
        return ""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def content_key(**parts: Any) -> str:
    """sha256 over named JSON-able parts (dataclasses included), independent of their order."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"{type(value).__name__} cannot be part of a key")

    text = json.dumps(parts, sort_keys=True, default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
