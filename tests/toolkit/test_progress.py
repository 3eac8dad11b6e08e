"""Progress where there is no terminal: dated lines, neither silent nor a flood; nothing at all where it is unwanted."""

from __future__ import annotations

import re
import time
from datetime import datetime
from io import StringIO

import pytest
from rich.console import Console

from bench.toolkit import progress
from bench.toolkit.progress import Advance, Lines, progress_shown, track


class _Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _lines() -> tuple[list[str], _Clock, Lines]:
    said: list[str] = []
    clock = _Clock()
    return said, clock, Lines(said.append, clock)


def test_a_line_for_what_has_ended_at_most_every_ten_seconds() -> None:
    said, clock, lines = _lines()
    for second in range(101):
        clock.now = float(second)
        lines.report(Advance(f"step {second}", second, 200, second // 2, 100))
    assert len(said) == 11
    stamp, _, rest = said[-1].partition("  ")
    assert abs((datetime.now() - datetime.fromisoformat(stamp)).total_seconds()) < 60
    assert rest == "50 of 100 cells, 100 of 200 steps, about 100 s left; step 100"


def test_something_is_said_every_minute_also_where_nothing_ends() -> None:
    said, clock, lines = _lines()
    lines.report(Advance("attack state: resrec", 0, 9, 0, 4))
    number = lines.begin("training ResRec", 400)
    for second in range(1, 301):
        clock.now = float(second)
        lines.step(number)
        lines.remind()
    lines.end(number)
    assert len(said) == 1 + 5
    assert said[-1].endswith("0 of 4 cells, 0 of 9 steps; attack state: resrec; training ResRec (300 of 400)")


def test_the_end_is_said_however_soon_it_comes() -> None:
    said, clock, lines = _lines()
    lines.report(Advance("one", 0, 2, 0, 2))
    lines.report(Advance("two", 1, 2, 1, 2))
    clock.now = 3.0
    lines.report(Advance("", 2, 2, 2, 2))
    assert [line.partition("  ")[2] for line in said][1:] == ["2 of 2 cells, 2 of 2 steps, 3 s in total"]


@pytest.fixture
def file(monkeypatch: pytest.MonkeyPatch) -> StringIO:
    for name in ("CI", "GITHUB_ACTIONS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return StringIO()


def _shown(console: Console) -> None:
    with progress_shown(console) as display:
        display.report(Advance("one", 0, 1, 0, 1))
        assert list(track(range(3), "within", 3)) == [0, 1, 2]
        display.report(Advance("one", 1, 1, 1, 1))


def test_a_file_gets_lines_without_colours_also_where_colours_are_forced(
    file: StringIO, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    _shown(Console(file=file))
    lines = file.getvalue().splitlines()
    assert len(lines) == 2 and all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \d of 1 cells", line) for line in lines)


def test_github_folds_the_lines(file: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", "true")
    with pytest.raises(KeyboardInterrupt), progress_shown(Console(file=file)):
        raise KeyboardInterrupt
    assert file.getvalue() == "::group::veilbench: progress\n::endgroup::\n"


class _Terminal(StringIO):
    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(("name", "value"), [("CI", "true"), ("TERM", "dumb")])
def test_a_terminal_that_nobody_watches_gets_lines(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv(name, value)
    file = _Terminal()
    _shown(Console(file=file, force_terminal=True))
    assert len(file.getvalue().splitlines()) == 2 and "\x1b[2K" not in file.getvalue()


def test_a_terminal_gets_bars_and_a_quiet_console_nothing(file: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    terminal = _Terminal()
    _shown(Console(file=terminal, force_terminal=True))
    assert "\x1b[2K" in terminal.getvalue(), "drawn again in one place"
    _shown(Console(file=file, quiet=True))
    assert file.getvalue() == ""


def test_the_thread_that_reminds_ends_with_the_block(file: StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "_LONGEST_S", 0.0)
    monkeypatch.setattr(progress, "_LOOK_S", 0.01)
    with progress_shown(Console(file=file)) as display:
        display.report(Advance("one", 0, 2, 0, 1))
        time.sleep(0.2)
    said = file.getvalue()
    assert said.count("0 of 1 cells") > 2
    time.sleep(0.1)
    assert file.getvalue() == said
