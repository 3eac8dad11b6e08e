"""Describes a class from a prompt or notebook cell as text for a key: its source, and everything that it reads.

The key of a class in a file is made from the file. A class of a session has no file, and reads globals that may change.
So its methods are followed to the functions, classes and values that they name; anything that cannot be followed is an
error.
"""

from __future__ import annotations

import ast
import functools
import inspect
import sys
import sysconfig
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, ModuleType
from typing import Any

import numpy as np

from bench.errors import UserError

#: Attributes that `dataclass` and Python add to a class; field values are part of the key already.
_MADE = {
    "__abstractmethods__", "__annotate_func__", "__annotations__", "__annotations_cache__", "__dataclass_fields__",
    "__dataclass_params__", "__dict__", "__doc__", "__firstlineno__", "__match_args__", "__module__", "__orig_bases__",
    "__parameters__", "__qualname__", "__static_attributes__", "__weakref__", "_abc_impl",
}  # fmt: skip
_GENERATED = {"__init__", "__repr__", "__eq__", "__hash__", "__setattr__", "__delattr__", "__replace__"}
_LIBRARIES = [Path(sysconfig.get_paths()[name]).resolve() for name in ("stdlib", "platstdlib", "purelib", "platlib")]


def in_session(plugin: type[Any]) -> bool:
    """Whether a class was defined at a prompt, in a cell or in the running script, and not in an importable module."""
    return plugin.__module__ == "__main__" or _file(plugin.__module__) is None


def session_code(plugin: type[Any], module_code: Callable[[str], str]) -> str:
    """The class's code and what it reads, without comments and docstrings.

    Args:
        module_code: returns the code of a module by name; empty for modules that do not count.

    Raises:
        UserError: the source of a method is not available, or it reads a global that cannot be part of a key.
    """
    return "\n".join(_Reader(plugin.__qualname__, module_code).klass(plugin))


