"""Published figures of the same defence, on other data and recognisers; shown beside ours, never ranked."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from functools import cache

from bench.labels import family
from bench.storage.files import shipped

_NAMES = ("later_adaptive_unet.csv", "frequency_recovery.csv")


@dataclass(frozen=True)
class Known:
    """One published figure."""

    ssim: float
    psnr_db: float
    source: str


@cache
def _published() -> dict[str, Known]:
    found: dict[str, Known] = {}
    for name in _NAMES:
        path = shipped(f"results/paper/{name}", f"paper/{name}")
        if not path.is_file():
            continue
        with path.open(encoding="utf-8", newline="") as file:
            for row in csv.DictReader(file):
                known = Known(float(row["ssim"]), float(row["psnr_db"]), row["source"])
                label = row["defense"].lower()
                if label not in found or known.ssim > found[label].ssim:
                    found[label] = known
    return found


def best_known(defense: str) -> Known | None:
    """The highest published SSIM of a label's defence: `advface`, `advface_trans` and `advface[epsilon=0.1]` are all
    AdvFace's. A variant that was published separately, such as `fracface_fixed`, has its own.
    """
    base = family(defense).lower()
    named = [name for name in _published() if base == name or base.startswith(f"{name}_")]
    return _published()[max(named, key=len)] if named else None
