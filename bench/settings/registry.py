"""Finds plugins by name: built-in folders, files named in `bench.toml`, and entry points; only imports what is used."""

from __future__ import annotations

import ast
import dataclasses
import hashlib
import importlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, get_type_hints

from pydantic import TypeAdapter, ValidationError

from bench import contracts
from bench.errors import UserError, near_miss
from bench.labels import KINDS, PluginKind, kind_name
from bench.settings.values import refuse_odd_values
from bench.storage.files import ROOT, file_hash
from bench.storage.keys import content_key

_BASES: dict[PluginKind, type] = {
    "defense": contracts.Defense,
    "attack": contracts.Attack,
    "dataset": contracts.Dataset,
    "recognizer": contracts.Recognizer,
}
_FOLDERS: dict[PluginKind, Path] = {
    "defense": ROOT / "defenses",
    "attack": ROOT / "attacks",
    "dataset": ROOT / "bench" / "datasets",
    "recognizer": ROOT / "bench" / "recognizers",
}


def _defines_plugin(path: Path) -> bool:
    """Whether a file contains a keyword-only dataclass, as plugins are; parses it without running it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and any(word.arg == "kw_only" for word in decorator.keywords):
                    return True
    return False


@cache
def _files(kind: PluginKind) -> dict[str, Path]:
    return {path.stem: path for path in sorted(_FOLDERS[kind].glob("*.py")) if _defines_plugin(path)}


@cache
def _entry_points(kind: PluginKind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"veilbench.{_FOLDERS[kind].name}")}


def names(kind: PluginKind) -> list[str]:
    """Every plugin of a kind that can be used without a path."""
    return sorted({*_files(kind), *_entry_points(kind)})


def load_file(path: Path) -> ModuleType:
    """Loads a plugin's module under a unique name, so that a folder `attacks` in the working directory shadows nothing.

    An edited file becomes another module, because a notebook's kernel may load many versions of a plugin.
    """
    return _load_file(path, file_hash(path))


@cache
def _load_file(path: Path, digest: str) -> ModuleType:
    unique = f"veilbench_plugin_{path.stem}_{hashlib.sha256(f'{path} {digest}'.encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pydantic look up a class's module by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[unique]
        raise UserError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def is_place(name: str) -> bool:
    """Whether a plugin is given by its location, `path/to/mine.py` or `package.module:Class`, and not by its name."""
    return name.endswith(".py") or ":" in name


def find(kind: PluginKind, name: str, where: str) -> type[Any]:
    """The plugin class with this name, in this file (`path/to/mine.py`), or in a package (`package.module:Class`).

    Args:
        where: where the name is used, for the error ("bench.toml: run.defenses").

    Raises:
        UserError: there is no such plugin; suggests the nearest name.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"{where}: there is no file {name!r}")
        return _plugin_class(kind, load_file(path), str(path))
    if is_place(name):
        found = _imported(name, where)
        if not issubclass(found, _BASES[kind]):
            raise UserError(f"{where}: {name!r} is not a subclass of bench.contracts.{_BASES[kind].__name__}")
        return found
    if name in _files(kind):
        return _plugin_class(kind, load_file(_files(kind)[name]), name)
    if name in _entry_points(kind):
        found = _entry_points(kind)[name].load()
        if not (inspect.isclass(found) and issubclass(found, _BASES[kind])):
            raise UserError(
                f"{where}: entry point {name!r} is not a subclass of bench.contracts.{_BASES[kind].__name__}"
            )
        return found
    raise UserError(f"{where}: unknown {kind_name(kind)} {name!r}.{near_miss(name, names(kind))}")


def find_any(name: str, kind: PluginKind | None, where: str) -> type[Any]:
    """Like `find`, for a plugin of any kind.

    Raises:
        UserError: there is no such plugin, or several kinds have one.
    """
    return find(find_kind(name, kind, where), name, where)


