"""A server is trained by what helps it: distillation first, identities where held-out people say so."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from bench.contracts import FaceSet, Rng, SplitNetwork, State
from bench.errors import DataError
from bench.metrics.verification import all_impostors, equal_error_rate
from bench.toolkit.embedding_training import Recipe
from bench.toolkit.server_training import teaching_faces, train_server

SIDE, TRAITS = 4, 6  #: of an image; of its 48 values, those (rotated) in which people differ
RECIPE = Recipe(epochs=16, batch=32, learning_rate=2e-2, schedule="cosine", warm_up=0, loss="softmax", flip=False)


def _faces(people: int, seed: int = 0, each: int = 4) -> FaceSet:
    """Who somebody is lies in a few directions, and what the light does in all the others."""
    rng = np.random.default_rng(seed)
    who = rng.normal(size=(people, 1, TRAITS)) + 0.25 * rng.normal(size=(people, each, TRAITS))
    light = 0.7 * rng.normal(size=(people, each, 3 * SIDE**2 - TRAITS))
    pixels = np.concatenate([who, light], 2).reshape(people * each, -1) @ _turn()
    images = (127 + 16 * pixels).clip(0, 255).astype(np.uint8).reshape(-1, SIDE, SIDE, 3)
    names = tuple(f"{seed}/{p}/{i}" for p in range(people) for i in range(each))
    subjects = tuple(f"person {seed}/{p}" for p in range(people) for _ in range(each))
    return FaceSet(images, np.arange(len(names)), names, subjects, np.ones(len(names), bool))


def _turn() -> np.ndarray:
    rotation, _ = np.linalg.qr(np.random.default_rng(9).normal(size=(3 * SIDE**2, 3 * SIDE**2)))
    return rotation


def _recognizer(good: bool) -> SplitNetwork:
    """One that sees who somebody is; or one that is led astray by the light."""
    server = nn.Linear(3 * SIDE**2, 16, bias=False)
    seen = _turn().reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2).reshape(3 * SIDE**2, -1)
    weights = np.zeros((16, 3 * SIDE**2))
    weights[:TRAITS] = (1 if good else 0.7) * seen[:TRAITS]
    weights[TRAITS:] = (0 if good else 1) * seen[TRAITS:16]
    server.weight.data = torch.from_numpy(weights).float()
    network = SplitNetwork(nn.Identity(), nn.Sequential(nn.Flatten(), server), image_size=(SIDE, SIDE), layout=())
    return network.eval().requires_grad_(False)


def _encode(images: Tensor) -> Tensor:
    return images - 0.5


def _module() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * SIDE**2, 16))


def _eer(module: nn.Module) -> float:
    """Among people whom nobody has seen."""
    faces = _faces(60, seed=5)
    with torch.no_grad():
        embeddings = nn.functional.normalize(module.eval()(_encode(faces.batch(slice(None))))).numpy()
    subjects = np.array(faces.subjects)
    same = np.triu(subjects[:, None] == subjects, 1)
    return equal_error_rate((embeddings @ embeddings.T)[same], all_impostors(embeddings, subjects))


def _trained(people: int, good: bool, labels: str) -> tuple[nn.Module, State]:
    faces, identities = teaching_faces(_faces(people), labels, None, Rng(3))  # type: ignore[arg-type]
    module = _module()
    state = train_server(module, _encode, _recognizer(good), faces, identities, RECIPE, Rng(4), "test")
    return module, state


@pytest.mark.parametrize(
    ("good", "labels", "people", "learned_from"),
    [
        (True, "auto", 12, "the unprotected recogniser's embeddings"),  # too few to ask
        (True, "identity", 12, "the unprotected recogniser's embeddings"),  # asked, and worse
        (True, "auto", 200, "the unprotected recogniser's embeddings"),
        (False, "auto", 200, "identities"),
        (False, "teacher", 200, "the unprotected recogniser's embeddings"),
    ],
)
def test_identities_teach_only_where_held_out_people_say_that_it_helps(
    good: bool, labels: str, people: int, learned_from: str
) -> None:
    module, state = _trained(people, good, labels)
    choice, reached = state.info["choice"], state.info["cosine_to_unprotected"]
    assert state.info["learned_from"] == learned_from
    if labels == "identity" or (labels == "auto" and people >= 100):
        start, distilled, told = (choice[name]["held_out_eer"] for name in ("start", "distilled", "identities"))
        assert told < min(start, distilled) or learned_from != "identities"
    else:
        assert choice["identities"] is None
        assert choice["distilled"]["held_out_cosine"] == reached["after"]
    if learned_from != "identities":
        assert reached["after"] > reached["before"]
    assert _eer(module) < _eer(_module()) + 0.01, "never worse than its start"


@pytest.mark.parametrize("labels", ["auto", "identity"])
def test_more_people_never_cost_accuracy(labels: str) -> None:
    errors = [_eer(_trained(people, True, labels)[0]) for people in (12, 99, 101, 200)]
    for fewer, more in pairwise(errors):
        assert more < fewer + 0.02, errors


def test_a_round_that_still_helps_is_said_and_another_made() -> None:
    faces, _ = teaching_faces(_faces(40), "teacher", None, Rng(3))

    def account(rate: float, **recipe: int) -> dict[str, object]:
        slow = replace(RECIPE, learning_rate=rate, **recipe)  # type: ignore[arg-type]
        return dict(train_server(_module(), _encode, _recognizer(True), faces, False, slow, Rng(4), "test").info)

    short, longer = account(3e-4, epochs=4, rounds=1), account(3e-4, epochs=4, rounds=2)
    assert short["converged"] is False
    assert len(longer["curve"]) == 2 * len(short["curve"])  # type: ignore[arg-type]
    assert longer["cosine_to_unprotected"]["after"] > short["cosine_to_unprotected"]["after"]  # type: ignore[index]
    assert account(2e-2, epochs=50, rounds=2)["converged"] is True


def test_too_few_faces_are_refused() -> None:
    with pytest.raises(DataError, match="test: 3 faces are too few to train on"):
        few = _faces(1, each=3)
        train_server(_module(), _encode, _recognizer(True), few, False, RECIPE, Rng(0), "test")
