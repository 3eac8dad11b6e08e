"""Renders many photographs of many people, by name, on all cores."""

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

TRAITS = ("male", "age", "skin", "glasses", "beard")  #: what `visible_traits` tells

_WORTH_PROCESSES = 400  #: number of photographs above which several processes are faster


@dataclass(frozen=True)
class Photograph:
    """A photograph to render: the person, and how it was taken."""

    group: str  #: people of different groups are different people
    person: int
    image: int
    pose: Literal["frontal", "profile"] = "frontal"
    young: bool = False  #: shown at an age of 20 to 35 years
    older: int = 0  #: years after the young image

    @property
    def subject(self) -> str:
        """The person."""
        return f"{self.group}{self.person:05d}"

    @property
    def name(self) -> str:
        """A name that is unique among photographs."""
        return f"{self.subject}/{self.image:02d}"


def develop(album: Sequence[Photograph], salt: str, size: tuple[int, int], points: Points) -> NDArray[np.uint8]:
    """Photographs (B, H, W, 3); see `render`. Another `salt` gives other people."""
    people, shots = _drawn(album, salt)
    return render(people, shots, size, points)


def visible_traits(album: Sequence[Photograph], salt: str) -> dict[str, NDArray[np.float32]]:
    """What each photograph shows, by trait, (B,).

    `male`, `glasses` and `beard` (a full beard, a moustache or a goatee; no stubble) are 0 or 1; `age` is the one
    shown, in years; `skin` is the tone, from 0 (palest) to 1 (darkest). Glasses and age belong to the photograph, the
    rest to the person.
    """
    people, shots = _drawn(album, salt)
    rows = [
        (
            person["male"],
            shot["age"],
            person["skin"],
            shot["wears_glasses"],
            max(person[kind] for kind in ("beard", "moustache", "goatee")) > 0,
        )
        for person, shot in zip(people, shots, strict=True)
    ]
    columns = np.array(rows, dtype=np.float32).reshape(len(rows), len(TRAITS)).T
    return dict(zip(TRAITS, columns, strict=True))


def _drawn(album: Sequence[Photograph], salt: str) -> tuple[list[dict[str, float]], list[dict[str, float]]]:
    """The person and the shot of each photograph."""
    drawn: dict[tuple[str, int], dict[str, float]] = {}
    people, shots = [], []
    for photo in album:
        who = (photo.group, photo.person)
        person = drawn[who] = drawn.get(who) or sample_person(salt, *who)
        age = None
        if photo.young:
            age = float(20 + derive_seed("age", salt, photo.subject) % 16 + photo.older)
        people.append(person)
        shots.append(sample_shot(person, salt, *who, photo.image, pose=photo.pose, age=age))
    return people, shots


def develop_all(
    albums: Sequence[Sequence[Photograph]], salt: str, size: tuple[int, int], points: Points
) -> Iterator[NDArray[np.uint8]]:
    """Applies `develop` to each album in turn, in single-threaded processes if there is enough work."""
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
