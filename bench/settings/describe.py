"""Describes a plugin and its parameters from its code: docstrings, types, and the `#:` comments of its fields."""

from __future__ import annotations

import ast
import dataclasses
import inspect
import re
import sys
import textwrap
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pydantic import TypeAdapter

from bench.contracts import Attack, ReplayAttack
from bench.errors import UserError
from bench.labels import Knowledge, PluginKind
from bench.settings import registry

#: Units implied by the end of a parameter's name.
_UNITS = {"_s": "seconds", "_ms": "milliseconds", "_db": "decibels", "_bytes": "bytes", "_px": "pixels"}


@dataclasses.dataclass(frozen=True)
class Parameter:
    """One parameter of a plugin; a nested one has a dotted name, as in `training.epochs`."""

    name: str
    type: str  #: "int", "float or none", "list of int"
    default: Any  #: as in JSON; null if it is required, or if null is the default
    required: bool
    choices: tuple[str | int | float | bool, ...]  #: empty: any value of its type
    unit: str  #: empty if it has none, or if the description states it
    meaning: str


@dataclasses.dataclass(frozen=True)
class Description:
    """The description of a plugin, for people and for scripts."""

    kind: PluginKind
    name: str
    summary: str  #: the summary line
    text: str  #: the whole docstring of its class
    source: str  #: its source: the first paragraph of its module's docstring
    file: str
    levels: tuple[str, ...]  #: levels of knowledge of an attack, the default first
    leaks: str  #: what an attack steals: template or embedding
    parameters: tuple[Parameter, ...]

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        return dict(TypeAdapter(Description).dump_python(self, mode="json"))


def schema() -> dict[str, Any]:
    """The JSON Schema of the output of `veilbench list --json`: a list of descriptions."""
    return TypeAdapter(list[Description]).json_schema()


def describe(kind: PluginKind, name: str, where: str = "list") -> Description:
    """Describes a plugin.

    Raises:
        UserError: there is no such plugin.
    """
    plugin = registry.find(kind, name, where)
    text = inspect.getdoc(plugin) or ""
    module = inspect.getdoc(sys.modules[plugin.__module__]) or ""
    return Description(
        kind=kind,
        name=name,
        summary=_first_sentence(text),
        text=text,
        source=module.partition("\n\n")[0].replace("\n", " "),
        file=inspect.getsourcefile(plugin) or "",
        levels=levels(plugin),
        leaks=plugin.leaks if kind == "attack" else "",
        parameters=tuple(_parameters(plugin, text)),
    )


def levels(plugin: type[Any]) -> tuple[str, ...]:
    """The levels of knowledge of an attack, the default first; none for a replay, which has another attack's."""
    if not issubclass(plugin, Attack) or issubclass(plugin, ReplayAttack):
        return ()
    try:
        default = str(registry.make(plugin, {}, plugin.__name__).level)
    except UserError:  # the level may depend on a required parameter
        return ()
    known = [f.name for f in dataclasses.fields(plugin)]
    choices = get_args(get_type_hints(plugin)["knowledge"]) if "knowledge" in known else ()
    rest = sorted({*choices} - {default}, key=lambda level: Knowledge[level.upper()].place)
    return (default, *rest)


def _first_sentence(text: str) -> str:
    line = text.partition("\n\n")[0].replace("\n", " ")
    return re.split(r"(?<=[.!?]) ", line)[0]


# ----------------------------------------------------------------------------------------------------- parameters


def _parameters(plugin: type[Any], text: str, prefix: str = "") -> list[Parameter]:
    hints, comments = get_type_hints(plugin), _comments(plugin)
    found = []
    for field in dataclasses.fields(plugin):
        hint, name = hints[field.name], f"{prefix}{field.name}"
        required = field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING
        default = None if required else _default(field)
        if dataclasses.is_dataclass(hint) and isinstance(hint, type):
            own = inspect.getdoc(hint) or ""
            nested = _parameters(hint, own, f"{name}.")
            given = {} if default is None else dataclasses.asdict(default)
            found += [dataclasses.replace(p, default=_plain(_at(given, p.name, name))) for p in nested]
            continue
        found.append(
            Parameter(
                name=name,
                type=_type(hint),
                default=_plain(default),
                required=required,
                choices=_choices(hint),
                unit=next((unit for end, unit in _UNITS.items() if field.name.endswith(end)), ""),
                meaning=comments.get(field.name) or _said_of(field.name, text),
            )
        )
    return found


def _at(values: Mapping[str, Any], name: str, prefix: str) -> Any:
    """`values["a"]["b"]` for `PREFIX.a.b`."""
    inner: Any = values
    for part in name.removeprefix(f"{prefix}.").split("."):
        inner = inner.get(part) if isinstance(inner, Mapping) else None
    return inner


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _plain(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return [_plain(inner) for inner in value]
    return value if value is None or isinstance(value, str | int | float | bool) else str(value)


def _type(hint: Any) -> str:
    """A readable name of a type."""
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Literal:
        return " or ".join(dict.fromkeys(type(choice).__name__ for choice in parts))
    if origin in (Union, types.UnionType):
        return " or ".join(dict.fromkeys(_type(part) for part in parts))
    if origin in (tuple, list):
        inner = " or ".join(dict.fromkeys(_type(part) for part in parts if part is not Ellipsis))
        return f"list of {inner}" if inner else "list"
    return {type(None): "none"}.get(hint) or str(getattr(hint, "__name__", hint))


def _choices(hint: Any) -> tuple[Any, ...]:
    if get_origin(hint) is Literal:
        return get_args(hint)
    if get_origin(hint) in (Union, types.UnionType):
        return tuple(choice for part in get_args(hint) for choice in _choices(part))
    return ()


def _comments(plugin: type[Any]) -> dict[str, str]:
    """The `#:` comments of a class's fields, on the same line or above; includes those of its bases."""
    found: dict[str, str] = {}
    for base in reversed(plugin.__mro__):
        try:
            source = textwrap.dedent(inspect.getsource(base))
        except (OSError, TypeError):
            continue
        lines = source.splitlines()
        (tree,) = ast.parse(source).body
        for node in getattr(tree, "body", ()):
            if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name) and node.end_lineno is not None:
                behind = lines[node.end_lineno - 1].encode()[node.end_col_offset :].decode().strip()
                above = []
                for line in reversed(lines[: node.lineno - 1]):
                    if not line.strip().startswith("#:"):
                        break
                    above.append(line.strip().removeprefix("#:").strip())
                said = behind.removeprefix("#:").strip() if behind.startswith("#:") else " ".join(reversed(above))
                if said:
                    found[node.target.id] = said
    return found


def _said_of(name: str, text: str) -> str:
    """The sentences of a docstring that mention a parameter in backticks."""
    sentences = re.split(r"(?<=[.!?:;]) (?=[A-Z`])", " ".join(text.split()))
    return " ".join(sentence for sentence in sentences if re.search(rf"`{re.escape(name)}\b", sentence))
