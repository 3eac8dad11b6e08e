"""Names instead of pictures: what `distill` may ask, what it learns, and what becomes of it when it learns nothing."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CONFIG, Cli

from attacks.distill import Distill
from bench.analysis.selftest import trials
from bench.checks.scene import Noisy, Open, Scene
from bench.contracts import Knowledge, Leak, Oracle, Rng, State
from bench.errors import KnowledgeError, NotApplicable
from bench.storage.records import Run
from bench.toolkit.embedding_training import Recipe

_QUICK = Recipe(epochs=4, batch=16, learning_rate=2e-3, schedule="cosine")


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(public=160)


def _linked(attack: Distill, scene: Scene, defense: Any, level: Knowledge | None = None) -> tuple[int, Oracle, State]:
    """(how many of six templates are linked to the right one of six photographs, the oracle of the fit, the state)."""
    system = scene.system(defense)
    fitting = Oracle(level or attack.level, system, Rng(0).child("fit"))
    state = attack.fit(fitting, scene.public, Rng(0)) if attack.base is None else _continued(attack, fitting, scene)
    with torch.no_grad():
        templates = system.protect(system.encode(scene.images()[0::2]), Rng(0).images(scene.names()[0::2]))
    gallery = scene.test.subset(range(1, 12, 2))
    oracle = Oracle(attack.level, system, Rng(1))
    scores = attack.score(oracle, state, Leak(templates), gallery, Rng(0).images(scene.names()[0::2]))
    assert scores.shape == (6, 6)
    return int((scores.argmax(1) == torch.arange(6)).sum()), fitting, state


def _continued(attack: Distill, fitting: Oracle, scene: Scene) -> State:
    assert attack.base is not None and attack.base.base is None
    state = attack.adapt(fitting, scene.public, Rng(0), attack.base.fit(fitting, scene.public, Rng(0)))
    assert state is not None
    return state


def test_all_numbers_of_enrolled_faces_share_the_first_step() -> None:
    assert Distill(enrolled=32).base == Distill(enrolled=300).base == Distill(enrolled=0)
    assert Distill(knowledge="algorithm").base == Distill(knowledge="encoder").base


def test_with_enrolment_it_learns_the_systems_embeddings(scene: Scene) -> None:
    _, oracle, state = _linked(Distill(recipe=_QUICK, width=8, enrolled=64), scene, Noisy())
    account = state.info["clean"]
    best = max(point["held_out_cosine"] for point in account["curve"])
    assert best > account["start"]["held_out_cosine"] + 0.1, "of faces that taught nothing"
    assert state.info["templates"]["images"] < 64, "and then from the enrolled faces alone"
    asked = 2 * len(scene.public) + 64  # each face once, and once mirrored; those that are enrolled again
    assert oracle.queries["embed_images"] <= asked


def test_each_level_asks_for_what_it_has(scene: Scene) -> None:
    brief = Recipe(epochs=1, batch=16)
    _, encoder, state = _linked(Distill(knowledge="encoder", recipe=brief, width=4), scene, Noisy())
    assert set(encoder.queries) == {"encode", "encode_images"}
    assert "templates" not in state.info
    _, algorithm, state = _linked(Distill(knowledge="algorithm", recipe=brief, width=4, enrolled=8), scene, Noisy())
    assert not {"enrol", "embed"} & set(algorithm.queries)
    assert "templates" in state.info
    with pytest.raises(KnowledgeError):
        _linked(Distill(knowledge="enrolment", recipe=brief, width=4), scene, Open(), Knowledge.ALGORITHM)


def test_without_names_and_without_enrolment_there_is_nothing_to_learn(scene: Scene) -> None:
    strangers = scene.public.subset(range(0, 160, 4))  # one image each
    oracle = Oracle(Knowledge.ENCODER, scene.system(Open()), Rng(0))
    with pytest.raises(NotApplicable, match="no two of the attacker's faces"):
        Distill(knowledge="encoder").fit(oracle, strangers, Rng(0))


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    """A run with canaries: one `distill` that learns, and one that may not."""
    folder = tmp_path_factory.mktemp("distilled")
    text = CONFIG.replace('["mean_face", "resrec", "replay"]', '["mean_face", "distill", "weak"]').replace(
        '["unprotected", "laplace", "advface"]', '["unprotected"]\ncanaries = true'
    )
    (folder / "bench.toml").write_text(
        f"{text}\n[attacks.distill]\nwidth = 8\nrecipe = {{ epochs = 6, batch = 16, learning_rate = 1e-2 }}\n"
        '\n[attacks.weak]\nplugin = "distill"\nwidth = 4\nenrolled = 24\n'
        "recipe = { epochs = 1, learning_rate = 1e-9 }\n"
    )
    cli("run", "-q", cwd=folder)
    return Run(folder / "out" / "main")


def test_it_is_tried_on_its_canaries_and_void_when_it_is_weak(tried: Run) -> None:
    found = {(trial.attack, trial.canary): trial for trial in trials(tried) if "mean" not in trial.attack}
    assert set(found) == {(attack, canary) for attack in ("distill", "weak") for canary in ("secret", "closed")}
    assert found["distill", "secret"].passed, found["distill", "secret"].said
    assert found["distill", "closed"].passed, found["distill", "closed"].said
    assert not found["weak", "secret"].passed, found["weak", "secret"].said
    table = (tried.folder / "leaderboard.md").read_text()
    assert "weak (enrolment), void" in table
    assert "distill (enrolment), void" not in table


def test_its_record_says_what_it_learned_and_asked(tried: Run) -> None:
    path = Path(tried.folder) / "records" / "linkage--blobs--tiny--canary~secret--distill--seed0.json"
    path = path if path.is_file() else next((Path(tried.folder) / "records").glob("linkage*secret*distill--*.json"))
    info = json.loads(path.read_text())["info"]["attack_state"]
    assert info["templates"]["curve"]
    assert info["queries"]["enrol_images"] > 0
