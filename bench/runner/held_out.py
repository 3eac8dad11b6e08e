"""Measures an attack on public faces that it did not learn from: for `veilbench audit` and `recognizer cuts --try`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from bench.contracts import FaceSet, System
from bench.errors import UserError
from bench.runner.batches import plain_batches
from bench.runner.defending import protect
from bench.runner.standalone import Parts
from bench.runner.standalone_attack import measured

HELD_OUT = 100  #: at most so many public images are measured on


def nobody(parts: Parts, names: Sequence[str] = ()) -> FaceSet:
    """Judged faces whose pixels are unknown."""
    blank = np.zeros((0, *parts.network.image_size, 3), dtype=np.uint8)
    return FaceSet(blank, np.zeros(len(names), dtype=np.int64), tuple(names), None, np.ones(len(names), dtype=bool))


def hold_out(parts: Parts, faces: FaceSet) -> tuple[FaceSet, FaceSet]:
    """Faces to learn from, and faces of other people to measure on: at most a fifth of them, and at most `HELD_OUT`.

    Raises:
        UserError: there are too few.
    """
    people = faces.subjects or faces.names
    order = parts.rng("held out").numpy().permutation(sorted(set(people)))
    wanted = min(HELD_OUT, len(faces) // 5)
    chosen: set[str] = set()
    rows: list[int] = []
    for person in order.tolist():
        if len(rows) >= wanted:
            break
        chosen.add(person)
        rows += [i for i, one in enumerate(people) if one == person]
    rest = [i for i, one in enumerate(people) if one not in chosen]
    if len(rows) < 8 or len(rest) < 16:
        raise UserError(f"{len(faces)} public faces are too few to learn from and to measure on: give 100 or more")
    return faces.subset(rest), faces.subset(sorted(rows)[:wanted])


def protected(parts: Parts, system: System, faces: FaceSet) -> NDArray[Any]:
    """The templates (N, C, h, w) that the system stores of faces."""
    stored: NDArray[Any] | None = None
    rng = parts.rng("protect", type(parts.defense).__name__)
    for batch, _, templates in protect(system, faces, faces.names, rng, None):
        if stored is None:
            stored = np.empty((len(faces), *templates.shape[1:]), dtype=system.defense.template_dtype)
        stored[batch] = templates.float().cpu().numpy()
    assert stored is not None
    return stored


def scored(
    parts: Parts, images: NDArray[np.float32], faces: FaceSet, names: Sequence[str], learning: FaceSet
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Scores of images (M, 3, H, W) against the first M faces, and their means with intervals over people.

    Args:
        names: of the faces, whatever `faces` calls them.
        learning: the attacker's faces, whose mean is the guess that the result is compared with.
    """
    some = range(len(images))
    people = faces.subjects
    owners = [f"{people[i]}/{names[i]}" if people else names[i] for i in some]
    return measured(parts, pd.DataFrame({"row": some, "name": owners}), images, faces.subset(some), learning)


def pictures(faces: FaceSet) -> NDArray[np.float32]:
    """All of them, (N, 3, H, W) in [0, 1]."""
    return np.concatenate([faces.batch(some).numpy() for some in plain_batches(len(faces))]).astype(np.float32)
