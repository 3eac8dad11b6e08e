"""Many photographs of many people, by name, on all cores."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from bench.seeds import derive_seed
from bench.synthesis.render import Points, render
from bench.synthesis.traits import sample_person, sample_shot

_WORTH_PROCESSES = 400  #: photographs from which starting processes pays


@dataclass(frozen=True)
class Photograph:
    """One image to render: whose, which, and how taken."""

    group: str  #: people of different groups are different people
    person: int
    image: int
    pose: Literal["frontal", "profile"] = "frontal"
    young: bool = False  #: shown at 20 to 35 years
    older: int = 0  #: years after the young image

    @property
    def subject(self) -> str:
        """The person."""
        return f"{self.group}{self.person:05d}"

    @property
    def name(self) -> str:
        """Unique among photographs."""
        return f"{self.subject}/{self.image:02d}"


def develop(album: Sequence[Photograph], salt: str, size: tuple[int, int], points: Points) -> NDArray[np.uint8]:
    """Photographs (B, H, W, 3); see `render`. `salt` names a world of other people altogether."""
    people = [sample_person(salt, photo.group, photo.person) for photo in album]
    shots = []
    for photo, person in zip(album, people, strict=True):
        age = None
        if photo.young:
            age = float(20 + derive_seed("age", salt, photo.subject) % 16 + photo.older)
        names = (salt, photo.group, photo.person, photo.image)
        shots.append(sample_shot(person, *names, pose=photo.pose, age=age))
    return render(people, shots, size, points)


def develop_all(
    albums: Sequence[Sequence[Photograph]], salt: str, size: tuple[int, int], points: Points
) -> Iterator[NDArray[np.uint8]]:
    """`develop` of each album in turn; in processes of one thread each where there is enough to do."""
    rest = ([salt] * len(albums), [size] * len(albums), [points] * len(albums))
    if sum(map(len, albums)) < _WORTH_PROCESSES:
        yield from map(develop, albums, *rest)
        return
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    pool = ProcessPoolExecutor(cores, multiprocessing.get_context("spawn"), torch.set_num_threads, (1,))
    try:
        yield from pool.map(develop, albums, *rest)
    finally:
        pool.shutdown(cancel_futures=True)