def find_kind(name: str, kind: PluginKind | None, where: str) -> PluginKind:
    """The kind of a plugin given by name or location; `kind` itself if that is given.

    Raises:
        UserError: there is no such plugin, or several kinds have one.
    """
    if kind is not None:
        return kind
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"{where}: there is no file {name!r}")
        module = load_file(path)
        kinds = [k for k in KINDS if _classes(k, module)]
    elif is_place(name):
        plugin = _imported(name, where)
        kinds = [k for k in KINDS if issubclass(plugin, _BASES[k])]
    else:
        kinds = [k for k in KINDS if name in names(k)]
    if len(kinds) > 1:
        raise UserError(f"{where}: {name!r} could be {' or '.join(kinds)}: choose one with --kind")
    if not kinds and is_place(name):
        raise UserError(f"{where}: {name} contains no frozen dataclass derived from a class of bench.contracts")
    if not kinds:
        raise UserError(f"{where}: unknown plugin {name!r}.{near_miss(name, [n for k in KINDS for n in names(k)])}")
    return kinds[0]


def _imported(name: str, where: str) -> type[Any]:
    """The class of `package.module:Class`."""
    module, _, wanted = name.partition(":")
    try:
        found = importlib.import_module(module)
    except ImportError as error:
        raise UserError(f"{where}: {name!r} cannot be imported: {error}; is its package installed here?") from error
    except Exception as error:
        raise UserError(f"{where}: {name!r} cannot be imported: {type(error).__name__}: {error}") from error
    plugin = getattr(found, wanted, None)
    if not inspect.isclass(plugin):
        classes = [key for key, value in vars(found).items() if inspect.isclass(value)]
        raise UserError(f"{where}: {module} has no class {wanted!r}.{near_miss(wanted, classes)}")
    return plugin


def _plugin_class(kind: PluginKind, module: ModuleType, where: str) -> type[Any]:
    own = _classes(kind, module)
    if len(own) != 1:
        raise UserError(f"{where}: expected one {kind_name(kind)} class, found {len(own)}")
    return own[0]


def _classes(kind: PluginKind, module: ModuleType) -> list[type[Any]]:
    return [
        value
        for value in vars(module).values()
        if inspect.isclass(value)
        and issubclass(value, _BASES[kind])
        and value.__module__ == module.__name__
        and not inspect.isabstract(value)
    ]


def make(plugin: type[Any], parameters: Mapping[str, Any], where: str) -> Any:
    """An instance with validated parameters.

    Raises:
        UserError: a parameter is unknown (suggests the nearest name), has the wrong type or is out of range.
    """
    _refuse_unknown(plugin, parameters, where)
    refuse_odd_values(parameters, where)
    try:
        return TypeAdapter(plugin).validate_json(json.dumps(dict(parameters)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}{'.' + place if place else ''}: {first['msg']} (got {first['input']!r})") from error


def refuse_foreign(kind: PluginKind, plugin: Any, where: str) -> None:
    """Checks that an object is a plugin of this kind, with parameters that settings could hold.

    Raises:
        UserError: it is a class, of another kind, not a frozen dataclass, or has parameters that are not JSON-able.
    """
    if inspect.isclass(plugin):
        raise UserError(f"{where}: got a class; pass an instance: {plugin.__name__}(...)")
    if not issubclass(type(plugin), _BASES[kind]):
        base = _BASES[kind].__name__
        raise UserError(
            f"{where}: {type(plugin).__name__} is not a {kind_name(kind)}; derive it from bench.contracts.{base}"
        )
    parameters = vars(type(plugin)).get("__dataclass_params__")
    if parameters is None or not parameters.frozen:
        raise UserError(f"{where}: put @dataclass(frozen=True, kw_only=True) before class {type(plugin).__name__}")
    try:
        content_key(parameters=dataclasses.asdict(plugin))
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: a parameter cannot be stored in a key or in bench.toml: {error}") from error


def _refuse_unknown(schema: type[Any], values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(schema)
    known = {f.name for f in dataclasses.fields(schema)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: unknown parameter {name!r}.{near_miss(name, known)}")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[name]):
            _refuse_unknown(hints[name], value, f"{where}.{name}")
