"""Progress that any code can report without being handed a bar: the command line decides whether and how to show it."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import datetime
from typing import Protocol, TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as _TimeRemaining

from bench.durations import duration

T = TypeVar("T")

_SHORTEST_S = 10.0  #: between two lines of a log, however much ends
_LONGEST_S = 60.0  #: between two lines of a log, however little ends
_LOOK_S = 1.0  #: between looks at whether a line is due


@dataclass(frozen=True)
class Advance:
    """How far a run has come."""

    doing: str
    ended: int  #: artefacts and cells
    total: int
    cells: int  #: of these, cells
    all_cells: int
    share: float | None = None  #: of the whole effort that is behind us; None: that of what has ended


class Display(Protocol):
    """Where progress is shown."""

    def report(self, advance: Advance) -> None:
        """A run has come so far."""

    def begin(self, description: str, total: int) -> int:
        """Something of so many steps begins within that; returns its number."""

    def step(self, number: int) -> None:
        """One of its steps is done."""

    def end(self, number: int) -> None:
        """It has ended."""


_shown: ContextVar[Display | None] = ContextVar("veilbench_progress", default=None)


@contextmanager
def progress_shown(console: Console) -> Iterator[Display]:
    """While the block runs, `track` and what is yielded show progress on `console`.

    Bars with the time left on a terminal; dated lines in a file, in a pipe and where `CI` is set, folded on GitHub;
    nothing where the console is quiet.
    """
    show = _bars if _moves(console) or console.quiet else _lines
    with show(console) as display:
        token = _shown.set(display)
        try:
            yield display
        finally:
            _shown.reset(token)


def _moves(console: Console) -> bool:
    """Whether bars can be drawn again and again in one place; colours alone (FORCE_COLOR) do not make that so."""
    return console.file.isatty() and not console.is_dumb_terminal and os.environ.get("CI", "") in ("", "0", "false")


def track(steps: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yields from `steps`, showing how many of `total` are done while a `progress_shown` block is open."""
    display = _shown.get()
    if display is None:
        yield from steps
        return
    number = display.begin(description, total)
    try:
        for step in steps:
            yield step
            display.step(number)
    finally:
        display.end(number)


# ----------------------------------------------------------------------------------------------------------- bars


class _Bars:
    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._overall: TaskID | None = None

    def report(self, advance: Advance) -> None:
        if self._overall is None:
            self._overall = self._progress.add_task(advance.doing, total=advance.total)
        self._progress.update(self._overall, description=advance.doing, completed=advance.ended, total=advance.total)

    def begin(self, description: str, total: int) -> int:
        return self._progress.add_task(description, total=total)

    def step(self, number: int) -> None:
        self._progress.advance(TaskID(number))

    def end(self, number: int) -> None:
        self._progress.remove_task(TaskID(number))


@contextmanager
def _bars(console: Console) -> Iterator[_Bars]:
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        _TimeRemaining(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield _Bars(progress)


# ---------------------------------------------------------------------------------------------------------- lines


class Lines:
    """Dated lines for a log: one for what has ended, at most every ten seconds, and one a minute in any case.

    Args:
        write: takes a line.
        clock: seconds, from whenever.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._began = self._last = clock()
        self._lock = threading.Lock()
        self._advance: Advance | None = None
        self._within: dict[int, tuple[str, int, int]] = {}
        self._numbers = 0

    def report(self, advance: Advance) -> None:
        """Says so at the beginning and at the end, and else where something has ended and no line stands just above."""
        with self._lock:
            before, self._advance = self._advance, advance
            if before is None or advance.ended != before.ended:
                first_or_last = before is None or advance.ended == advance.total
                if first_or_last or self._clock() - self._last >= _SHORTEST_S:
                    self._say()

    def begin(self, description: str, total: int) -> int:
        """A line is due in a minute."""
        with self._lock:
            self._numbers += 1
            self._within[self._numbers] = (description, 0, total)
            return self._numbers

    def step(self, number: int) -> None:
        """Counts."""
        with self._lock:
            description, done, total = self._within[number]
            self._within[number] = (description, done + 1, total)

    def end(self, number: int) -> None:
        """Forgets it."""
        with self._lock:
            del self._within[number]

    def remind(self) -> None:
        """Says what goes on where nothing was said for a minute; called now and then from a thread of its own."""
        with self._lock:
            if (self._advance or self._within) and self._clock() - self._last >= _LONGEST_S:
                self._say()

    def _say(self) -> None:
        self._last = self._clock()
        parts, doing = [], ""
        if self._advance is not None:
            now = self._advance
            parts += [f"{now.cells} of {now.all_cells} cells", f"{now.ended} of {now.total} steps"]
            spent = self._last - self._began
            share = now.share if now.share is not None else now.ended / max(1, now.total)
            if share > 0 and now.ended < now.total:
                parts.append(f"about {duration(spent / share * (1 - share))} left")
            elif now.ended == now.total:
                parts.append(f"{duration(spent)} in all")
            doing = now.doing
        within = ", ".join(f"{what} ({done} of {total})" for what, done, total in self._within.values())
        said = "; ".join(part for part in (", ".join(parts), doing, within) if part)
        self._write(f"{datetime.now().isoformat(' ', 'seconds')}  {said}")


@contextmanager
def _lines(console: Console) -> Iterator[Lines]:
    def write(text: str) -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True)

    lines, over = Lines(write), threading.Event()

    def remind() -> None:
        while not over.wait(_LOOK_S):
            lines.remind()

    folded = os.environ.get("GITHUB_ACTIONS") == "true"
    reminding = threading.Thread(target=remind, daemon=True)
    if folded:
        write("::group::veilbench: progress")
    reminding.start()
    try:
        yield lines
    finally:
        over.set()
        reminding.join()
        if folded:
            write("::endgroup::")
