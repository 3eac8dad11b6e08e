"""Progress reports from anywhere in the code, without passing a bar around; the command line displays them."""

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

_SHORTEST_S = 10.0  #: minimum seconds between two lines of a log
_LONGEST_S = 60.0  #: maximum seconds between two lines of a log
_LOOK_S = 1.0  #: seconds between checks whether a line is due


@dataclass(frozen=True)
class Advance:
    """The progress of a run."""

    doing: str
    ended: int  #: finished artefacts and cells
    total: int
    cells: int  #: finished cells
    all_cells: int
    share: float | None = None  #: finished share of the estimated effort; None: the share of finished items


class Display(Protocol):
    """A display of progress."""

    def report(self, advance: Advance) -> None:
        """Shows the run's current progress."""

    def begin(self, description: str, total: int) -> int:
        """Starts a nested task with so many steps; returns its number."""

    def step(self, number: int) -> None:
        """Counts one step of a nested task."""

    def end(self, number: int) -> None:
        """Ends a nested task."""


_shown: ContextVar[Display | None] = ContextVar("veilbench_progress", default=None)


@contextmanager
def progress_shown(console: Console) -> Iterator[Display]:
    """Within the block, `track` and the yielded object show progress on `console`.

    Shows bars with the remaining time on a terminal; dated lines in a file, in a pipe and if `CI` is set (folded on
    GitHub); nothing if the console is quiet.
    """
    show = _bars if _moves(console) or console.quiet else _lines
    with show(console) as display:
        token = _shown.set(display)
        try:
            yield display
        finally:
            _shown.reset(token)


def _moves(console: Console) -> bool:
    """Whether bars can be redrawn in place; forced colours (FORCE_COLOR) do not imply that."""
    return console.file.isatty() and not console.is_dumb_terminal and os.environ.get("CI", "") in ("", "0", "false")


def track(steps: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yields from `steps` and shows how many of `total` are done, while a `progress_shown` block is active."""
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
    """Dated lines for a log: for finished items at most every ten seconds, and in any case one per minute.

    Args:
        write: takes a line.
        clock: returns seconds from any origin.
    """

    def __init__(self, write: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._write, self._clock = write, clock
        self._began = self._last = clock()
        self._lock = threading.Lock()
        self._advance: Advance | None = None
        self._within: dict[int, tuple[str, int, int]] = {}
        self._numbers = 0

    def report(self, advance: Advance) -> None:
        """Writes a line at the start and at the end, and for finished items unless the last line is recent."""
        with self._lock:
            before, self._advance = self._advance, advance
            if before is None or advance.ended != before.ended:
                first_or_last = before is None or advance.ended == advance.total
                if first_or_last or self._clock() - self._last >= _SHORTEST_S:
                    self._say()

    def begin(self, description: str, total: int) -> int:
        """Registers a nested task; its first line is due in a minute."""
        with self._lock:
            self._numbers += 1
            self._within[self._numbers] = (description, 0, total)
            return self._numbers

    def step(self, number: int) -> None:
        """Counts a step."""
        with self._lock:
            description, done, total = self._within[number]
            self._within[number] = (description, done + 1, total)

    def end(self, number: int) -> None:
        """Removes a nested task."""
        with self._lock:
            del self._within[number]

    def remind(self) -> None:
        """Writes the current state after a minute of silence; called periodically from a thread."""
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
                parts.append(f"{duration(spent)} in total")
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
