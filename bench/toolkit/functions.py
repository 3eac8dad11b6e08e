"""A user's own functions, named in settings as `package.module:function` or `path/to/file.py:function`."""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.errors import UserError, near_miss
from bench.storage.files import file_hash


def find_function(place: str, setting: str) -> Callable[..., Any]:
    """What a place names: a function, a class, or anything else that can be called.

    Raises:
        UserError: nothing is there, or importing it fails; names the setting.
    """
    module, divider, name = place.rpartition(":")
    if not divider or not module or not name:
        raise UserError(f"{setting} = {place!r}: write package.module:function or path/to/file.py:function")
    try:
        found = _file_module(Path(module), setting) if module.endswith(".py") else importlib.import_module(module)
    except UserError:
        raise
    except Exception as error:
        raise UserError(f"{setting} = {place!r}: cannot be imported: {type(error).__name__}: {error}") from error
    function = getattr(found, name, None)
    if not callable(function):
        known = [key for key, value in vars(found).items() if callable(value) and not key.startswith("_")]
        raise UserError(f"{setting} = {place!r}: {module} has no {name!r}.{near_miss(name, known)}")
    return function  # type: ignore[no-any-return]


def source_file_hash(function: Callable[..., Any]) -> str:
    """sha256 of the file in which it stands; empty where there is none."""
    try:
        return file_hash(Path(inspect.getfile(function)))
    except (TypeError, OSError):
        return ""


def _file_module(path: Path, setting: str) -> Any:
    path = path.expanduser().resolve()
    if not path.is_file():
        raise UserError(f"{path}: there is no such file; set {setting} of the recogniser")
    name = f"veilbench_own_{path.stem}_{hashlib.sha256(f'{path} {file_hash(path)}'.encode()).hexdigest()[:8]}"
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, path)
        assert spec is not None and spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        try:
            spec.loader.exec_module(module)
        except Exception:
            del sys.modules[name]
            raise
    return sys.modules[name]
