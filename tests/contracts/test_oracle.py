"""The oracle executor out exactly what a level allows, and counts."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support import TOYS

from bench.contracts import FaceSet, Knowledge, Oracle, Rng, System
from bench.contracts.oracle import client_alone
from bench.errors import KnowledgeError
from bench.settings import registry

NEEDS: list[tuple[str, Knowledge, Callable[[Oracle, FaceSet], Any]]] = [
    ("stolen", Knowledge.DATABASE, lambda o, f: o.stolen(2)),
    ("recognise", Knowledge.SERVER, lambda o, f: o.recognise(torch.rand(2, 8, 12, 10))),
    ("encode", Knowledge.ENCODER, lambda o, f: o.encode(f.batch(slice(0, 2)))),
    ("defense", Knowledge.ALGORITHM, lambda o, f: o.defense),
    ("surrogate", Knowledge.ALGORITHM, lambda o, f: o.surrogate),
    ("enrol", Knowledge.ENROLMENT, lambda o, f: o.enrol(f.batch(slice(0, 2)), f.names[:2])),
    ("embed", Knowledge.ENROLMENT, lambda o, f: o.embed(f.batch(slice(0, 2)))),
    ("similarity", Knowledge.ENROLMENT, lambda o, f: o.similarity(f.batch(slice(0, 2)), [0, 1])),
    ("similarity", Knowledge.ENROLMENT, lambda o, f: o.similarities(f.batch(slice(0, 2)), [0, 1])),
    ("system", Knowledge.WHITEBOX, lambda o, f: o.system),
]


@pytest.fixture(scope="module")
def faces(tmp_path_factory: pytest.TempPathFactory) -> FaceSet:
    recognizer = registry.make(registry.find("recognizer", str(TOYS / "tiny.py"), "test"), {}, "test")
    dataset = registry.make(registry.find("dataset", str(TOYS / "blobs.py"), "test"), {}, "test")
    public = dataset.load(recognizer.alignment, tmp_path_factory.mktemp("cache")).public
    assert isinstance(public, FaceSet)
    return public


def _system(defense: str = "laplace", **parameters: Any) -> System:
    recognizer = registry.make(registry.find("recognizer", str(TOYS / "tiny.py"), "test"), {}, "test")
    plugin = registry.make(registry.find("defense", defense, "test"), parameters, "test")
    return System(recognizer.load(), plugin)


@pytest.mark.parametrize("level", list(Knowledge))
def test_levels_nest_and_nothing_above_is_given(level: Knowledge, faces: FaceSet) -> None:
    stored = torch.nn.functional.normalize(torch.rand(2, 16))
    for name, needed, ask in NEEDS:
        oracle = Oracle(level, _system(), Rng(0), stored, stolen=np.zeros((3, 8, 12, 10), dtype=np.float32))
        if level >= needed:
            ask(oracle, faces)
            assert oracle.queries[name] == 1
        else:
            with pytest.raises(KnowledgeError, match=f"{name}.. needs level '{needed}', .* declared '{level}'"):
                ask(oracle, faces)
            assert oracle.queries[name] == 0


@pytest.mark.parametrize("level", list(Knowledge))
def test_sizes_are_free_and_the_architecture_is_for_who_has_one_end_of_the_system(level: Knowledge) -> None:
    oracle = Oracle(level, _system(), Rng(0))
    assert oracle.feature_shape == (8, 12, 10)
    assert oracle.image_size == (24, 20)
    if level in (Knowledge.BLIND, Knowledge.DATABASE):
        with pytest.raises(KnowledgeError, match=f"declared '{level}'"):
            _ = oracle.layout
    else:
        assert oracle.layout[0].stride == 2
    assert not oracle.queries


def test_the_server_answers_with_gradients_and_the_stolen_values_are_spread_over_the_database() -> None:
    stolen = np.arange(10 * 8 * 12 * 10, dtype=np.float16).reshape(10, 8, 12, 10)
    oracle = Oracle(Knowledge.SERVER, _system(), Rng(0), stolen=stolen)
    some = oracle.stolen(4)
    assert some.dtype == torch.float32 and some[:, 0, 0, 0].tolist() == [
        float(stolen[i, 0, 0, 0]) for i in (0, 3, 6, 9)
    ]
    assert len(oracle.stolen(50)) == 10
    templates = some.requires_grad_()
    oracle.recognise(templates).sum().backward()
    assert templates.grad is not None
    with pytest.raises(KnowledgeError, match="asks_stolen"):
        Oracle(Knowledge.SERVER, _system(), Rng(0)).stolen(4)


def test_black_box_answers_carry_no_gradients(faces: FaceSet) -> None:
    images = faces.batch(slice(0, 2)).requires_grad_()
    oracle = Oracle(Knowledge.ENROLMENT, _system(), Rng(0))
    assert not oracle.encode(images).requires_grad
    assert not oracle.enrol(images, ["a", "b"]).requires_grad
    assert oracle.queries["encode_images"] == 2


def test_enrolling_twice_draws_fresh_noise(faces: FaceSet) -> None:
    images = faces.batch(slice(0, 1))
    oracle = Oracle(Knowledge.ENROLMENT, _system(), Rng(0))
    assert not torch.equal(oracle.enrol(images, ["a"]), oracle.enrol(images, ["a"]))


def test_a_surrogate_is_what_was_fitted_on_own_faces_and_has_no_server(faces: FaceSet) -> None:
    system = _system("advface", iterations=1, width=8, training={"epochs": 1})
    client = client_alone(system.recognizer)
    own = system.defense.fit(client, faces, Rng(5))
    copy = Oracle(Knowledge.ALGORITHM, system, Rng(0), surrogate=own).surrogate
    assert copy.defense == system.defense
    features = copy.encode(faces.batch(slice(0, 2)))
    templates = copy.protect(features, Rng(0).images(["a", "b"]))
    assert templates.shape == features.shape
    with pytest.raises(KnowledgeError):
        copy.embed(templates)
    with pytest.raises(KnowledgeError, match="server's network"):
        client.embed(features)
