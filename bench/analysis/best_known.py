"""What others published on the same defence: other data, another recogniser; shown beside ours, never ranked."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from bench.labels import family
from bench.storage.files import shipped

_NAME = "later_adaptive_unet.csv"


@dataclass(frozen=True)
class Known:
    """One published figure."""

    ssim: float
    psnr_db: float
    source: str


@cache
def _published() -> dict[str, Known]:
    path = shipped(f"results/paper/{_NAME}", f"paper/{_NAME}")
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8", newline="") as file:
        return {
            row["defense"].lower(): Known(float(row["ssim"]), float(row["psnr_db"]), row["source"])
            for row in csv.DictReader(file)
        }


def best_known(defense: str) -> Known | None:
    """The highest published SSIM of the defence of that label: `advface`, `advface_trans` and `advface[epsilon=0.1]`
    are all AdvFace's.
    """
    base = family(defense).lower()
    return next((known for name, known in _published().items() if base == name or base.startswith(f"{name}_")), None)
