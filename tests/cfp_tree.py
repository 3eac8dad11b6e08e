"""A small data set in CFP's official layout, of pictures that show nobody."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from pictures import picture, save

NAMES = ("Ann Lee", "Bob Ray", "Cléo O'Neill", "Dan Poe", "Eve Fox")

# Half of a frontal face of 100 pixels from the eyes to the mouth, its middle at x = 100: jaw, brow, eye, nose,
# underside of the nose, corner of the mouth, lips.
_JAW = [(10 + 3 * i, 60 + 15 * i) for i in range(8)]
HALF = np.array(
    [
        *_JAW, (100, 190), (30, 30), (50, 25), (80, 30),
        (42, 50), (50, 46), (62, 46), (70, 50), (62, 54), (50, 54),
        (100, 50), (100, 70), (100, 90), (100, 110), (100, 125), (90, 122), (80, 118),
        (65, 150), (100, 145), (100, 149), (100, 158), (100, 151),
    ],
    dtype=float,
)  # fmt: skip


def written(points: np.ndarray) -> str:
    """A file of fiducial points."""
    return "\n".join(f"{x:.4g},{y:.4g}" for x, y in points)


def official(root: Path, people: int = 5, folds: int = 2) -> Path:
    """A tree of blobs in CFP's layout: two frontal photographs and one profile a person; fold k pairs 2k-1 with 2k."""
    frontal, profile = [], []
    for person in range(1, people + 1):
        for pose, count, listed in (("frontal", 2, frontal), ("profile", 1, profile)):
            for image in range(1, count + 1):
                name = f"{person:03d}/{pose}/{image:02d}"
                number = 10 * person + image + 5 * (pose == "profile")
                save(root / f"Data/Images/{name}.jpg", picture(number, (200, 240)), quality=95)
                (root / f"Data/Fiducials/{name}.txt").parent.mkdir(parents=True, exist_ok=True)
                (root / f"Data/Fiducials/{name}.txt").write_text(written(HALF))
                listed.append(f"{len(listed) + 1} ../Data/Images/{name}.jpg")
    (root / "Data/list_name.txt").write_text("\n".join(NAMES[:people]) + "\n")
    (root / "Protocol").mkdir()
    (root / "Protocol/Pair_list_F.txt").write_text("\n".join(frontal))
    (root / "Protocol/Pair_list_P.txt").write_text("\n".join(profile) + "\n")
    for fold in range(1, folds + 1):
        one, other = 2 * fold - 1, 2 * fold
        for kind, same, diff in (
            ("FP", f"{2 * one - 1},{one}\n{2 * other},{other}\n", f"{2 * one - 1},{other}\n{2 * other},{one}"),
            ("FF", f"{2 * one - 1},{2 * one}", f"{2 * one},{2 * other}"),
        ):
            folder = root / f"Protocol/Split/{kind}/{fold:02d}"
            folder.mkdir(parents=True)
            (folder / "same.txt").write_text(same)
            (folder / "diff.txt").write_text(diff)
    return root
