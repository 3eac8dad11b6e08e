"""Traits instead of pictures: what the probes may ask, that they learn, and what becomes of weakened ones."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch
from support import CONFIG, Cli
from torch import Tensor

from attacks.trait_probe import TraitProbe
from bench.analysis.rivals import rivals
from bench.analysis.selftest import trials
from bench.checks import assert_sound, check, failures
from bench.checks.scene import Noisy, Scene
from bench.checks.traits import half_negative
from bench.contracts import FaceSet, ImageRng, Knowledge, Leak, Oracle, Rng, State
from bench.errors import KnowledgeError, NotApplicable
from bench.forecast.plugin import plugin_cost
from bench.settings.resolve import load
from bench.storage.records import Run
from bench.toolkit.trait_probes import _folds


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(public=96)


def _own(scene: Scene, **traits: Mapping[str, object]) -> FaceSet:
    """The attacker's faces with these traits alone."""
    return replace(scene.public, traits={name: np.asarray(values, np.float32) for name, values in traits.items()})


def _skin(scene: Scene) -> np.ndarray:
    skin = scene.public.traits["skin"]
    return skin > np.median(skin)


def _inferred(attack: TraitProbe, scene: Scene, state: State, faces: FaceSet) -> Mapping[str, Tensor]:
    system, rng = scene.system(Noisy()), Rng(5).images(faces.names)
    with torch.no_grad():
        templates = system.protect(system.encode(faces.batch(slice(None))), rng)
    return attack.infer(Oracle(attack.level, system, Rng(1)), state, Leak(templates), rng)


@pytest.mark.parametrize("probe", ["linear", "network"])
def test_it_learns_what_can_be_seen_from_templates_of_own_faces(
    scene: Scene, probe: Literal["linear", "network"]
) -> None:
    public = half_negative(scene.public)
    strangers = public.subset(range(64, 96))  # eight other people
    oracle = Oracle(Knowledge.ENROLMENT, scene.system(Noisy()), Rng(0))
    attack = TraitProbe(probe=probe)
    state = attack.fit(oracle, public.subset(range(64)), Rng(0))
    assert {name for name in oracle.queries if not name.endswith("_images")} == {"enrol", "defense"}
    assert oracle.queries["enrol_images"] == 64
    truth = torch.from_numpy(strangers.traits["negative"])
    found = _inferred(attack, scene, state, strangers)["negative"]
    assert float(((found > 0.5) == truth).float().mean()) > 0.9
    again = attack.fit(Oracle(Knowledge.ENROLMENT, scene.system(Noisy()), Rng(0)), public.subset(range(64)), Rng(0))
    assert all(torch.equal(again.tensors[name], part) for name, part in state.tensors.items()), "the same seed"


@pytest.mark.parametrize("attack", [TraitProbe(), TraitProbe(probe="network")], ids=lambda attack: attack.probe)
def test_it_keeps_the_contract(scene: Scene, attack: TraitProbe) -> None:
    assert_sound(attack, scene)


@dataclass(frozen=True, kw_only=True)
class Contrary(TraitProbe):
    """Says no for yes."""

    def infer(self, oracle: Oracle, state: State, leak: Leak, rng: ImageRng) -> Mapping[str, Tensor]:
        return {name: 1 - values for name, values in super().infer(oracle, state, leak, rng).items()}


def test_one_that_says_no_for_yes_breaks_the_contract(scene: Scene) -> None:
    (verdict,) = failures(check(Contrary(), scene))
    assert verdict.check == "traits" and "negatives told from photographs" in str(verdict)


def test_what_its_level_does_not_allow_is_refused(scene: Scene) -> None:
    low = Oracle(Knowledge.ALGORITHM, scene.system(Noisy()), Rng(0))
    with pytest.raises(KnowledgeError):
        TraitProbe().fit(low, _own(scene, skin=_skin(scene)), Rng(0))


def test_unknown_answers_teach_nothing(scene: Scene) -> None:
    skin = _skin(scene).astype(np.float32)
    skin[::2] = np.nan
    attack = TraitProbe()

    def learned(values: np.ndarray) -> State:
        return attack.fit(Oracle(attack.level, scene.system(Noisy()), Rng(0)), _own(scene, skin=values), Rng(0))

    state = learned(skin)
    assert all(bool(torch.isfinite(part).all()) for part in state.tensors.values())


def test_a_trait_of_too_few_people_is_left_out(scene: Scene) -> None:
    rare = np.zeros(len(scene.public))
    rare[:12] = 1  # three people
    oracle = Oracle(Knowledge.ENROLMENT, scene.system(Noisy()), Rng(0))
    state = TraitProbe().fit(oracle, _own(scene, rare=rare, skin=_skin(scene)), Rng(0))
    assert set(state.info["held_out_loss"]) == {"skin"}
    with pytest.raises(NotApplicable, match="4 people of each answer"):
        TraitProbe().fit(oracle, _own(scene, rare=rare), Rng(0))


def test_no_person_trains_and_is_held_out_and_every_fold_has_both_answers() -> None:
    owners = np.array([f"person{i // 3}" for i in range(60)], dtype=object)
    answers = (np.arange(60) < 12).astype(np.float32)  # four people
    folds = _folds(owners, answers, Rng(0)).numpy()
    assert all(len(set(folds[owners == person])) == 1 for person in set(owners))
    assert np.bincount(folds).tolist() == [15] * 4
    assert sorted(folds[:12:3].tolist()) == [0, 1, 2, 3]


