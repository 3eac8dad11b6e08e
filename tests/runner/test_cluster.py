"""A run on Dask, with real workers on this machine: the same records, and what becomes of a run when things die."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import ENVIRONMENT, TOYS

from bench.cli.main import main
from bench.errors import UserError
from bench.runner.cluster.process import _prepared
from bench.runner.cluster.submit import Cluster, _run_spec, workers_that_fit
from bench.settings import registry
from bench.settings.resolve import load

pytest.importorskip("distributed")

SMALL = (
    *("--set", 'run.defenses=["unprotected","laplace"]'),
    *("--set", 'run.attacks=["mean_face","resrec","replay"]'),
    *("--set", "run.threads=1"),
)
RUN = [sys.executable, "-m", "bench", "run", "--quiet"]


def _troubled(*ways: str) -> tuple[str, ...]:
    """Options for a run of one defence and these troubles, the mean face among them."""
    options = ["--set", 'run.defenses=["unprotected"]', "--set", "run.threads=1"]
    labels = [f"t_{way.replace(' ', '_')}" for way in ways]
    for label, way in zip(labels, ways, strict=True):
        options += ["--set", f'attacks.{label}.plugin="{TOYS / "trouble.py"}"', "--set", f'attacks.{label}.how="{way}"']
    return (*options, "--set", f"run.attacks={json.dumps([*labels, 'mean_face'])}")


def _run(*arguments: str) -> int:
    """`veilbench run -q ARGUMENTS` without the seconds that a process of its own takes to load torch; exit status."""
    with pytest.raises(SystemExit) as ended:
        main(["run", "-q", *arguments])
    assert isinstance(ended.value.code, int)
    return ended.value.code


def _untimed(value: object) -> object:
    """Without what tells the time."""
    if not isinstance(value, dict):
        return value
    timed = ("time_s", "judging_s", "train_s", "protect_ms_per_image", "fit_s", "costs")
    return {k: _untimed(v) for k, v in value.items() if k not in timed}


def _records(folder: Path) -> dict[str, dict[str, object]]:
    """Everything that records say, but for how long things took."""
    return {path.stem: _untimed(json.loads(path.read_text())) for path in (folder / "records").glob("*.json")}  # type: ignore[misc]


def _reconstructions(folder: Path) -> dict[str, dict[str, str]]:
    return {r["cell"]["attack"]: r for r in _records(folder).values() if r["cell"]["kind"] == "reconstruction"}  # type: ignore[index, misc]


def _stored(store: Path) -> dict[str, dict[str, str]]:
    """Every artefact's files and their hashes, but for what tells the time."""
    manifests = {path.parent.name: json.loads(path.read_text())["files"] for path in store.glob("*/*/manifest.json")}
    return {key: {n: h for n, h in files.items() if n != "info.json"} for key, files in manifests.items()}


