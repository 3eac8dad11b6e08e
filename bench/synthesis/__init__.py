"""Synthetic faces: parametric people, rendered. No photograph, mesh or texture of anybody goes into them."""

from bench.synthesis.render import landmarks, render
from bench.synthesis.traits import Shot, sample_person, sample_shot

__all__ = ["Shot", "landmarks", "render", "sample_person", "sample_shot"]
