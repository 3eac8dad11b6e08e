"""Planning and resuming large matrices, beside the least that any resume must do: read every record."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import chdir
from pathlib import Path
from typing import Any

import pytest
from support import TOYS

from bench.plan import plan
from bench.runner.serial import pending
from bench.settings.model import Settings
from bench.settings.resolve import load
from bench.storage.records import Measure, Record, Run

CONFIG = """
[run]
datasets = ["blobs"]
recognizers = ["tiny"]
defenses = {defenses}
attacks = {attacks}
canaries = false
controls = false
[metrics]
lpips = false
[datasets.blobs]
plugin = "{toys}/blobs.py"
[recognizers.tiny]
plugin = "{toys}/tiny.py"
"""


def _matrix(defenses: int, attacks: int) -> str:
    """`defenses` x (`attacks` + 1) cells: random perturbations against decoders of different widths."""
    names = {"defenses": [f"noise{i}" for i in range(defenses)], "attacks": [f"res{i}" for i in range(attacks)]}
    text = CONFIG.format(toys=TOYS, **{kind: json.dumps(found) for kind, found in names.items()})
    noises = "".join(f'[defenses.noise{i}]\nplugin = "random_noise"\n' for i in range(defenses))
    return text + noises + "".join(f'[attacks.res{i}]\nplugin = "resrec"\nwidth = {8 + i}\n' for i in range(attacks))


@pytest.fixture(scope="module", params=[(25, 39), (100, 99)], ids=["1,000 cells", "10,000 cells"])
def finished(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Settings, Run]]:
    """A matrix whose every cell has a record."""
    folder = tmp_path_factory.mktemp("matrix")
    defenses, attacks = request.param
    (folder / "bench.toml").write_text(_matrix(defenses, attacks))
    with chdir(folder):
        settings, run = load(Path("bench.toml"), None, []), Run(folder / "out")
        run.prepare()
        scores = {name: Measure(0.5, 0.4, 0.6, 200) for name in ("ssim", "psnr_db", "mse", "cosine")}
        jobs = plan(settings).jobs
        assert len(jobs) == defenses * (attacks + 1)
        for job in jobs:
            run.write(Record(cell=job.cell, key=job.key, status="ok", metrics=scores))
        yield settings, run


@pytest.mark.benchmark(group="planning and resuming")
def test_plan_and_resume(benchmark: Any, finished: tuple[Settings, Run]) -> None:
    settings, run = finished
    assert benchmark.pedantic(lambda: pending(plan(settings), run), rounds=3) == []


@pytest.mark.benchmark(group="planning and resuming")
def test_reading_the_records_alone(benchmark: Any, finished: tuple[Settings, Run]) -> None:
    _, run = finished
    paths = sorted(run.folder.glob("records/*.json"))
    benchmark.pedantic(lambda: [json.loads(path.read_bytes()) for path in paths], rounds=3)