@pytest.fixture(autouse=True)
def _without_reports(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are made from records, whoever made these, and take seconds to draw."""
    monkeypatch.setattr("bench.report.write.write_reports", lambda run: None)


@contextmanager
def _scheduler(workers: int) -> Iterator[tuple[str, list[subprocess.Popen[bytes]]]]:
    """(address, [scheduler, worker, ...]) of a cluster that somebody else keeps."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"tcp://127.0.0.1:{free.getsockname()[1]}"
    dask = [sys.executable, "-m", "dask"]
    quiet = {"env": ENVIRONMENT, "stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    host = ["--host", "127.0.0.1", "--port", address.rpartition(":")[2], "--no-dashboard"]
    running = [subprocess.Popen([*dask, "scheduler", *host], **quiet)]  # type: ignore[call-overload]
    try:
        for _ in range(workers):
            command = [*dask, "worker", address, "--nthreads", "1", "--no-dashboard", "--no-nanny"]
            running.append(subprocess.Popen(command, **quiet))  # type: ignore[call-overload]
        yield address, running
    finally:
        for process in running:
            process.kill()
            process.wait()


def _until(path: Path, seconds: float = 60) -> None:
    for _ in range(int(seconds * 20)):
        if path.exists():
            return
        time.sleep(0.05)
    raise AssertionError(f"{path} never came")


def _processes(word: str, folder: Path) -> list[int]:
    """Those that run this command in this folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if word in (process / "cmdline").read_text() and (process / "cwd").resolve() == folder.resolve():
                found.append(int(process.name))
        except OSError:
            continue
    return found


def test_runs_on_workers_leave_what_a_serial_run_leaves_and_make_it_once(config: Path) -> None:
    """One in a store of its own; and two at once in a store that they share, one of them on two workers."""
    matrix = (
        *("--set", f'attacks.noted.plugin="{TOYS / "trouble.py"}"', "--set", "run.threads=1"),
        *("--set", 'run.defenses=["unprotected","laplace"]', "--set", 'run.attacks=["noted","resrec","replay"]'),
    )
    beside = subprocess.Popen(
        [*RUN, *matrix, "-o", "out/one", "--set", 'attacks.noted.notes="shared"'], env=ENVIRONMENT
    )
    assert _run(*matrix, "--workers", "2", "-o", "out/two", "--set", 'attacks.noted.notes="shared"') == 0
    assert beside.wait(timeout=120) == 0
    assert len(Path("shared").read_text().split()) == 1
    assert not list(Path("store/locks").glob("marks-*"))
    alone = ("-o", "out/serial", "--set", 'run.store="alone"', "--set", 'attacks.noted.notes="shared"')
    assert _run(*matrix, *alone) == 0
    serial = _records(Path("out/serial"))
    assert len(serial) == 8 and {record["status"] for record in serial.values()} == {"ok"}
    assert _records(Path("out/one")) == serial
    assert _records(Path("out/two")) == serial
    for name in serial:
        files = {Path("out", run, "records", f"{name}.parquet").read_bytes() for run in ("serial", "one", "two")}
        assert len(files) == 1, name
    assert _stored(Path("store")) == _stored(Path("alone"))


def test_what_hangs_or_kills_is_a_failed_record_and_the_rest_stands(config: Path) -> None:
    options = _troubled("hang", "die", "worker", "worker once")
    assert _run("--workers", "2", *options, "--set", "run.time_limit=4") == 1
    records = _reconstructions(Path("out/main"))
    assert {name: record["status"] for name, record in records.items()} == {
        "t_hang": "error",
        "t_die": "error",
        "t_worker": "error",
        "t_worker_once": "ok",
        "mean_face": "ok",
    }
    assert records["t_hang"]["reason"] == "reconstruction: unprotected x t_hang: stopped after 4 s (run.time_limit)"
    assert "its process died of signal 9 (SIGKILL)" in records["t_die"]["reason"]
    assert records["t_worker"]["reason"].endswith("given up: 3 workers died while processing it")
    assert not _processes("bench.runner.cluster.process", config.parent)


def test_a_lost_scheduler_is_one_line_and_the_run_goes_on_later(config: Path) -> None:
    options = _troubled("wait")
    records = [
        Path(f"out/main/records/{name}--seed0.json")
        for name in ("utility--blobs--tiny--unprotected", "reconstruction--blobs--tiny--unprotected--mean_face")
    ]
    with _scheduler(2) as (address, (scheduler, *_)):
        running = subprocess.Popen(
            [*RUN, *options, "--scheduler", address], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )
        for path in (*records, Path("notes-wait")):
            _until(path)
        scheduler.kill()
        _, said = running.communicate(timeout=60)
    assert running.returncode == 2, said
    assert f"veilbench: {address}: lost the scheduler." in said and "Traceback" not in said
    kept = [path.stat().st_mtime_ns for path in records]
    with _scheduler(1) as (address, _):
        assert _run(*options, "--scheduler", address) == 0
    assert len(_reconstructions(Path("out/main"))) == 2
    assert [path.stat().st_mtime_ns for path in records] == kept


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupt_keeps_what_is_finished_and_leaves_no_process(
    config: Path, number: signal.Signals, status: int
) -> None:
    running = subprocess.Popen(
        [*RUN, *_troubled("hang"), "--workers", "2"],
        env=ENVIRONMENT,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    _until(Path("out/main/records/reconstruction--blobs--tiny--unprotected--mean_face--seed0.json"))
    _until(Path("notes-hang"))
    if number == signal.SIGINT:
        os.killpg(running.pid, number)  # as a terminal does
    else:
        running.send_signal(number)  # as `kill` and a batch system do
    _, said = running.communicate(timeout=60)
    assert running.returncode in (status, -number), said
    assert "Traceback" not in said and "leaked" not in said
    assert running.returncode < 0 or "Interrupted" in said
    for _ in range(100):
        if not _processes("bench.runner.cluster.process", config.parent):
            break
        time.sleep(0.1)
    assert not _processes("bench.runner.cluster.process", config.parent)


def test_as_many_workers_as_cores_and_memory_carry(monkeypatch: pytest.MonkeyPatch) -> None:
    assert 1 <= workers_that_fit("cpu") <= torch.get_num_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    for gigabytes, workers in ((2, 1), (24, 8), (512, 64)):
        sizes = {"SC_PAGE_SIZE": 4096, "SC_PHYS_PAGES": gigabytes << 18}
        monkeypatch.setattr("os.sysconf", sizes.__getitem__)
        assert workers_that_fit("cpu") == workers


def test_a_worker_that_would_make_other_bytes_under_the_same_key_refuses(config: Path) -> None:
    """An edited `bench.toml` changes nothing; other code or another torch ends the run."""
    gone = config.with_name("gone.py")
    gone.write_text("")
    registry.load_file(gone)
    gone.unlink()
    spec = _run_spec(Cluster(workers=1), load(config))
    assert not any("gone" in name for name in spec.plugins), "a file that the settings do not name"
    config.write_text("nothing of use")
    assert _prepared(spec, lambda: None).origin["threads"] >= 1
    for what in ("torch", "precision", "the code of defenses.laplace"):
        other = replace(spec, fingerprint={**spec.fingerprint, what: "another"})
        with pytest.raises(UserError, match=rf"{what} differs from the run's \(\S+, not another\)"):
            _prepared(other, lambda: None)


def test_wrong_settings_are_one_line(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def said(*arguments: str) -> str:
        assert _run(*arguments) == 2
        return capsys.readouterr().err

    assert "'some' is neither a positive number nor auto" in said("--workers", "some")
    assert "'0' is neither" in said("--workers", "0")
    assert "choose one" in said("--workers", "1", "--scheduler", "tcp://x:1")
    assert "add --workers 1" in said("--set", "run.time_limit=5")
    monkeypatch.setattr("bench.runner.cluster.submit._CONNECT_TIMEOUT_S", 1)
    assert "tcp://127.0.0.1:9: no scheduler answers" in said("--scheduler", "tcp://127.0.0.1:9")
    assert "nonsense: no scheduler answers" in said("--scheduler", "nonsense")
    monkeypatch.setitem(sys.modules, "distributed", None)
    assert "need Dask: pip install 'veilbench[cluster]'" in said("--workers", "1")
