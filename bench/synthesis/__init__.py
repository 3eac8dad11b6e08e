"""Renders synthetic faces of parametric people; no photograph, mesh or texture of a real person goes into them."""

from bench.synthesis.album import Photograph, develop, develop_all, visible_traits
from bench.synthesis.render import Points, landmarks, render
from bench.synthesis.traits import sample_person, sample_shot

__all__ = [
    "Photograph", "Points", "develop", "develop_all", "landmarks", "render", "sample_person", "sample_shot",
    "visible_traits",
]  # fmt: skip
