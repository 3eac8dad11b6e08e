"""Values of settings: what they may be, and what stands for something else in them (`~`, `${NAME}`)."""

from __future__ import annotations

import math
import os
import re
from collections.abc import Mapping
from typing import Any

from bench.errors import DataError, UserError

_VARIABLE = re.compile(r"\$\{(\w+)\}")


def refuse_odd_values(value: Any, where: str) -> None:
    """Sees that a value, and all within it, is text, a number, true or false, a list or a table of such.

    Settings become JSON: they are part of keys and stand in records. TOML knows dates, times, nan and inf besides.

    Args:
        where: what the value is called, for the message; what lies within is named by its place below.

    Raises:
        UserError: it holds something else; names the place and what to write instead.
    """
    if isinstance(value, Mapping):
        for key, inner in value.items():
            refuse_odd_values(inner, f"{where}.{key}")
    elif isinstance(value, list | tuple):
        for index, inner in enumerate(value):
            refuse_odd_values(inner, f"{where}[{index}]")
    elif isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: {value} is no number to calculate with; give a finite one")
    elif value is not None and not isinstance(value, str | int | float):
        kind = type(value).__name__
        raise UserError(f"{where}: a {kind} ({value}) is no value of a setting; if it is text, put it in quotes")


def expand(value: Any, where: str) -> Any:
    """`${NAME}` in strings, from the environment, and a leading `~`, the home folder; in all that a table holds.

    Raises:
        DataError: a variable is not set, or a string holds a character that no path has.
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
