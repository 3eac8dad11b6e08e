"""The process in which a Dask worker makes artefacts and judges cells; it can be killed without harming the worker."""

from __future__ import annotations

import logging
import os
import pickle
import signal
import sys
import threading
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import torch

from bench import __version__
from bench.errors import UserError
from bench.plan import PROTOCOL, Job, Task
from bench.runner.messages import STARTED, Failure, RunSpec
from bench.runner.serial import Executor
from bench.settings import registry
from bench.settings.model import Settings
from bench.storage.files import ROOT
from bench.storage.keys import source_hash
from bench.storage.store import Store
from bench.toolkit.precision import pick_device, precision_name

_IDLE_TIMEOUT_S = 600  #: seconds without work after which the run is assumed to be over


def fingerprint(settings: Settings) -> dict[str, str]:
    """What keys of artefacts depend on besides the settings: the machine and the plugins' code, by description."""
    device = pick_device(settings.run.device)
    found = {
        "veilbench": __version__,
        "protocol": str(PROTOCOL),
        "torch": torch.__version__,
        "device": device.type,
        "precision": precision_name(device),
    }
    for section in ("datasets", "recognizers", "defenses", "attacks", "public"):
        for label, plugin in getattr(settings, section).items():
            found[f"the code of {section}.{label}"] = source_hash(type(plugin))  # type: ignore[arg-type]
    if settings.judge is not None:
        found["the code of run.judge"] = source_hash(type(settings.judge))
    return found


class _Announcing(Store):
    """Announces that work on an artefact begins, after any wait for another run that makes the same one."""

    def __init__(self, settings: Settings, began: Callable[[], None]) -> None:
        super().__init__(Path(settings.run.store), settings.run.mirror)
        self._began = began

    def make(self, kind: str, key: str, write: Callable[[Path], None]) -> Path:
        def announced(folder: Path) -> None:
            self._began()
            write(folder)

        return super().make(kind, key, announced)


def _prepared(spec: RunSpec, began: Callable[[], None]) -> Executor:
    """Unpickles the resolved settings of the run and checks that this machine agrees with their fingerprint."""
    for name, place in spec.plugins.items():
        sys.modules[name] = registry.load_file(ROOT / place)
    settings: Settings = pickle.loads(spec.settings)
    for what, value in fingerprint(settings).items():
        if spec.fingerprint.get(what) != value:
            wanted = spec.fingerprint.get(what)
            raise UserError(f"{what} differs from the run's ({value[:12]}, not {wanted and wanted[:12]})")
    if spec.threads is not None:
        torch.set_num_threads(spec.threads)
    return Executor(settings, _Announcing(settings, began))


def _done(executor: Executor, item: Task | Job, began: Callable[[], None]) -> Failure | bytes | None:
    if isinstance(item, Task):
        return executor.make(item)
    began()
    return pickle.dumps(executor.judge(item))


def main(descriptor: int) -> None:
    """Serves the worker until it is gone."""
    logging.basicConfig(level=logging.WARNING, format="%(message)s")
    worker: Connection[Any, Any] = Connection(descriptor)
    items: SimpleQueue[bytes] = SimpleQueue()
    spec: RunSpec = worker.recv()

    def listen() -> None:
        while True:
            try:
                items.put(worker.recv_bytes())
            except (EOFError, OSError):
                os.killpg(os.getpgrp(), signal.SIGKILL)  # the worker is gone

    def began() -> None:
        worker.send(STARTED)

    threading.Thread(target=listen, daemon=True).start()
    executor: Executor | None = None
    while True:
        try:
            item = items.get(timeout=_IDLE_TIMEOUT_S)
        except Empty:
            return
        said: Failure | bytes | None
        try:
            executor = executor or _prepared(spec, began)
            said = _done(executor, pickle.loads(item), began)
        except UserError as error:
            said = Failure(str(error), fatal=True)
        except OSError as error:
            place = f"{error.filename}: " if error.filename else ""
            said = Failure(f"{place}{error.strerror or error}", fatal=True)
        except Exception as error:
            said = Failure(f"{type(error).__name__}: {error}", fatal=True)
        worker.send(said)


if __name__ == "__main__":
    main(int(sys.argv[1]))
