"""Names and traits without pairs: from rebuilt pictures, and by the server's operator through a client of his own."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support import CONFIG, Cli

from attacks.picture_linkage import PictureLinkage
from attacks.picture_traits import PictureTraits
from attacks.shadow_linkage import ShadowLinkage
from bench.checks import assert_sound
from bench.checks.scene import Open, Scene
from bench.contracts import FaceSet, Leak, NotApplicable, Oracle, Rng, UserError
from bench.settings.resolve import load
from bench.storage.records import Run
from bench.toolkit.own_recogniser import fisher_embeddings, fisherfaces
from bench.toolkit.shadow_training import ShadowTraining


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small((32, 32), public=80)


@pytest.mark.parametrize("attack", [PictureLinkage(), PictureTraits(side=4)], ids=["names", "traits"])
def test_they_keep_the_contract_and_ask_nothing(scene: Scene, attack: Any) -> None:
    assert_sound(attack, scene)
    oracle = Oracle(attack.level, scene.system(Open()), Rng(0))
    faces = replace(scene.public, traits={"second": (np.arange(len(scene.public)) % 4 > 1).astype(np.float32)})
    attack.fit(oracle, faces, Rng(0))
    assert not oracle.queries


def _right(attack: PictureLinkage, scene: Scene, pictures: torch.Tensor, gallery: FaceSet) -> int:
    oracle = Oracle(attack.level, scene.system(Open()), Rng(0))
    assert attack.base is not None
    state = attack.base.fit(oracle, scene.public, Rng(0))
    assert attack.adapt(oracle, scene.public, Rng(0), state) is state
    leak = Leak(torch.zeros(len(pictures), 1), guesses=(pictures,))
    scores = attack.score(oracle, state, leak, gallery, Rng(0).images(gallery.names))
    return int((scores.argmax(1) == torch.arange(len(pictures))).sum())


def test_the_own_recogniser_names_blurred_pictures_and_not_the_mean_face(scene: Scene) -> None:
    people = len(scene.test) // 2
    shown, gallery = (scene.test.subset(range(first, 2 * people, 2)) for first in (0, 1))
    pictures = shown.batch(slice(None))
    blurred = torch.nn.functional.avg_pool2d(pictures, 3, 1, 1)
    assert _right(PictureLinkage(), scene, blurred, gallery) > people // 2
    assert _right(PictureLinkage(), scene, pictures.mean(0).expand_as(pictures), gallery) <= 1, "chance"
    network = PictureLinkage(recogniser="network", epochs=1)
    assert _right(network, scene, pictures, gallery) >= 1


def test_fisherfaces_tell_people_apart_and_need_people(scene: Scene) -> None:
    state = fisherfaces(scene.public, torch.device("cpu"))
    assert state.info["people"] == len(set(scene.public.subjects or ()))
    seen = fisher_embeddings(state, scene.test.batch(slice(None)))
    torch.testing.assert_close(seen.norm(dim=1), torch.ones(len(seen)))
    with pytest.raises(NotApplicable, match="no own recogniser"):
        fisherfaces(replace(scene.public, subjects=None), torch.device("cpu"))


def test_the_recogniser_is_shared_by_all_attacks_whose_pictures_it_compares() -> None:
    shadow = PictureLinkage(attack="shadow_client", knowledge="server")
    assert shadow.base == PictureLinkage().base
    assert shadow.base is not None and shadow.base.base is None and shadow.base.parts == ()


def test_the_operator_learns_a_client_through_which_the_server_names_templates(scene: Scene) -> None:
    attack = ShadowLinkage(width=16, shadow=ShadowTraining(steps=10, batch=16))
    system, victims = scene.system(Open()), scene.public.subset(range(40, 80))
    with torch.no_grad():
        stolen, others = (system.encode(faces.batch(slice(None))) for faces in (scene.test, victims))
    oracle = Oracle(attack.level, system, Rng(0), stolen=torch.cat([stolen, others]).numpy())
    state = attack.fit(oracle, scene.public.subset(range(40)), Rng(0))
    targets, gallery = scene.test.subset(range(0, 12, 2)), scene.test.subset(range(1, 12, 2))
    scores = attack.score(oracle, state, Leak(stolen[0:12:2]), gallery, Rng(0).images(targets.names))
    assert scores.shape == (6, 6) and bool(torch.isfinite(scores).all())
    own, other = scores.diagonal().mean(), (scores.sum() - scores.diagonal().sum()) / 30
    assert float(own - other) > 0.05
    assert {"encode", "enrol", "embed", "similarity"}.isdisjoint(oracle.queries)


def test_a_run_links_and_reads_what_its_part_rebuilt(tmp_path: Path, cli: Cli) -> None:
    text = CONFIG.replace(
        '["mean_face", "resrec", "replay"]', '["mean_face", "unpaired", "names", "traits", "control"]\nimages = 6'
    ).replace('["unprotected", "laplace", "advface"]', '["unprotected"]')
    text += '\n[attacks.names]\nplugin = "picture_linkage"\n\n[attacks.traits]\nplugin = "picture_traits"\n'
    text += '\n[attacks.control]\nplugin = "picture_linkage"\nattack = "mean_face"\nknowledge = "blind"\n'
    (tmp_path / "bench.toml").write_text(text)
    cli("run", "-q", cwd=tmp_path)
    found = {record.cell.attack: record for record in Run(tmp_path / "out" / "main").records()}
    names, control = found["names"], found["control"]
    assert names.info["gallery"] < 7, "people of whom no image was attacked are left out"
    assert names.info["required"] == PictureLinkage.required
    assert names.metrics["rank1"].value is not None
    assert (control.metrics["rank1"].value or 0.0) <= 1 / names.info["gallery"]
    assert str(names.cell.level) == "database" and str(control.cell.level) == "blind"
    text = text.replace('plugin = "picture_traits"', 'plugin = "picture_traits"\nattack = "resrec"')
    (tmp_path / "bench.toml").write_text(text)
    with pytest.raises(UserError, match="is not among"):
        load(tmp_path / "bench.toml")
