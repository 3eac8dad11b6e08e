"""Submits a run's tasks to a Dask scheduler and collects their results."""

from __future__ import annotations

import pickle
import shutil
import time
from collections.abc import Generator, Iterator
from concurrent.futures import CancelledError
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bench.errors import UserError
from bench.plan import Job, Task, every_task
from bench.runner.messages import MAX_WORKER_DEATHS, Failure, RunSpec
from bench.runner.serial import JudgedCell, missing_tasks
from bench.storage.store import Store

if TYPE_CHECKING:
    from distributed import Client, Future

_MAX_ROUNDS = 5  #: maximum resubmissions of cells because other tasks killed the workers that they waited for
_POLLING_INTERVAL_S = 0.05  #: seconds between checks for finished tasks


class Submission:
    """Submits a run's tasks to a scheduler, repeatedly until it is known which of them kill workers.

    Args:
        place: the scheduler's name in messages.
        gpu: every task needs a GPU.
    """

    def __init__(self, client: Client, place: str, spec: RunSpec, store: Store, gpu: bool) -> None:
        from bench.runner.cluster.worker import TaskProcesses

        self._client, self._place, self._store = client, place, store
        self._processes = TaskProcesses(spec)
        self._marks = Path(spec.folder, spec.marks)
        self._gpu = gpu
        self._labels: dict[str, str] = {}  #: labels of artefacts and cells, by the name of their mark
        self._round = 0
        self._killers: dict[str, Failure] = {}

    def results(self, jobs: list[Job]) -> Generator[tuple[Task | Job, JudgedCell | Failure | None]]:
        """Yields each artefact and each cell as it ends; a cell with its result.

        Dask gives up all tasks that were waiting for workers that died, so those that had not started are submitted
        again.
        """
        self._marks.mkdir(parents=True)
        try:
            with _reaching(self._place):
                _check(self._client, self._gpu)
                self._client.register_plugin(self._processes)
            while jobs:
                again = []
                for item, result in self._submitted(jobs):
                    if isinstance(item, Job) and result is None:
                        again.append(item)
                    else:
                        yield item, result
                jobs = again
                self._round += 1
        finally:
            shutil.rmtree(self._marks, ignore_errors=True)
            if self._client.status == "running":
                with suppress(OSError, TimeoutError):
                    self._client.unregister_worker_plugin(self._processes.name)  # stops running tasks

    def _submitted(self, jobs: list[Job]) -> Iterator[tuple[Task | Job, JudgedCell | Failure | None]]:
        from distributed import as_completed

        items: dict[Future[Any], Task | Job] = {}
        try:
            with _reaching(self._place):
                made: dict[str, Future[Any]] = {}
                missing = {task.key for task in missing_tasks(jobs, self._store.root)}
                # Tasks run in the order of submission: each cell directly follows what it alone waits for, so that some
                # records finish early.
                for job in jobs:
                    for task in every_task(job.needs, leave_out=lambda t: t.key in made or t.key not in missing):
                        needs = [made[need.key] for need in task.needs if need.key in made]
                        made[task.key] = self._submit(f"{task.kind}-{task.key}", task, needs)
                        items[made[task.key]] = task
                    needs = [made[need.key] for need in job.needs if need.key in made]
                    items[self._submit(f"cell-{job.key}", job, needs)] = job
                made.clear()
                finished = as_completed(list(items), loop=self._client.loop)
            while items:
                for future in finished.next_batch(block=False):
                    item = items.pop(future)
                    yield item, self._result(future) if isinstance(item, Job) else None
                if self._client.status != "running":
                    raise _lost(self._place)
                time.sleep(_POLLING_INTERVAL_S)
        finally:
            if items and self._client.status == "running":
                with suppress(OSError, TimeoutError):
                    self._client.cancel(list(items), force=True)

    def _submit(self, mark: str, item: Task | Job, needs: list[Future[Any]]) -> Future[Any]:
        from bench.runner.cluster.worker import work

        key = f"{mark}-{self._processes.spec.run}-{self._round}"
        self._labels[key] = item.label
        given_up = [self._killers[mark]] if mark in self._killers else []
        return self._client.submit(
            work,
            self._processes.name,
            mark,
            item.label,
            pickle.dumps(item),
            *given_up,
            *needs,
            key=key,
            pure=False,
            resources={"GPU": 1} if self._gpu else None,
        )

    def _result(self, future: Future[Any]) -> JudgedCell | Failure | None:
        """The result of a cell; None if it did not cause its workers' death and is to be submitted again."""
        from distributed import KilledWorker

        try:
            said = future.result()
        except KilledWorker as error:
            return self._blamed(str(error.task))
        except (CancelledError, OSError, TimeoutError) as error:
            raise _lost(self._place) from error
        except Exception as error:
            raise UserError(f"a worker cannot run this task: {type(error).__name__}: {error}") from error
        if isinstance(said, Failure):
            if said.fatal:
                raise UserError(said.reason)
            return said
        judged: JudgedCell = pickle.loads(said)
        return judged

    def _blamed(self, key: str) -> Failure | None:
        from bench.runner.cluster.worker import given_up

        mark = key.removesuffix(f"-{self._processes.spec.run}-{self._round}")
        noted = self._marks / mark
        begun = noted.stat().st_size if noted.exists() else 0
        if begun < MAX_WORKER_DEATHS and self._round < _MAX_ROUNDS:
            return None
        self._killers[mark] = given_up(self._labels[key], begun)
        return self._killers[mark]


def _check(client: Client, needs_gpu: bool) -> None:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    if needs_gpu and workers and not any(worker.get("resources", {}).get("GPU") for worker in workers):
        raise UserError("no worker offers a GPU: start them as dask worker --resources GPU=1, or set run.device = cpu")


def _lost(place: str) -> UserError:
    return UserError(f"{place}: lost the scheduler. Finished cells are kept; veilbench run resumes")


@contextmanager
def _reaching(place: str) -> Iterator[None]:
    """Converts Dask's errors about a lost connection to a one-line message."""
    try:
        yield
    except UserError:
        raise
    except (OSError, TimeoutError, CancelledError) as error:
        raise _lost(place) from error
    except Exception as error:
        raise UserError(
            f"the workers cannot take part in the run: {type(error).__name__}: {error}; install the same version there"
        ) from error
