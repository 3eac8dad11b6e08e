"""What tests share: a matrix that runs in seconds on toy plugins, and how a run's figures are compared."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

TOYS = Path(__file__).parent / "toys"
ROOT = TOYS.parent.parent

# Small jobs gain nothing from threads, and test processes that run side by side lose much to them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}

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


def figures(folder: Path) -> dict[str, object]:
    """What a run's records say, without when and where: name to (status, key, metrics, noise)."""
    found = {}
    for path in sorted((folder / "records").glob("*.json")):
        raw = json.loads(path.read_text())
        found[path.stem] = {name: raw[name] for name in ("status", "key", "metrics", "noise", "flags", "parameters")}
    return found
