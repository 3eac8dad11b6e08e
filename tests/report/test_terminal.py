"""The leaderboard on a terminal: it fits, and what it says can be read in black and white."""

from __future__ import annotations

import os
import pty
import re
import select
import struct
import subprocess
import sys
from fcntl import ioctl
from pathlib import Path
from termios import TIOCSWINSZ

import pytest
from rich.console import Console
from support import ENVIRONMENT, ROOT, Cli

from bench.analysis.leaderboard import leaderboard
from bench.report.terminal import verdict_table
from bench.report.text import number_text
from bench.storage.records import Run

REFERENCE = ROOT / "results" / "reference"


def on_a_terminal(*arguments: str, width: int, cwd: Path | None = None, **environment: str) -> str:
    """What `veilbench ARGS` shows on a terminal so many columns wide."""
    ours, theirs = pty.openpty()
    ioctl(theirs, TIOCSWINSZ, struct.pack("HHHH", 40, width, 0, 0))
    kept = {name: value for name, value in ENVIRONMENT.items() if name not in ("COLUMNS", "NO_COLOR", "CI")}
    process = subprocess.Popen(
        [sys.executable, "-m", "bench", *arguments], stdin=theirs, stdout=theirs, stderr=theirs, cwd=cwd,
        env={**kept, "TERM": "xterm-256color", **environment},
    )  # fmt: skip
    os.close(theirs)
    said = b""
    while True:
        ready, _, _ = select.select([ours], [], [], 120)
        assert ready, "nothing was said for two minutes"
        try:
            part = os.read(ours, 65536)
        except OSError:  # how Linux says that the other end is closed
            break
        if not part:
            break
        said += part
    os.close(ours)
    assert process.wait(timeout=30) == 0, said.decode()
    return said.decode()


def bare(text: str) -> list[str]:
    """Lines without styles."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text).replace("\r", "").splitlines()


def _strongest() -> dict[str, str]:
    """Figures of AdvFace in the reference run, as the table prints them."""
    row = leaderboard(Run(REFERENCE)).set_index("defense").loc["advface"]
    ends = (number_text(row[f"worst_ssim_{end}"], 3) for end in ("low", "high"))
    return {
        "ssim": number_text(row["worst_ssim"], 3),
        "interval": f"[{', '.join(ends)}]",
        "login": number_text(row["srra1"], 2),
    }


@pytest.mark.parametrize("width", [72, 80, 100, 120, 200])
def test_it_fits_any_usual_width(width: int) -> None:
    console = Console(width=width, record=True, file=open(os.devnull, "w"))  # noqa: SIM115
    console.print(verdict_table(leaderboard(Run(REFERENCE)), width))
    lines = console.export_text(clear=False).splitlines()
    assert max(len(line.rstrip()) for line in lines) <= width
    text = " ".join(" ".join(lines).split())
    shown = _strongest()
    for wanted in ("advface", shown["ssim"], shown["login"], "floor: a blind guess", "below the blind floor", "login"):
        assert wanted in text.replace("\N{NO-BREAK SPACE}", " ")
    assert (shown["interval"] in text) == (width >= 100), "intervals where they fit"


def test_a_terminal_gets_the_verdict_and_a_pipe_the_markdown(cli: Cli) -> None:
    shown = on_a_terminal("leaderboard", str(REFERENCE), width=80, NO_COLOR="1")
    assert f"\x1b[1m{_strongest()['ssim']}" in shown, "the best is bold also without colours"
    assert not re.search(r"\x1b\[(3|4|9)[0-9;]*m", shown), "NO_COLOR"
    lines = bare(shown)
    assert max(map(len, map(str.rstrip, lines))) <= 80 and not any("| advface |" in line for line in lines)
    piped = cli("leaderboard", str(REFERENCE)).stdout
    assert piped.startswith("## synthetic-frontal, compact\n\n| defence | ACC") and "\x1b" not in piped
    assert "| advface |" in "\n".join(bare(on_a_terminal("leaderboard", str(REFERENCE), "--format", "md", width=80)))


def test_columns_are_chosen_and_sorted(cli: Cli) -> None:
    said = cli(
        "leaderboard", str(REFERENCE), "--columns", "acc,encoder_ssim", "--sort", "encoder_ssim", "--format", "csv"
    ).stdout
    head, *rows = said.split()
    assert head == "dataset,recognizer,defense,acc,acc_low,acc_high,encoder_ssim,encoder_ssim_low,encoder_ssim_high"
    assert [row.split(",")[2] for row in rows] == ["advface", "laplace", "unprotected"]
    lines = bare(on_a_terminal("leaderboard", str(REFERENCE), "--wide", width=60))
    row = next(line for line in lines if line.startswith("laplace"))
    assert len(row) > 150, "wide is as wide as it is"
    assert "Did you mean 'acc'" in cli("leaderboard", str(REFERENCE), "--columns", "acd", status=2).stderr
    assert r"\begin{table*}" in cli("leaderboard", str(REFERENCE), "--columns", "acc", "--format", "tex").stdout
