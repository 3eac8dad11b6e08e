"""A process that imports torch and the like once, and forks for every command that a test runs.

Most of a small command's time is imports. A fork is as good as a new process: it has its own folder, environment,
streams and exit status, and it imports the modules of `bench` itself.
"""

from __future__ import annotations

import atexit
import json
import os
import runpy
import signal
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

#: What takes long to import; torch's optimisers want `torch._dynamo`.
_LIBRARIES = (
    "torch", "torch._dynamo", "torchvision", "numpy", "pandas", "pyarrow.parquet", "scipy.ndimage", "scipy.stats",
    "skimage.metrics", "matplotlib.figure", "seaborn", "pydantic", "jinja2", "rich",
)  # fmt: skip


class Warm:
    """The process; started with the first command."""

    def __init__(self, environment: Mapping[str, str]) -> None:
        self._environment = dict(environment)
        self._server: subprocess.Popen[str] | None = None

    def run(
        self, arguments: Sequence[str], cwd: Path | None, environment: Mapping[str, str], timeout: int
    ) -> subprocess.CompletedProcess[str]:
        """Does what `python -m bench ARGUMENTS` does, with some variables more. Ends it after `timeout` seconds."""
        if self._server is None:
            self._server = subprocess.Popen(
                [sys.executable, str(Path(__file__).resolve())],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=self._environment,
            )  # fmt: skip
        assert self._server.stdin and self._server.stdout
        with TemporaryDirectory() as folder:
            streams = [Path(folder, name) for name in ("stdout", "stderr")]
            asked = {
                "arguments": [*arguments],
                "folder": str(cwd or Path.cwd()),
                "environment": dict(environment),
                "streams": [*map(str, streams)],
                "timeout": timeout,
            }
            self._server.stdin.write(json.dumps(asked) + "\n")
            self._server.stdin.flush()
            status = int(self._server.stdout.readline())
            return subprocess.CompletedProcess(arguments, status, *(path.read_text() for path in streams))

    def stop(self) -> None:
        """Ends the process."""
        if self._server is not None:
            self._server.communicate()


def _command(asked: Mapping[str, Any]) -> int:
    """In the fork: becomes the command; returns its exit status."""
    signal.alarm(asked["timeout"])
    os.environ.update(asked["environment"])
    os.chdir(asked["folder"])
    sys.path[0] = asked["folder"]  # as for `python -m`
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(asked["streams"], 1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    sys.argv = ["bench", *asked["arguments"]]
    try:
        runpy.run_module("bench", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        assert end.code is None or isinstance(end.code, int)
        return end.code or 0
    except BaseException:
        traceback.print_exc()
        return 1
    return 0


def _end(status: int) -> None:
    """In the fork: as at the end of a process, without a second spent on taking torch apart."""
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _serve() -> None:
    import bench  # noqa: F401 # first: it sets how torch's threads wait

    for library in _LIBRARIES:
        __import__(library)
    for line in sys.stdin:
        child = os.fork()
        if not child:
            _end(_command(json.loads(line)))
        print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)


if __name__ == "__main__":
    _serve()
