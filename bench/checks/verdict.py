"""Runs a list of checks and reports their verdicts."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from bench.contracts import State
from bench.storage.arrays import read_state, write_state
from bench.storage.keys import content_key


class Wrong(Exception):
    """A check failed."""

    def __init__(self, expected: str, came: str, fix: str) -> None:
        super().__init__(f"expected {expected}; got {came}. {fix}")
        self.expected, self.came, self.fix = expected, came, fix


class Pointless(Exception):
    """A check does not apply; the message says why."""


@dataclass(frozen=True)
class Verdict:
    """The outcome of one check."""

    check: str
    status: Literal["passed", "failed", "skipped"]
    note: str = ""  #: figures, or why the check was skipped
    expected: str = ""
    came: str = ""
    fix: str = ""

    def __str__(self) -> str:
        if self.status != "failed":
            return f"{self.check}: {self.status}{f' ({self.note})' if self.note else ''}"
        return f"{self.check}: expected {self.expected}; got {self.came}. {self.fix}"


def work_off(checks: Iterable[tuple[str, Callable[[], str | None]]], needs: dict[str, str]) -> list[Verdict]:
    """Runs the checks and returns one verdict per check, in order.

    Args:
        checks: (name, function that returns a note or raises `Wrong` or `Pointless`).
        needs: for a check, the earlier one without which it is meaningless.
    """
    found: dict[str, Verdict] = {}
    broken: dict[str, str] = {}  # for each failed or skipped check, the check that failed first
    for name, look in checks:
        before = needs.get(name, "")
        if before in broken:
            broken[name] = broken[before]
            found[name] = Verdict(name, "skipped", f"{broken[name]!r} failed")
            continue
        try:
            found[name] = Verdict(name, "passed", look() or "")
        except Wrong as wrong:
            found[name] = Verdict(name, "failed", "", wrong.expected, wrong.came, wrong.fix)
        except Pointless as why:
            found[name] = Verdict(name, "skipped", str(why))
        except Exception as error:  # a plugin may raise any exception
            came = f"{type(error).__name__}: {error}"
            found[name] = Verdict(name, "failed", "", "no exception", came, "Make this step work on the given faces.")
        if found[name].status == "failed":
            broken[name] = name
    return list(found.values())


def failures(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """The verdicts that failed."""
    return [verdict for verdict in verdicts if verdict.status == "failed"]


def sound_parameters(plugin: Any) -> str:
    """Checks that the fields are the parameters, JSON-able, and part of the key.

    Raises:
        Wrong: they are not.
    """
    kind = type(plugin)
    parameters = getattr(kind, "__dataclass_params__", None)
    if "__dataclass_fields__" not in vars(kind) or parameters is None or not parameters.frozen:
        raise Wrong(
            "a frozen, keyword-only dataclass", f"{kind.__name__}, which is not one",
            "Decorate the class with @dataclass(frozen=True, kw_only=True).",
        )  # fmt: skip
    try:
        values = dataclasses.asdict(plugin)
        content_key(parameters=values)
        again = json.loads(json.dumps(values))
        loose = [f.name for f in dataclasses.fields(plugin) if f.init and not f.kw_only]
        if loose:
            raise TypeError(f"{loose[0]} can be given without its name: decorate with kw_only=True")
    except (TypeError, ValueError) as error:
        raise Wrong(
            "parameters that JSON can represent", str(error), "Use numbers, strings, lists, or dataclasses of these."
        ) from error
    keep_still(plugin, set(values))
    return ", ".join(again) or "no parameters"


def keep_still(plugin: Any, fields: set[str] | None = None) -> None:
    """Checks that a plugin holds nothing but its parameters.

    Raises:
        Wrong: it holds more.
    """
    fields = fields if fields is not None else {field.name for field in dataclasses.fields(plugin)}
    more = {name for name in getattr(plugin, "__dict__", {}) if name not in fields}
    if more:
        raise Wrong(
            "no attributes besides the parameters", f"also {', '.join(sorted(more))}",
            "Return what is learned as a State; the harness stores it and passes it back.",
        )  # fmt: skip


@contextmanager
def in_float32() -> Iterator[None]:
    """Disables bfloat16 within the block, because small differences in float32 may vanish in it."""
    before = os.environ.get("VEILBENCH_PRECISION")
    os.environ["VEILBENCH_PRECISION"] = "float32"
    try:
        yield
    finally:
        if before is None:
            del os.environ["VEILBENCH_PRECISION"]
        else:
            os.environ["VEILBENCH_PRECISION"] = before


def disturb_globals(seed: int) -> None:
    """Seeds the global generators, from which a plugin must not draw."""
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)


def stored_state(state: State | None) -> State | None:
    """A fitted state after the store has written and read it.

    Raises:
        Wrong: the store cannot hold it.
    """
    if state is None:
        return None
    if not isinstance(state, State):
        raise Wrong("a State or None", type(state).__name__, "Return State(tensors, info).")
    with tempfile.TemporaryDirectory() as folder:
        try:
            write_state(Path(folder), state)
        except Exception as error:
            raise Wrong(
                "a state that the store can hold", f"{type(error).__name__}: {error}",
                "Use tensors with their own memory (.clone()), and numbers and strings in info.",
            ) from error  # fmt: skip
        read = read_state(Path(folder))
        return None if read is None else State({name: value.clone() for name, value in read.tensors.items()}, read.info)
