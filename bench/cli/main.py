"""The command line's entry point: it reads options, calls the library and prints, and imports lazily."""

from __future__ import annotations

import atexit
import gc
import logging
import os
import signal
import sys
import threading
from types import FrameType
from typing import Any

import click
from rich.logging import RichHandler

from bench import __version__
from bench.cli.audit import audit
from bench.cli.console import write_any_text
from bench.cli.data import data
from bench.cli.figures import curve, grid, heatmap, scatter
from bench.cli.options import err
from bench.cli.paper import paper
from bench.cli.plugins import check, list_, new, show
from bench.cli.recognizer import recognizer
from bench.cli.results import compare, costs, export, leaderboard, paired, report, verify
from bench.cli.run import clean, config, plan, run
from bench.cli.site import repeat, site
from bench.cli.standalone import attack, protect
from bench.cli.train import train_recognizer
from bench.cli.trial import try_
from bench.errors import UserError, near_miss

#: Packages of the extra `run`; reading results needs none of them.
_RUN_NEEDS = {"torch", "torchvision", "facenet_pytorch", "lpips", "safetensors", "skimage"}


class _Terminated(KeyboardInterrupt):
    """Makes SIGTERM, as sent by `kill`, batch systems and containers, end a command as Ctrl-C does."""


def _terminate(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # a second signal ends the process at once
    raise _Terminated


class _Group(click.Group):
    """Turns a user's error into one line and exit status 2, an interrupt into 130, and a termination into 143."""

    def main(self, *args: Any, **kwargs: Any) -> Any:
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGTERM, _terminate)
        gc.set_threshold(20_000)  # importing torch makes many objects, all of which stay
        atexit.register(gc.freeze)  # at its end, Python would look through all of torch for garbage
        write_any_text()
        try:
            return super().main(*args, **{**kwargs, "standalone_mode": False}) or sys.exit(0)
        except UserError as error:
            err.print(f"veilbench: {error}", style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(2)
        except ModuleNotFoundError as error:
            package = (error.name or "").partition(".")[0]
            if package not in _RUN_NEEDS:
                raise
            message = f"veilbench: this command needs {package}, which is not installed: pip install 'veilbench[run]'"
            err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(2)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the reader of our output has closed it
            sys.exit(1)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            message = f"veilbench: {place}{error.strerror or error}"
            err.print(message, style="red", markup=False, highlight=False, soft_wrap=True)
            sys.exit(2)
        except (KeyboardInterrupt, click.Abort) as error:
            err.print("Interrupted. Finished cells are kept; run the same command to resume.")
            by_click = error.__cause__ or error.__context__  # the original exception; which of the two depends on click
            sys.exit(143 if isinstance(error, _Terminated) or isinstance(by_click, _Terminated) else 130)
        except click.ClickException as error:
            error.show()
            sys.exit(error.exit_code)

    def resolve_command(self, ctx: click.Context, args: list[str]) -> Any:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError:
            raise click.UsageError(f"unknown command {args[0]!r}.{near_miss(args[0], self.commands)}", ctx) from None


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="veilbench")
def main() -> None:
    """Benchmark what stored face features give away: defences crossed with attacks."""
    # Plain lines instead of boxes if output goes to a file.
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # do not report the location of its cache
    logging.basicConfig(
        level=logging.WARNING, format="%(message)s", handlers=[RichHandler(console=err, show_path=False)]
    )


_COMMANDS = (
    try_, run, plan, config, list_, show, new, check, protect, attack, audit, clean, recognizer,
    train_recognizer, paper, data, leaderboard, export, verify, compare, paired, costs, scatter, curve, heatmap, grid,
    report, site, repeat,
)  # fmt: skip
for _command in _COMMANDS:
    main.add_command(_command)
