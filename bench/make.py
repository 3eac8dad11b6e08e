"""Makes an artefact of a plan, once what it needs is there."""

from __future__ import annotations

from pathlib import Path

from bench import attacking, protecting
from bench.plan import Task
from bench.workbench import Workbench

_MAKERS = {
    "identity": protecting.make_identity,
    "defense_state": protecting.make_defense_state,
    "surrogate_state": protecting.make_surrogate_state,
    "templates": protecting.make_templates,
    "server_state": protecting.make_server_state,
    "embeddings": protecting.make_embeddings,
    "attack_state": attacking.make_attack_state,
    "reconstruction": attacking.make_reconstruction,
    "linkage": attacking.make_linkage,
    "presentation": attacking.make_presentation,
    "login": attacking.make_login,
}


def make(bench: Workbench, task: Task) -> Path:
    """The artefact's folder in the store, whole."""
    return bench.store.make(task.kind, task.key, lambda folder: _MAKERS[task.kind](bench, task, folder))
