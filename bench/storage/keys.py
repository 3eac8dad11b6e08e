"""Keys of artefacts: hashes of everything that a result depends on."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import sys
from dataclasses import asdict, is_dataclass
from functools import cache
from pathlib import Path
from typing import Any

from bench.storage.session import in_session, session_code

# Modules whose changes cannot affect a plugin's results, or are covered by the protocol number.
_NOT_HASHED = (
    "abc", "builtins", "typing", "bench.contracts", "bench.errors", "bench.labels", "bench.seeds", "bench.storage",
    "bench.toolkit.precision", "bench.toolkit.progress",
)  # fmt: skip


def _counts(module: str) -> bool:
    return not any(module == name or module.startswith(f"{name}.") for name in _NOT_HASHED)


def source_hash(plugin: type[Any]) -> str:
    """sha256 of the source of a plugin, of its bases, and of the parts of `bench` that they use.

    Comments, docstrings, layout and imports do not count, so that neither tidying up nor moving a module retrains every
    decoder. Imported code counts by its own source. A class defined in a notebook counts by its own source and by what
    it reads.

    Raises:
        UserError: its source is not available.
    """
    counted_bases = [base for base in plugin.__mro__ if _counts(base.__module__)]
    bases = {base.__module__ for base in counted_bases if not in_session(base)}
    used = {getattr(value, "__module__", None) or "" for name in bases for value in vars(sys.modules[name]).values()}
    counted = {"bench", *(name.partition(".")[0] for name in bases & {plugin.__module__})}  # and a plugin's own package
    modules = bases | {name for name in used if name.partition(".")[0] in counted and _counts(name)}
    own = tuple(session_code(base, _counted_code) for base in counted_bases if in_session(base))
    return _joined(tuple((name, _stamp(name)) for name in sorted(modules)), own)


@cache
def _joined(modules: tuple[tuple[str, object], ...], own: tuple[str, ...]) -> str:
    return hashlib.sha256("\0".join([*(_code(name, stamp) for name, stamp in modules), *own]).encode()).hexdigest()


def _stamp(name: str) -> object:
    """Changes when a module's file changes, because a session may load many versions of an edited file."""
    path = getattr(sys.modules.get(name), "__file__", None)
    if not path:
        return None
    about = os.stat(path)
    return about.st_mtime_ns, about.st_size


def _counted_code(name: str) -> str:
    return _code(name, _stamp(name)) if _counts(name) else ""


@cache
def _code(name: str, _: object) -> str:
    """A module's code as a syntax tree, without docstrings and imports."""
    path = getattr(sys.modules[name], "__file__", None)
    if not path:
        return ""
    tree = ast.parse(Path(path).read_bytes())
    tree.body = [node for node in tree.body if not isinstance(node, ast.Import | ast.ImportFrom)]
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


def content_key(**parts: Any) -> str:
    """sha256 of named JSON-able parts (dataclasses included), independent of their order."""

    def plain(value: Any) -> Any:
        if is_dataclass(value) and not isinstance(value, type):
            return asdict(value)
        raise TypeError(f"{type(value).__name__} cannot be part of a key")

    text = json.dumps(parts, sort_keys=True, default=plain, allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()
