"""What tests share: a matrix that runs in seconds on toy plugins, and how a run's figures are compared."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path

from click.testing import CliRunner, Result
from PIL import Image
from toys.blobs import draw

from bench.cli import main

TOYS = Path(__file__).parent / "toys"
ROOT = TOYS.parent.parent

# Small jobs gain nothing from threads, and test processes that run side by side lose much to them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# What a user put on PYTHONPATH stays there, behind the code under test.
ENVIRONMENT = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))}

Cli = Callable[..., "subprocess.CompletedProcess[str]"]

CONFIG = f"""
[run]
datasets = ["blobs"]
recognizers = ["tiny"]
defenses = ["unprotected", "laplace", "advface"]
attacks = ["mean_face", "resrec", "replay"]
output = "out/main"
store = "store"
cache = "cache"

[metrics]
lpips = false
bootstrap = 100

[training]
epochs = 2

[datasets.blobs]
plugin = "{TOYS / "blobs.py"}"

[recognizers.tiny]
plugin = "{TOYS / "tiny.py"}"

[defenses.advface]
iterations = 2
batch = 8
width = 8

[attacks.mean_face]
plugin = "blind"

[attacks.resrec]
width = 8

[attacks.replay]
attack = "resrec"
"""


def invoke(*arguments: str, status: int = 0) -> Result:
    """Runs `veilbench ARGUMENTS` in this process; checks the exit status."""
    done = CliRunner().invoke(main, [*arguments])
    assert done.exit_code == status, f"{done.output}\n{done.exception!r}"
    return done


def write_people(folder: Path, people: Iterable[int], images: int = 2) -> Path:
    """FOLDER/pNUMBER/IMAGE.png of blobs, of the size that the recogniser `tiny` takes; returns the folder."""
    for person in people:
        for image in range(images):
            path = folder / f"p{person}" / f"{image}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(draw(person, image, (24, 20))).save(path)
    return folder


def figures(folder: Path) -> dict[str, object]:
    """What a run's records say, without when and where: name to (status, key, metrics, noise)."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        raw = json.loads(path.read_text())
        found[path.stem] = {name: raw[name] for name in ("status", "key", "metrics", "noise", "flags", "parameters")}
    return found