class _Reader:
    """Follows a class to everything of the session that it reads."""

    def __init__(self, who: str, module_code: Callable[[str], str]) -> None:
        self._who, self._module_code = who, module_code
        self._seen: set[int] = set()

    def klass(self, one: type[Any]) -> Iterator[str]:
        """Adds a class of the session, member by member."""
        if id(one) in self._seen:
            return
        self._seen.add(id(one))
        yield f"class {one.__qualname__}({', '.join(base.__name__ for base in one.__bases__)})"
        for name, value in sorted(vars(one).items()):
            if name in _MADE or (name in _GENERATED and _generated(value)):
                continue
            yield f"{name}:"
            yield from self.value(value, f"{one.__qualname__}.{name}")
        for base in one.__bases__:
            yield from self.value(base, base.__qualname__)

    def function(self, one: FunctionType, name: str) -> Iterator[str]:
        """Adds a function of the session, with its defaults and what it reads."""
        if id(one) in self._seen:
            return
        self._seen.add(id(one))
        try:
            source = textwrap.dedent(inspect.getsource(one))
        except (OSError, TypeError) as error:
            raise UserError(
                f"{self._who}: the source of {name} is not available, so an edited class could get outdated results. "
                "Define the class in a notebook's cell or in a file (defenses.NAME.plugin = 'mine.py')"
            ) from error
        read: set[tuple[str, ...]] = {(name,) for name in _names(one.__code__)}
        try:
            tree = ast.parse(source)
        except SyntaxError:  # a lambda's source is part of a statement
            yield source
        else:
            yield ast.dump(_bare(tree))
            read.update(_chains(tree))
        yield from self.value((one.__defaults__, one.__kwdefaults__), name)
        inner = dict(zip(one.__code__.co_freevars, one.__closure__ or (), strict=True))
        known = {**one.__globals__, **{n: cell.cell_contents for n, cell in inner.items() if n != "__class__"}}
        for chain in sorted(read):
            if chain[0] in known:
                found, path = known[chain[0]], chain[0]
                for attribute in chain[1:]:
                    if not isinstance(found, ModuleType) or not hasattr(found, attribute):
                        break
                    found, path = getattr(found, attribute), f"{path}.{attribute}"
                yield f"{path} ="
                yield from self.value(found, path)

    def value(self, value: Any, name: str) -> Iterator[str]:
        """Adds anything that a class holds or reads."""
        if isinstance(value, staticmethod | classmethod):
            yield from self.value(value.__func__, name)
        elif isinstance(value, property | functools.cached_property):
            for part in ("fget", "fset", "fdel", "func"):
                yield from self.value(getattr(value, part, None), name)
        elif isinstance(value, ModuleType):
            yield self._elsewhere(value.__name__, value.__name__)
        elif isinstance(value, FunctionType | type | BuiltinFunctionType):
            yield from self._named(value, name)
        elif value is None or isinstance(value, bool | int | float | complex | str | bytes | Enum):
            yield repr(value)
        elif isinstance(value, list | tuple):
            yield type(value).__name__
            for item in value:
                yield from self.value(item, name)
        elif isinstance(value, set | frozenset):
            yield from sorted("\n".join(self.value(item, name)) for item in value)
        elif isinstance(value, Mapping):
            for key, item in value.items():
                yield repr(key)
                yield from self.value(item, name)
        elif is_dataclass(value) and not isinstance(value, type):
            yield from self.value(type(value), name)
            yield from self.value({f.name: getattr(value, f.name) for f in fields(value)}, name)
        else:
            yield self._array(value, name)

    def _named(self, value: Any, name: str) -> Iterator[str]:
        """Adds a function or class of the session or of a module."""
        module = getattr(value, "__module__", None) or ""
        if isinstance(value, type) and module not in ("builtins", "typing") and in_session(value):
            yield from self.klass(value)
        elif isinstance(value, FunctionType) and (module == "__main__" or _file(module) is None):
            yield from self.function(inspect.unwrap(value), name)
        else:
            yield self._elsewhere(module, f"{module}.{getattr(value, '__qualname__', name)}")

    def _elsewhere(self, module: str, name: str) -> str:
        """Adds a library function by name, and code of the user or of this package by its source."""
        file = _file(module)
        library = module.partition(".")[0] != "bench" and _in_library(file)
        if file is None or library:
            return name
        return f"{name}\n{self._module_code(module)}"

    def _array(self, value: Any, name: str) -> str:
        try:
            array = np.asarray(value.detach().cpu() if hasattr(value, "detach") else value)
        except (TypeError, ValueError, RuntimeError):
            array = np.asarray(None)
        if array.dtype.hasobject:
            kind = type(value).__name__
            text = repr(value)
            if " at 0x" in text or len(text) > 200 or not _plain(value):
                raise UserError(
                    f"{self._who}: reads {name}, a {kind} of the session, which cannot be part of a key: make it a "
                    "parameter, build it in a method, or put the class into a file"
                )
            return text
        return f"{array.dtype} {array.shape} {array.tobytes().hex()}"


def _plain(value: Any) -> bool:
    """Whether the repr describes the value completely: types of torch and numpy, and annotations."""
    return type(value).__module__.partition(".")[0] in ("torch", "numpy", "typing", "types", "pathlib")


def _in_library(file: Path | None) -> bool:
    return file is not None and any(file.is_relative_to(folder) for folder in _LIBRARIES)


def _file(module: str) -> Path | None:
    path = getattr(sys.modules.get(module), "__file__", None)
    return Path(path).resolve() if path else None


def _generated(value: Any) -> bool:
    return not isinstance(value, FunctionType) or inspect.unwrap(value).__code__.co_filename == "<string>"


def _names(code: CodeType) -> set[str]:
    """Every global or closed-over name that a function may read, its inner functions included."""
    inner = (constant for constant in code.co_consts if isinstance(constant, CodeType))
    return {*code.co_names, *code.co_freevars}.union(*(_names(one) for one in inner))


def _chains(tree: ast.AST) -> Iterator[tuple[str, ...]]:
    """Dotted names that are read, as tuples of their parts: `torch.nn.functional.relu`."""
    for node in ast.walk(tree):
        parts: list[str] = []
        while isinstance(node, ast.Attribute):
            parts.append(node.attr)
            node = node.value
        if isinstance(node, ast.Name):
            yield (node.id, *reversed(parts))


def _bare(tree: ast.Module) -> ast.Module:
    """Removes docstrings."""
    for node in ast.walk(tree):
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return tree
