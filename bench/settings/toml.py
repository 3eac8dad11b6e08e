"""Reads `bench.toml` into frozen settings; an unknown key or name is an error that suggests the nearest one."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from bench.errors import UserError, near_miss
from bench.settings.model import CompareSettings, File, MetricSettings, RunSettings
from bench.settings.values import refuse_odd_values
from bench.storage.files import read_text, shipped

#: Settings that override the file: KEY=VALUE as on the command line, or a table by dotted names.
Overrides = Sequence[str] | Mapping[str, Any]
_DOT = re.compile(r"""\.(?=(?:[^"']|"[^"]*"|'[^']*')*$)""")  #: outside quotes


def default_path() -> Path:
    """`./bench.toml`, or the one included in the package."""
    here = Path("bench.toml")
    return here if here.is_file() else shipped("bench.toml", "bench.toml")


def tolerances(path: Path | None = None, profile: str | None = None, overrides: Overrides = ()) -> CompareSettings:
    """Only `[compare]`, so that finished runs can be compared without their data and weights.

    Raises:
        UserError: as for `load`.
    """
    return read_file(path or default_path(), profile, overrides).compare


def profiles(path: Path) -> list[str]:
    """The names of a file's profiles.

    Raises:
        UserError: the file is missing or not TOML.
    """
    return [*_raw(path).get("profile", {})]


def _raw(path: Path) -> dict[str, Any]:
    try:
        path.stat()
        return tomllib.loads(read_text(path))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); use --config to name another file") from error
    except tomllib.TOMLDecodeError as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error


def read_file(path: Path, profile: str | None, overrides: Overrides) -> File:
    """The file with its profile and overrides applied; validates every section except the plugins' own.

    Raises:
        UserError: the file or profile is missing, the file is not TOML, or a key is unknown.
    """
    raw = with_profile(path, profile)
    for section, value in raw.items():
        refuse_odd_values(value, f"{path}: {section}")
    if isinstance(overrides, Mapping):
        for key, value in overrides.items():
            refuse_odd_values(_plain(value), str(key))
            raw = overlay(raw, _nested(str(key), _plain(value)))
    else:
        for override in overrides:
            raw = overlay(raw, _parse_override(override))
    try:
        return File.model_validate(raw)
    except ValidationError as error:
        raise UserError(explained(error, path)) from error


def with_profile(path: Path, profile: str | None) -> dict[str, Any]:
    """The file's tables with those of its profile, not validated.

    Raises:
        UserError: the file or profile is missing, or the file is not TOML.
    """
    raw = _raw(path)
    known = raw.pop("profile", {})
    return raw if profile is None else overlay(raw, _profile(profile, known, path))


def named(overrides: Overrides) -> list[list[str]]:
    """The parts of the names that are overridden."""
    texts = overrides if isinstance(overrides, Mapping) else [text.partition("=")[0].strip() for text in overrides]
    return [split_name(str(text)) for text in texts]


def _profile(name: str, profiles: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A profile merged with those that it extends."""
    chain: list[dict[str, Any]] = []
    seen: list[str] = []
    following: Any = name
    while following is not None:
        if following in seen:
            raise UserError(f"{path}: profiles extend each other in a cycle: {' -> '.join([*seen, following])}")
        if following not in profiles:
            raise UserError(f"{path}: unknown profile {following!r}.{near_miss(str(following), profiles)}")
        seen.append(following)
        body = dict(profiles[following])
        following = body.pop("extends", None)
        chain.append(body)
    merged: dict[str, Any] = {}
    for body in reversed(chain):
        merged = overlay(merged, body)
    return merged


def overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Merges nested tables; the second takes precedence, and lists and values are replaced as a whole."""
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def parse_values(texts: Sequence[str], option: str) -> dict[str, Any]:
    """Values of a repeatable KEY=VALUE option as one nested table; values are TOML, or else plain strings."""
    values: dict[str, Any] = {}
    for text in texts:
        values = overlay(values, _parse_override(text, option))
    return values


def _parse_override(text: str, option: str = "--set") -> dict[str, Any]:
    """Converts `defenses.advface.epsilon=0.1` to nested tables; the value is TOML, or else a plain string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        form = "section.name.parameter=value" if option == "--set" else "name=value"
        raise UserError(f"{option} {text!r}: write it as {form}")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    refuse_odd_values(parsed, f"{option} {key.strip()}")
    return _nested(key.strip(), parsed)


def _nested(key: str, value: Any) -> dict[str, Any]:
    """Converts a dotted name and its value to nested tables; a part in quotes may have dots, as in TOML."""
    first, *rest = split_name(key)
    for name in reversed(rest):
        value = {name: value}
    return {first: value}


def split_name(key: str) -> list[str]:
    """The parts of a dotted name: attacks."resrec@enrolment".width has three."""
    parts = _DOT.split(key)
    return [part[1:-1] if len(part) > 1 and part[0] == part[-1] and part[0] in "'\"" else part for part in parts]


def _plain(value: Any) -> Any:
    """Converts values to TOML's types: paths to strings, tuples to lists."""
    if isinstance(value, Mapping):
        return {str(key): _plain(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    return str(value) if isinstance(value, Path) else value


def explained(error: ValidationError, path: Path, section: str = "", model: type[BaseModel] = File) -> str:
    """The first error as one line, with the nearest name.

    Args:
        section: the section that was validated separately, by this model.
    """
    first = error.errors()[0]
    place = [*([section] if section else []), *(str(part) for part in first["loc"])]
    if first["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {"run": RunSettings, "metrics": MetricSettings, "compare": CompareSettings}
        model = models.get(place[0], model)
        where = f"[{place[0]}] " if len(place) > 1 else ""
        return f"{path}: {where}unknown key {place[-1]!r}.{near_miss(place[-1], model.model_fields)}"
    said = str(first["ctx"]["error"]) if first["type"] == "value_error" else first["msg"].lower()  # our own as it is
    return f"{path}: {'.'.join(place)}: {said}"
