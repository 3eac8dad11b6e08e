"""Checks the values of settings and expands `~` and `${NAME}` in them."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from bench.errors import DataError, UserError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def refuse_odd_values(value: Any, where: str) -> None:
    """Checks that a value, with everything in it, is text, a number, true or false, a list or a table of these.

    Settings become JSON, because they are part of keys and records. TOML also has dates, times, nan and inf.

    Args:
        where: the name of the value, for the message; nested values are named by their path below it.

    Raises:
        UserError: it contains something else; says where, and what to write instead.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            refuse_odd_values(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            refuse_odd_values(inner, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} cannot be used as a number; give a finite one")
    elif value is not None and not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise UserError(f"{where}: a {kind} ({value}) is not a valid value; if it is text, put it in quotes")


def expand(value: Any, where: str) -> Any:
    """Expands `${NAME}` from the environment and a leading `~` to the home folder, in all strings of a value.

    Raises:
        DataError: a variable is not set, or a string contains a character that paths cannot have.
    """
    if isinstance(value, Mapping):
        return {key: expand(inner, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [expand(inner, where) for inner in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if not os.environ.get(name):
            raise DataError(f"{where}: the environment variable {name} is not set; {name}=FOLDER veilbench run ...")
    if "\0" in value:
        raise DataError(f"{where}: {value!r} holds a null character")
    return os.path.expanduser(_VARIABLE.sub(lambda match: os.environ[match[1]], value))
