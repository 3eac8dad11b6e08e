"""Name to plugin: built-in folders, files named in `bench.toml`, entry points. Nothing is imported unused."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import hashlib
import importlib.util
import inspect
import json
import sys
from collections.abc import Iterable, Mapping
from functools import cache
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter, ValidationError

from bench import contracts
from bench.contracts import UserError

Kind = Literal["defense", "attack", "dataset", "recognizer"]

KINDS: tuple[Kind, ...] = ("defense", "attack", "dataset", "recognizer")

_BASES: dict[Kind, type] = {
    "defense": contracts.Defense,
    "attack": contracts.Attack,
    "dataset": contracts.Dataset,
    "recognizer": contracts.Recognizer,
}
_ROOT = Path(__file__).resolve().parent
_FOLDERS: dict[Kind, Path] = {
    "defense": _ROOT.parent / "defenses",
    "attack": _ROOT.parent / "attacks",
    "dataset": _ROOT / "datasets",
    "recognizer": _ROOT / "recognizers",
}
_WORDS: dict[Kind, str] = {"defense": "defence", "attack": "attack", "dataset": "dataset", "recognizer": "recogniser"}


def word(kind: Kind) -> str:
    """What to call a kind in prose."""
    return _WORDS[kind]


def near_miss(name: str, known: Iterable[str]) -> str:
    """ " Did you mean 'x'?", or what there is to choose from."""
    known = sorted(known)
    close = difflib.get_close_matches(name, known, 1)
    return f" Did you mean {close[0]!r}?" if close else f" Known: {', '.join(known) or 'none'}."


def _defines_plugin(path: Path) -> bool:
    """Whether a file has a keyword-only dataclass, which is what plugins are; read without running it."""
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
            for decorator in node.decorator_list:
                if isinstance(decorator, ast.Call) and any(word.arg == "kw_only" for word in decorator.keywords):
                    return True
    return False


@cache
def _files(kind: Kind) -> dict[str, Path]:
    return {path.stem: path for path in sorted(_FOLDERS[kind].glob("*.py")) if _defines_plugin(path)}


@cache
def _entry_points(kind: Kind) -> dict[str, EntryPoint]:
    return {point.name: point for point in entry_points(group=f"veilbench.{_FOLDERS[kind].name}")}


def names(kind: Kind) -> list[str]:
    """Every plugin of a kind that needs no path."""
    return sorted({*_files(kind), *_entry_points(kind)})


@cache
def load_file(path: Path) -> ModuleType:
    """A plugin's module, under a name of its own: a folder `attacks` where the user stands must not shadow ours."""
    unique = f"veilbench_plugin_{path.stem}_{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
    spec = importlib.util.spec_from_file_location(unique, path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[unique] = module  # dataclasses and pydantic look a class's module up by name
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[unique]
        raise UserError(f"{path}: cannot be loaded: {type(error).__name__}: {error}") from error
    return module


def find(kind: Kind, name: str, where: str) -> type[Any]:
    """The plugin class of that name, or in that file (`path/to/mine.py`).

    Args:
        where: what named it, for the error ("bench.toml: run.defenses").

    Raises:
        UserError: no such plugin; says the near miss.
    """
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"{where}: there is no file {name!r}")
        return _plugin_class(kind, load_file(path), str(path))
    if name in _files(kind):
        return _plugin_class(kind, load_file(_files(kind)[name]), name)
    if name in _entry_points(kind):
        found = _entry_points(kind)[name].load()
        if not (inspect.isclass(found) and issubclass(found, _BASES[kind])):
            raise UserError(
                f"{where}: entry point {name!r} is not a subclass of bench.contracts.{_BASES[kind].__name__}"
            )
        return found
    raise UserError(f"{where}: unknown {_WORDS[kind]} {name!r}.{near_miss(name, names(kind))}")


