"""What only the server learns: templates and reconstructions are shared, decisions are made anew."""

import json
from pathlib import Path

import numpy as np
import pytest
from support import CONFIG, Cli, figures

from bench.contracts import FaceSet, Rng
from bench.errors import DataError
from bench.plan import plan
from bench.settings import resolve as settings
from bench.toolkit.server_training import knows_identities, teaching_faces

OFFLINE = """
[defenses.offline]
plugin = "advface"
mode = "offline"
iterations = 2
batch = 8
width = 8
recipe = { epochs = 4, learning_rate = 1e-2 }
"""
BOTH = ("--set", 'run.defenses=["advface","offline"]')


def _kinds(folder: Path) -> dict[str, int]:
    return {kind.name: len(list(kind.iterdir())) for kind in folder.iterdir() if kind.name != "locks"}


def test_offline_shares_what_is_stolen_and_rebuilt_and_judges_its_own_server(config: Path, cli: Cli) -> None:
    config.write_text(CONFIG + OFFLINE)
    cli("run", "-q", *BOTH)
    assert _kinds(Path("store")) == {
        "identity": 1,
        "defense_state": 1,
        "templates": 1,
        "server_state": 2,
        "embeddings": 2,
        "attack_state": 2,
        "reconstruction": 2,  # of two attacks
        "presentation": 1,
        "login": 2,
    }
    records = figures(Path("out/main"))
    pixels = ("ssim", "psnr_db", "mse", "cosine")
    for attack in ("mean_face", "resrec"):
        online, offline = (
            records[f"reconstruction--blobs--tiny--{name}--{attack}--seed0"] for name in ("advface", "offline")
        )
        assert {m: online["metrics"][m] for m in pixels} == {m: offline["metrics"][m] for m in pixels}  # type: ignore[index]
    online, offline = (
        json.loads(Path(f"out/main/records/utility--blobs--tiny--{name}--seed0.json").read_text())
        for name in ("advface", "offline")
    )
    assert online["noise"] == offline["noise"]
    assert online["info"]["thresholds"] != offline["info"]["thresholds"]
    reached = offline["info"]["server_state"]["cosine_to_unprotected"]
    assert reached["after"] > reached["before"]
    assert "server_state" not in online["info"]


def test_a_sweep_trains_one_shadow(config: Path) -> None:
    found = settings.load(config, None, ["defenses.advface.sweep={epsilon=[0.0,0.1,0.2]}", 'run.attacks=["resrec"]'])
    kinds = [task.kind for task in plan(found).tasks() if task.defense.startswith("advface")]
    assert kinds.count("defense_state") == 1
    assert kinds.count("templates") == 3
    assert kinds.count("reconstruction") == 3


@pytest.mark.parametrize(
    ("override", "changed"),
    [
        ("defenses.offline.recipe.epochs=5", {"server_state", "embeddings", "login"}),
        (
            "defenses.offline.epsilon=0.1",
            {"templates", "reconstruction", "server_state", "embeddings", "presentation", "login"},
        ),
    ],
)
def test_a_setting_remakes_what_depends_on_it_alone(config: Path, override: str, changed: set[str]) -> None:
    config.write_text(CONFIG + OFFLINE)
    before, after = (
        {task.key: task.kind for task in plan(settings.load(config, None, [BOTH[1], *extra])).tasks()}
        for extra in ([], [override])
    )
    assert {after[key] for key in after.keys() - before.keys()} == changed


NOSY = """
from dataclasses import dataclass
import torch
from bench.contracts import Knowledge, ReconstructionAttack

@dataclass(frozen=True, kw_only=True)
class Nosy(ReconstructionAttack):
    asks_server = {asks}

    @property
    def level(self):
        return Knowledge.ENROLMENT

    def reconstruct(self, oracle, state, leak, rng):
        images = torch.full((len(leak.values), 3, *oracle.image_size), 0.5, device=leak.values.device)
        return images + 0 * oracle.embed(images).sum()
"""


def test_an_attack_that_asks_the_server_must_say_so(config: Path, cli: Cli) -> None:
    config.write_text(CONFIG + OFFLINE)
    attacks = ("--set", 'run.attacks=["nosy"]', "--set", 'attacks.nosy.plugin="nosy.py"')
    Path("nosy.py").write_text(NOSY.format(asks=False))
    cli("run", "-q", *attacks, "--set", 'run.defenses=["laplace"]')  # its server learns nothing: nothing to say
    said = cli("run", "-q", *attacks, *BOTH, status=1).stdout
    assert "declare asks_server = True" in said
    Path("nosy.py").write_text(NOSY.format(asks=True))
    cli("run", "-q", *attacks, *BOTH)
    assert _kinds(Path("store"))["reconstruction"] == 1 + 2, "what the server says is part of what they made"


def _faces(people: int, images: int) -> FaceSet:
    count = people * images
    names = tuple(map(str, range(count)))
    subjects = tuple(f"person{i % people}" for i in range(count))
    return FaceSet(np.zeros((count, 2, 2, 3), np.uint8), np.arange(count), names, subjects, np.ones(count, bool))


def test_identities_teach_where_there_are_enough_of_them() -> None:
    assert knows_identities(_faces(100, 4))
    assert not knows_identities(_faces(99, 4))
    assert not knows_identities(_faces(200, 3))
    chosen, identities = teaching_faces(_faces(120, 4), "auto", 400, Rng(0))
    assert identities
    assert len(chosen) == 400
    assert len(set(chosen.subjects or ())) == 100, "people stay whole"
    assert not teaching_faces(_faces(120, 4), "auto", 396, Rng(0))[1], "too few people are left"
    chosen, identities = teaching_faces(_faces(100, 4), "teacher", 40, Rng(0))
    assert not identities
    assert len(set(chosen.names)) == 40
    with pytest.raises(DataError, match="identities cannot teach"):
        teaching_faces(_faces(5, 1), "identity", None, Rng(0))
