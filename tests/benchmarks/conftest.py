"""Benchmarks run alone, on every core, where the other tests share them out."""

import os
from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def every_core() -> Iterator[None]:
    """Not at import: the other tests are collected in the same process."""
    before = torch.get_num_threads()
    torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    yield
    torch.set_num_threads(before)
