"""Benchmarks run alone, on every core, where the other tests share them out."""

import os

import torch

torch.set_num_threads(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