WEAK = '''"""A probe that learned from other people's answers."""

from dataclasses import dataclass, replace

from attacks.trait_probe import TraitProbe
from bench.contracts import FaceSet, Oracle, Rng, State


@dataclass(frozen=True, kw_only=True)
class Weak(TraitProbe):
    """Its answers are those of people at random."""

    def fit(self, oracle: Oracle, public: FaceSet, rng: Rng) -> State:
        order = rng.child("weak").numpy().permutation(len(public))
        mixed = {name: values[order] for name, values in public.traits.items()}
        return super().fit(oracle, replace(public, traits=mixed), rng)
'''


@pytest.fixture(scope="module")
def tried(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    """A run with canaries: two probes, and a weakened one."""
    folder = tmp_path_factory.mktemp("traits")
    text = CONFIG.replace('"resrec", "replay"]', '"trait_probe", "network", "weak"]\ncanaries = true')
    text = text.replace('[attacks.replay]\nattack = "resrec"\n', "").replace('"laplace", "advface"', '"laplace"')
    text = text.replace("[datasets.blobs]\n", "[datasets.blobs]\nshaded = true\n")
    weak = folder / "weak.py"
    weak.write_text(WEAK)
    network = '[attacks.network]\nplugin = "trait_probe"\nprobe = "network"'
    (folder / "bench.toml").write_text(f'{text}\n{network}\n\n[attacks.weak]\nplugin = "{weak}"\n')
    cli("run", "-q", cwd=folder)
    return Run(folder / "out" / "main")


def test_it_is_tried_on_its_canaries_and_void_when_it_is_weak(tried: Run) -> None:
    found = {(trial.attack, trial.canary): trial for trial in trials(tried) if "mean" not in trial.attack}
    assert set(found) == {(a, c) for a in ("trait_probe", "network", "weak") for c in ("secret", "closed")}
    for attack in ("trait_probe", "network"):
        for canary in ("secret", "closed"):
            assert found[attack, canary].passed, (attack, canary, found[attack, canary].said)
    assert not found["weak", "secret"].passed, found["weak", "secret"].said
    table = (tried.folder / "leaderboard.md").read_text()
    assert "weak (enrolment), void" in table and "trait_probe (enrolment), void" not in table


def test_a_trait_that_nobody_can_see_is_void_and_not_in_the_mean(tried: Run) -> None:
    record = _record(tried, "unprotected", "trait_probe")
    assert record["info"]["traits"]["coin"]["void"] and not record["info"]["traits"]["light"]["void"]
    assert "trait void: coin, trait_probe" in record["flags"]
    figures = record["metrics"]
    assert figures["trait_accuracy"]["value"] == pytest.approx(figures["trait_accuracy_light"]["value"])
    table = (tried.folder / "leaderboard.md").read_text()
    assert "| coin (void) |" in table and "| light |" in table


def test_where_nothing_is_protected_it_does_as_well_as_on_clean_features(tried: Run) -> None:
    for attack in ("trait_probe", "network"):
        figures = _record(tried, "unprotected", attack)["metrics"]
        for name in ("trait_accuracy", "trait_accuracy_light", "trait_ece_coin"):
            assert figures[name] == figures[f"clean_{name}"]
    protected = _record(tried, "laplace", "network")["metrics"]
    assert protected["clean_trait_accuracy"] == figures["clean_trait_accuracy"], "one artefact for all defences"
    assert protected["trait_ece_light"] != protected["clean_trait_ece_light"]


def test_probes_are_compared_and_their_cost_is_estimated(tried: Run) -> None:
    (found,) = [r for r in rivals(tried, "trait_probe", "network") if r.defense == "laplace"]
    assert found.metric == "trait_accuracy" and found.own.value is not None and found.other.value is not None
    cost = plugin_cost(load(tried.folder.parent.parent / "bench.toml"), "attack", "trait_probe")
    assert cost is not None and cost.learning_s > 0 and cost.image_s > 0


def _record(run: Run, defense: str, attack: str) -> dict[str, dict[str, dict[str, object]]]:
    path = Path(run.folder) / "records" / f"traits--blobs--tiny--{defense}--{attack}--seed0.json"
    found: dict[str, dict[str, dict[str, object]]] = json.loads(path.read_text())
    return found


def test_without_labels_it_does_not_apply(config: Path, cli: Cli, tmp_path: Path) -> None:
    bare = (Path(__file__).parent.parent / "toys" / "blobs.py").read_text().replace(", traits=traits)", ")")
    (tmp_path / "bare.py").write_text(bare)
    text = CONFIG.replace('"resrec", "replay"]', '"trait_probe"]').replace(', "laplace", "advface"', "")
    text = text.replace('[attacks.replay]\nattack = "resrec"\n', "")
    config.write_text(text.replace(text.split("[datasets.blobs]\nplugin = ")[1].split("\n")[0], '"bare.py"'))
    cli("run", "-q")
    record = _record(Run(tmp_path / "out" / "main"), "unprotected", "trait_probe")
    assert record["status"] == "skipped"
    assert "set traits, a CSV file" in str(record["reason"])
