"""Progress that any code can report without being handed a bar: the command line decides whether to show it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

T = TypeVar("T")

_shown: ContextVar[Progress | None] = ContextVar("veilbench_progress", default=None)


@contextmanager
def progress_shown(console: Console) -> Iterator[Progress]:
    """While the block runs, `track` and the yielded `Progress` draw bars with the time left on `console`."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=24),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        token = _shown.set(progress)
        try:
            yield progress
        finally:
            _shown.reset(token)


def track(steps: Iterable[T], description: str, total: int) -> Iterator[T]:
    """Yields from `steps`, showing a bar of `total` while a `progress_shown` block is open, and silent otherwise."""
    progress = _shown.get()
    if progress is None:
        yield from steps
        return
    task = progress.add_task(description, total=total)
    try:
        for step in steps:
            yield step
            progress.advance(task)
    finally:
        progress.remove_task(task)
