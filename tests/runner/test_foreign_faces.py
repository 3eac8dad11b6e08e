"""Judged people, the defender's and the attacker's faces from LFW and CFP in every combination."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from cfp_tree import HALF, official
from pictures import tree
from support import CONFIG

from bench.datasets import align
from bench.datasets.fiducials import five_points
from bench.errors import UserError
from bench.plan import plan
from bench.runner.context import LoadedScene, RunContext
from bench.settings.resolve import load
from bench.storage.store import Store

# Cleo and Dan are in both sets. In LFW, Ann and Bob are judged; in CFP, all but Eve.
LFW = {"Ann_Lee": 2, "Bob_Ray": 1, "Cleo_ONeill": 1, "DAN_POE": 1, "Kim_One": 1, "Lou_Two": 1}
CD, KL, E = {"Cleo_ONeill", "DAN_POE"}, {"Kim_One", "Lou_Two"}, {"Eve Fox"}
IN_CFP = {"Cléo O'Neill", "Dan Poe"}


class _Finds:
    """A detector that finds a face everywhere."""

    def detect(self, images: list[Any], landmarks: bool) -> object:
        return [np.array([[10.0, 10, 50, 50]])], [np.array([1.0])], [np.array([five_points(HALF, "frontal") / 4])]


@pytest.fixture
def sets(config: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(align, "_mtcnn", lambda smallest: _Finds())
    tree(Path("lfw"), LFW)
    Path("pairs.txt").write_text("1 1\nAnn_Lee 1 2\nAnn_Lee 1 Bob_Ray 1\n")
    official(Path("cfp"))
    config.write_text(
        CONFIG
        + '\n[datasets.lfw]\nimages = "lfw"\npairs = "pairs.txt"\n[datasets.cfp]\npath = "cfp"\nprotocol = "none"\n'
        + '[datasets.cfp_fp]\nplugin = "cfp"\npath = "cfp"\n[datasets.crowd]\nplugin = "folder"\npath = "lfw"\n'
    )
    return config


def _settings(config: Path, judged: str, defender: str, attacker: str) -> Any:
    chosen = {"run.datasets": judged.split(), "run.public_defender": defender, "run.public_attacker": attacker}
    return load(config, None, {**chosen, "run.defenses": ["unprotected"], "run.attacks": ["mean_face"]})


def _loaded(config: Path, judged: str, defender: str, attacker: str) -> LoadedScene:
    settings = _settings(config, judged, defender, attacker)
    return RunContext(settings, Store(Path("store"))).loaded(plan(settings).jobs[0].scene)


@pytest.mark.parametrize(
    ("judged", "defender", "attacker", "expected"),
    [
        ("lfw", "rest", "rest", CD | KL), ("lfw", "lfw", "lfw", CD | KL), ("lfw", "lfw", "rest", CD | KL),
        ("lfw", "rest", "cfp", (CD | KL, E)), ("lfw", "lfw", "cfp", (CD | KL, E)),
        ("lfw", "cfp", "rest", (IN_CFP | E, KL)), ("lfw", "cfp", "lfw", (IN_CFP | E, KL)),
        ("lfw", "cfp", "cfp", IN_CFP | E), ("lfw", "cfp_fp", "rest", (E, CD | KL)),
        ("cfp_fp", "lfw", "lfw", KL), ("cfp_fp", "rest", "lfw", (E, KL)), ("cfp_fp", "lfw", "rest", (KL, E)),
        ("cfp_fp", "cfp", "lfw", (E, KL)), ("cfp_fp", "lfw", "cfp", (KL, E)),
        ("lfw", "crowd", "crowd", CD | KL), ("cfp_fp", "crowd", "rest", (KL, E)),
    ],
)  # fmt: skip
def test_nobody_is_on_two_sides(
    sets: Path, judged: str, defender: str, attacker: str, expected: set[str] | tuple[set[str], set[str]]
) -> None:
    loaded = _loaded(sets, judged, defender, attacker)
    sides = (set(loaded.defender.subjects or ()), set(loaded.attacker.subjects or ()))
    if isinstance(expected, tuple):
        assert sides == expected
    else:  # one set for both: each side has half of its people
        assert sides[0] | sides[1] == expected and not sides[0] & sides[1] and all(sides)


def test_who_was_left_out_is_counted_and_named(sets: Path) -> None:
    notes = _loaded(sets, "lfw", "rest", "cfp").notes
    left_out = {"Ann Lee", "Bob Ray"} | IN_CFP
    assert notes["people whom another set names too, left out of the attacker's faces"] == sorted(left_out)
    notes = _loaded(sets, "cfp_fp", "lfw", "lfw").notes
    assert notes["people whom another set names too, left out of the public faces"] == ["Cleo_ONeill", "DAN_POE"]
    assert not any("another set names" in why for why in _loaded(sets, "lfw", "rest", "rest").notes)


@pytest.mark.parametrize(
    ("judged", "defender", "attacker", "said"),
    [
        (
            "cfp_fp",
            "rest",
            "cfp",
            r"nobody is left among the attacker's .* all 5 people of 'cfp' are judged, or the def",
        ),
        ("lfw cfp_fp", "cfp", "cfp", r"too few people .* 'cfp' for the defender and the attacker"),
    ],
)
def test_it_is_said_where_nobody_is_left(sets: Path, judged: str, defender: str, attacker: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        settings = _settings(sets, judged, defender, attacker)
        context = RunContext(settings, Store(Path("store")))
        for job in plan(settings).jobs:
            context.loaded(job.scene)


def test_a_set_that_judges_everybody_cannot_lend(sets: Path) -> None:
    (Path("cfp/Protocol/Split/FP/03")).mkdir()
    Path("cfp/Protocol/Split/FP/03/same.txt").write_text("9,5")
    Path("cfp/Protocol/Split/FP/03/diff.txt").write_text("10,1")
    with pytest.raises(UserError, match=r"dataset 'cfp_fp' lends no faces, because it judges all its people"):
        _loaded(sets, "lfw", "rest", "cfp_fp")


def test_keys_follow_who_is_left_out_and_a_shared_set_is_learned_from_once(sets: Path) -> None:
    def keys(judged: str, defender: str, attacker: str) -> tuple[str, str]:
        scene = plan(_settings(sets, judged, defender, attacker)).jobs[0].scene
        return scene.defender_key, scene.attacker_key

    first = keys("lfw", "rest", "cfp")
    assert keys("lfw", "lfw", "cfp") == first and keys("blobs", "cfp", "cfp") != keys("lfw", "cfp", "cfp")
    assert keys("blobs", "lfw", "cfp")[0] == keys("blobs", "lfw", "rest")[0], "whoever attacks"
    names = Path("cfp/Data/list_name.txt")
    names.write_text(names.read_text().replace("Ann Lee", "Zoe Lee"))
    again = keys("lfw", "rest", "cfp")
    assert again[0] == first[0] and again[1] != first[1]