def find_any(name: str, kind: Kind | None, where: str) -> type[Any]:
    """As `find`, for a plugin of whatever kind has that name, or is in that file.

    Raises:
        UserError: no such plugin, or several kinds have one.
    """
    if kind is not None:
        return find(kind, name, where)
    if name.endswith(".py"):
        path = Path(name).expanduser().resolve()
        if not path.is_file():
            raise UserError(f"{where}: there is no file {name!r}")
        module = load_file(path)
        kinds = [k for k in KINDS if _classes(k, module)]
    else:
        kinds = [k for k in KINDS if name in names(k)]
    if len(kinds) > 1:
        raise UserError(f"{where}: {name!r} could be {' or '.join(kinds)}: say which by --kind")
    if not kinds and name.endswith(".py"):
        raise UserError(f"{where}: {name} holds no frozen dataclass derived from a class of bench.contracts")
    if not kinds:
        raise UserError(f"{where}: unknown plugin {name!r}.{near_miss(name, [n for k in KINDS for n in names(k)])}")
    return find(kinds[0], name, where)


def _plugin_class(kind: Kind, module: ModuleType, where: str) -> type[Any]:
    own = _classes(kind, module)
    if len(own) != 1:
        raise UserError(f"{where}: expected one {_WORDS[kind]} class, found {len(own)}")
    return own[0]


def _classes(kind: Kind, module: ModuleType) -> list[type[Any]]:
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
        UserError: an unknown parameter (with its near miss), or a value of the wrong type or out of range.
    """
    _refuse_unknown(plugin, parameters, where)
    try:
        return TypeAdapter(plugin).validate_json(json.dumps(dict(parameters)), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}{'.' + place if place else ''}: {first['msg']} (got {first['input']!r})") from error


@dataclasses.dataclass(frozen=True)
class Description:
    """A plugin, for people."""

    summary: str
    parameters: Mapping[str, str]  #: name to default, as Python writes it

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return {"summary": self.summary, "parameters": dict(self.parameters)}


def describe(kind: Kind, name: str) -> Description:
    """What a plugin is and takes."""
    plugin = find(kind, name, "list")
    parameters = {
        f.name: "(required)" if f.default is dataclasses.MISSING else repr(f.default)
        for f in dataclasses.fields(plugin)
    }
    return Description((inspect.getdoc(plugin) or "").partition("\n")[0], parameters)


def _refuse_unknown(schema: type[Any], values: Mapping[str, Any], where: str) -> None:
    hints = get_type_hints(schema)
    known = {f.name for f in dataclasses.fields(schema)}
    for name, value in values.items():
        if name not in known:
            raise UserError(f"{where}: unknown parameter {name!r}.{near_miss(name, known)}")
        if isinstance(value, Mapping) and dataclasses.is_dataclass(hints[name]):
            _refuse_unknown(hints[name], value, f"{where}.{name}")


# Where a change cannot alter what a plugin computes, or is covered by the protocol number.
_NOT_HASHED = {
    "abc", "builtins", "typing", "bench.contracts", "bench.oracle", "bench.precision", "bench.progress",
    "bench.recognizers.weights", "bench.records", "bench.seeds", "bench.store",
}  # fmt: skip


@cache
def source_hash(plugin: type[Any]) -> str:
    """sha256 of the source of a plugin, of its bases, and of the parts of `bench` that compute for it.

    Comments, docstrings and layout do not count: tidying up should not retrain every decoder.
    """
    bases = {base.__module__ for base in plugin.__mro__} - _NOT_HASHED
    used = {getattr(value, "__module__", None) or "" for name in bases for value in vars(sys.modules[name]).values()}
    counted = {"bench", plugin.__module__.partition(".")[0]}  # the plugin's own package too, if it came in one
    modules = bases | {name for name in used if name.partition(".")[0] in counted} - _NOT_HASHED
    return hashlib.sha256("\0".join(_code(name) for name in sorted(modules)).encode()).hexdigest()


@cache
def _code(name: str) -> str:
    """A module's code as a syntax tree, without docstrings."""
    path = getattr(sys.modules[name], "__file__", None)
    if not path:
        return ""
    tree = ast.parse(Path(path).read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
