"""Scores rebuilt images one by one: by their pixels, by the attacked recogniser, and by the judge's."""

from __future__ import annotations

import hashlib
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray

from bench.metrics.image import image_scores
from bench.metrics.perceptual import Lpips, Unavailable
from bench.plan import Job
from bench.runner import artefacts
from bench.runner.context import LoadedScene, RunContext
from bench.runner.second_recognizer import KnownFaces, SecondRecognizer
from bench.storage.arrays import Rows
from bench.toolkit.progress import track

_BATCH = 50
_REMEMBERED = 256  #: number of sets of images whose scores are remembered


def owners_of(loaded: LoadedScene) -> NDArray[np.object_]:
    """The person that each test image shows; each unknown person counts as a different one."""
    return np.array(loaded.test.subjects or loaded.test.names, dtype=object)


class ImageScorer:
    """Scores reconstructions. Many cells have the same ones, which are scored once per process.

    Blind guesses do not depend on the defence, and defences with the same templates give an attack the same pictures.
    """

    def __init__(self, context: RunContext) -> None:
        self._context = context
        self._known: dict[str, KnownFaces] = {}
        self._scored: dict[tuple[str, ...], tuple[pd.DataFrame, float | None]] = {}

    @cached_property
    def lpips(self) -> Lpips | Unavailable:
        """The perceptual metric, or why there is none."""
        metrics = self._context.settings.metrics
        if not metrics.lpips:
            return Unavailable("switched off: metrics.lpips")
        backbone = Path(metrics.lpips_backbone) if metrics.lpips_backbone else None
        return Lpips.load(backbone, device=self._context.device, download=metrics.lpips_download)

    def second(self, job: Job, loaded: LoadedScene) -> tuple[SecondRecognizer, KnownFaces] | None:
        """The recogniser of `run.judge` and the test images as it sees them, if there is one."""
        task = job.need("judge_identity")
        if task is None:
            return None
        if task.key not in self._known:
            self._known[task.key] = KnownFaces(*artefacts.read_judged(self._context.ready(task)), owners_of(loaded))
        return self._context.judge(job.scene), self._known[task.key]

    def scores(
        self, job: Job, loaded: LoadedScene, images: Rows, rows: NDArray[np.int64]
    ) -> tuple[pd.DataFrame, float | None]:
        """One row per image, and the mean of `judge_cosine` if each original replaced its reconstruction.

        Args:
            images: (M, 3, H, W), the reconstructions.
            rows: (M,), the test images that they rebuild.
        """
        identity, judge_identity = job.need("identity"), job.need("judge_identity")
        compared = tuple(task.key if task else "" for task in (identity, judge_identity))
        content = hashlib.blake2b(rows.tobytes())
        for start in range(0, len(rows), _BATCH):
            content.update(images[start : start + _BATCH].tobytes())
        key = (*compared, content.hexdigest())
        if key not in self._scored:
            if len(self._scored) == _REMEMBERED:
                del self._scored[next(iter(self._scored))]
            self._scored[key] = self._score(job, loaded, images, rows)
        table, original = self._scored[key]
        return table.copy(), original

    def _score(
        self, job: Job, loaded: LoadedScene, images: Rows, rows: NDArray[np.int64]
    ) -> tuple[pd.DataFrame, float | None]:
        identity, second = job.need("identity"), self.second(job, loaded)
        assert identity is not None
        clean = artefacts.read_identity(self._context.ready(identity))[rows]
        test = loaded.test.subset(rows)
        strangers = test.subset(_somebody_else(owners_of(loaded)[rows]))
        columns: dict[str, list[NDArray[Any]]] = {}
        crops: list[NDArray[Any]] = []
        steps = range(0, len(test), _BATCH)
        for start in track(steps, f"judging: {job.cell.defense} x {job.cell.attack}", len(steps)):
            some = slice(start, start + _BATCH)
            original = test.batch(some)
            rebuilt = torch.from_numpy(images[some]).float()
            scores = dict(image_scores(original, rebuilt))
            if not isinstance(self.lpips, Unavailable):
                scores["lpips"] = self.lpips(original, rebuilt)
            with torch.no_grad():
                again = loaded.network.embed(loaded.network.extract(rebuilt.to(self._context.device))).cpu().numpy()
            scores["cosine"] = (again * clean[some]).sum(1).astype(np.float64)
            if second is not None:
                judge, known = second
                seen = known.embeddings[rows[some]]
                scores["judge_cosine"] = (judge.see(rebuilt) * seen).sum(1).astype(np.float64)
                if judge.transform is not None:
                    crops.append((judge.see(original) * seen).sum(1))
            scores["ssim_other"] = image_scores(strangers.batch(some), rebuilt)["ssim"]
            for name, values in scores.items():
                columns.setdefault(name, []).append(values)
        table = pd.DataFrame({name: np.concatenate(parts) for name, parts in columns.items()})
        return table, float(np.concatenate(crops).mean()) if crops else None


def _somebody_else(people: NDArray[np.object_]) -> NDArray[np.int64]:
    """For each image, the index of an image of another person, if there is one."""
    count = len(people)
    places = np.arange(count)
    chosen = np.roll(places, -(count // 2)) if count > 1 else places
    for place in places:
        others = np.flatnonzero(people != people[place])
        if len(others) and people[chosen[place]] == people[place]:
            chosen[place] = others[place % len(others)]
    return chosen
