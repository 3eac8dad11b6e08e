"""Attackers who know more: the same attack at several levels, averaging, linear inversion, names without pictures."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from support import CONFIG, TOYS, Cli

from bench.analysis.curve import curve_points
from bench.contracts import Evaluation, Knowledge, Leak, Oracle, Rng, State, System
from bench.contracts.oracle import client_alone
from bench.errors import KnowledgeError, NotApplicable
from bench.settings import registry
from bench.settings.controls import Canary, Control
from bench.storage.records import Run

SWEPT = """
[attacks.more]
plugin = "resrec"
knowledge = "enrolment"
width = 8
adaptation = { epochs = 2 }
sweep.enrolled = [4, 40]
"""


def _records(folder: Path) -> dict[str, dict[str, Any]]:
    return {path.stem: json.loads(path.read_text()) for path in sorted((folder / "records").glob("*.json"))}


def _find(records: dict[str, dict[str, Any]], *parts: str) -> dict[str, Any]:
    wanted = [r for name, r in records.items() if set(parts) <= set(name.split("--"))]
    assert len(wanted) == 1, (parts, sorted(records))
    return wanted[0]


LEVELS = (
    CONFIG.replace('["unprotected", "laplace", "advface"]', '["unprotected", "laplace"]')
    .replace(
        'attacks = ["mean_face", "resrec", "replay"]',
        'attacks = ["mean_face", "resrec", "resrec@algorithm", "resrec@enrolment", "linkage", "more"]\nreplay = true',
    )
    .replace("epochs = 2\n", "epochs = 12\nbatch = 8\n")
    .replace(
        "[attacks.resrec]\nwidth = 8\n",
        "[attacks.resrec]\nwidth = 16\nadaptation = { epochs = 6, batch = 8, learning_rate = 5e-3 }\n",
    )
)


@pytest.fixture(scope="module")
def levels(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    folder = tmp_path_factory.mktemp("levels")
    (folder / "bench.toml").write_text(LEVELS + SWEPT)
    cli("run", cwd=folder)
    return folder


def test_one_decoder_of_clean_features_is_where_every_level_starts(levels: Path) -> None:
    records = _records(levels / "out" / "main")
    plain, own, real = (
        set(_find(records, "reconstruction", "laplace", name)["artefacts"])
        for name in ("resrec", "resrec@algorithm", "resrec@enrolment")
    )
    started = [path.name for path in (levels / "store" / "attack_state").iterdir()]
    shared = plain & own & real & set(started)
    assert len(shared) == 1, "the base is trained once"


def test_only_who_may_enrol_enrols(levels: Path) -> None:
    records = _records(levels / "out" / "main")
    queries = {
        name: _find(records, "reconstruction", "laplace", name)["info"]["attack_state"]["queries"]
        for name in ("resrec", "resrec@algorithm", "resrec@enrolment")
    }
    assert "surrogate" not in queries["resrec"]
    assert "enrol" not in queries["resrec"]
    assert queries["resrec@algorithm"]["surrogate"] >= 1
    assert "enrol" not in queries["resrec@algorithm"]
    assert queries["resrec@enrolment"]["enrol_images"] > 0
    assert "surrogate" not in queries["resrec@enrolment"]
    assert _find(records, "reconstruction", "laplace", "resrec@enrolment")["cell"]["level"] == "enrolment"


def test_who_saw_templates_does_better_on_templates(levels: Path) -> None:
    records = _records(levels / "out" / "main")
    ssim = {
        name: _find(records, "reconstruction", "laplace", name)["metrics"]["ssim"]["value"]
        for name in ("resrec", "resrec@algorithm", "resrec@enrolment")
    }
    assert ssim["resrec@enrolment"] > ssim["resrec"] + 0.02, ssim
    assert ssim["resrec@algorithm"] > ssim["resrec"] + 0.02, ssim


def test_nothing_is_adapted_to_where_nothing_is_protected(levels: Path) -> None:
    records = _records(levels / "out" / "main")
    values = [
        _find(records, "reconstruction", "unprotected", name)["metrics"]["ssim"]["value"]
        for name in ("resrec", "resrec@algorithm", "resrec@enrolment")
    ]
    assert values[0] == values[1] == values[2]


def test_the_leaderboard_has_a_column_a_level(levels: Path, cli: Cli) -> None:
    rows = json.loads(cli("leaderboard", "out/main", "--format", "json", cwd=levels).stdout)
    row = next(r for r in rows if r["defense"] == "laplace")
    assert row["encoder_ssim"] <= row["algorithm_ssim"] <= row["enrolment_ssim"]
    assert row["whitebox_ssim"] is None, "nobody attacked at that level"
    text = (levels / "out" / "main" / "leaderboard.md").read_text()
    assert "Names without pictures" in text


def test_two_defences_are_compared_on_the_same_images(levels: Path, cli: Cli) -> None:
    done = cli("paired", "out/main", "laplace", "unprotected", "--format", "json", cwd=levels)
    rows = {row["attack"]: row for row in json.loads(done.stdout)}
    assert rows["mean_face"]["ssim"] == rows["mean_face"]["ssim_high"] == 0
    assert rows["resrec"]["ssim_high"] < 0, "noise hides something from who did not expect it"
    assert (
        "Did you mean 'unprotected'" in cli("paired", "out/main", "laplace", "unprotectd", cwd=levels, status=2).stderr
    )


def test_what_enrolled_faces_are_worth_is_drawn(levels: Path) -> None:
    points = curve_points(Run(levels / "out" / "main"))
    assert set(points["x"]) == {4.0, 40.0}
    assert set(points["defense"]) == {"unprotected", "laplace"}
    assert (points["low"] <= points["y"]).all() and (points["y"] <= points["high"]).all()
    with Image.open(levels / "out" / "main" / "curve_ssim.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5


def test_a_gallery_names_whose_template_it_is(levels: Path) -> None:
    records = _records(levels / "out" / "main")
    record = _find(records, "linkage", "unprotected", "linkage")
    assert record["info"]["gallery"] == 16
    assert record["metrics"]["rank1"]["value"] == record["metrics"]["rank1_login"]["value"] > 0.5
    scores = pd.read_parquet(
        next((levels / "out" / "main" / "records").glob("linkage--*unprotected--linkage*.parquet"))
    )
    assert scores["rank"].min() >= 1


def test_a_level_that_an_attack_lacks_is_refused(tmp_path: Path, cli: Cli) -> None:
    for label, said in (("resrec@enrolmnt", "Did you mean 'enrolment'"), ("mean_face@encoder", "one level")):
        (tmp_path / "bench.toml").write_text(CONFIG.replace('"resrec", "replay"', f'"resrec", "{label}"'))
        assert said in " ".join(cli("config", cwd=tmp_path, status=2).stderr.split())


# ------------------------------------------------------------------------------------------------ single attacks


@pytest.fixture(scope="module")
def tiny() -> Any:
    return registry.make(registry.find("recognizer", str(TOYS / "tiny.py"), "test"), {}, "test")


@pytest.fixture(scope="module")
def blobs(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Evaluation:
    dataset = registry.make(registry.find("dataset", str(TOYS / "blobs.py"), "test"), {}, "test")
    evaluation: Evaluation = dataset.load(tiny.alignment, tmp_path_factory.mktemp("cache"))
    return evaluation


def _attack(name: str, **parameters: Any) -> Any:
    return registry.make(registry.find("attack", name, "test"), parameters, "test")


def _system(tiny: Any, defense: Any) -> System:
    network = tiny.load()
    state = defense.fit(network, None, Rng(3))
    return System(network, defense, defense.prepare(network, state))


def test_linear_inversion_opens_an_affine_client_and_leaves_others(tiny: Any, blobs: Evaluation) -> None:
    assert blobs.public is not None
    attack = _attack("linear_inversion", iterations=20, calibration=8, tolerance=0)
    system = _system(tiny, Canary(kind="affine"))
    oracle = Oracle(Knowledge.ALGORITHM, system, Rng(0))
    state = attack.fit(oracle, blobs.public, Rng(1))
    images = blobs.test.batch(slice(0, 6))
    rebuilt = attack.reconstruct(oracle, state, Leak(system.encode(images)), Rng(2).images("abcdef"))
    assert (rebuilt - images).abs().max() < 1e-4
    assert oracle.reported["relative_residual"] < 1e-4
    curved = Oracle(Knowledge.ALGORITHM, _system(tiny, Canary(kind="open")), Rng(0))
    with pytest.raises(NotApplicable, match="not affine"):
        attack.fit(curved, blobs.public, Rng(1))


def test_linear_inversion_opens_a_frequency_split_up_to_what_it_withholds(tiny: Any, blobs: Evaluation) -> None:
    assert blobs.public is not None
    duetface = registry.make(registry.find("defense", "duetface", "test"), {"upsample": 8}, "test")
    oracle = Oracle(Knowledge.ALGORITHM, System(tiny.load(), duetface, templates_only=True), Rng(0))
    attack = _attack("linear_inversion", calibration=16)
    state = attack.fit(oracle, blobs.public, Rng(1))
    images = blobs.test.batch(slice(0, 4))
    rebuilt = attack.reconstruct(oracle, state, Leak(oracle.encode(images)), Rng(2).images("abcd"))
    error = rebuilt - images
    constant = error.mean((2, 3), keepdim=True)
    assert (error - constant).abs().mean() < 0.005, "what is missing is one constant a plane"
    assert constant.abs().mean() > 0.005, "the constant is not in the template"
    unseen = images - state.tensors["start"]
    assert constant.abs().mean() < unseen.mean((2, 3)).abs().mean(), (
        "but it can be guessed better than by the mean face"
    )


def test_linear_inversion_stops_where_an_image_is_solved_whoever_is_beside_it(tiny: Any, blobs: Evaluation) -> None:
    assert blobs.public is not None
    system = _system(tiny, Canary(kind="affine"))
    images = blobs.test.batch(slice(0, 4))
    residuals = {}
    for tolerance in (0.3, 0.01):
        oracle = Oracle(Knowledge.ALGORITHM, system, Rng(0))
        attack = _attack("linear_inversion", calibration=8, tolerance=tolerance)
        state = attack.fit(oracle, blobs.public, Rng(1))
        together = attack.reconstruct(oracle, state, Leak(system.encode(images)), Rng(2).images("abcd"))
        alone = attack.reconstruct(oracle, state, Leak(system.encode(images[2:3])), Rng(2).images("c"))
        assert torch.allclose(alone[0], together[2], atol=1e-5)
        residuals[tolerance] = oracle.reported["relative_residual"]
        assert residuals[tolerance] < tolerance
    assert residuals[0.01] < residuals[0.3]


def test_averaging_sees_through_noise_that_is_drawn_anew(tiny: Any, blobs: Evaluation) -> None:
    assert blobs.public is not None
    noise = registry.make(registry.find("defense", "random_noise", "test"), {}, "test")
    network = tiny.load()
    system = System(network, noise, noise.prepare(network, noise.fit(network, blobs.public, Rng(3))))
    attack = _attack("resrec", average=24, width=16, training={"epochs": 15, "batch": 8})
    oracle = Oracle(Knowledge.ENCODER, system, Rng(0))
    decoder = attack.prepare(oracle, attack.fit(oracle, blobs.public, Rng(1)))
    images = blobs.test.batch(slice(0, 16))
    names = [str(i) for i in range(16)]
    features = system.encode(images)
    stored, *others = (system.protect(features, Rng(9).child(k).images(names)) for k in range(24))
    once = attack.reconstruct(oracle, decoder, Leak(stored), Rng(2).images(names))
    often = attack.reconstruct(oracle, decoder, Leak(stored, others=others), Rng(2).images(names))
    assert (often - images).square().mean() < 0.8 * (once - images).square().mean()


def test_noise_in_training_makes_a_decoder_that_bears_noise(tiny: Any, blobs: Evaluation) -> None:
    assert blobs.public is not None
    system = _system(tiny, Canary(kind="open"))
    features = system.encode(blobs.test.batch(slice(0, 16)))
    noisy = features + features.std() * torch.randn(features.shape, generator=Rng(4).torch())
    error = {}
    for augment in (0.0, 1.0):
        attack = _attack("resrec", augment=augment, width=16, training={"epochs": 20, "batch": 8})
        oracle = Oracle(Knowledge.ENCODER, system, Rng(0))
        decoder = attack.prepare(oracle, attack.fit(oracle, blobs.public, Rng(1)))
        images = attack.reconstruct(oracle, decoder, Leak(noisy), Rng(2).images("a"))
        error[augment] = float((images - blobs.test.batch(slice(0, 16))).abs().mean())
    assert error[1.0] < error[0.0], error


def test_a_higher_level_cannot_be_reached_by_asking(tiny: Any, blobs: Evaluation) -> None:
    assert blobs.public is not None
    low = Oracle(Knowledge.ENCODER, _system(tiny, Canary(kind="fixed")), Rng(0))
    attack = _attack("resrec", knowledge="enrolment", width=8)
    with pytest.raises(KnowledgeError):
        attack.adapt(low, blobs.public, Rng(1), State())


# ----------------------------------------------------------------------------------------------------- controls


def test_controls_have_the_strength_of_the_noise_that_they_replace(tiny: Any, blobs: Evaluation) -> None:
    assert blobs.public is not None
    laplace = registry.make(registry.find("defense", "laplace", "test"), {}, "test")
    network = tiny.load()
    state = laplace.prepare(network, laplace.fit(network, blobs.public, Rng(3)))
    features = network.extract(blobs.test.batch(slice(0, 8)))
    names = [str(i) for i in range(8)]
    own = System(network, laplace, state).protect(features, Rng(5).images(names)) - features
    noises = {}
    for kind in ("random", "swapped"):
        control = Control(defense=laplace, noise=kind)  # type: ignore[arg-type]
        noises[kind] = System(network, control, state).protect(features, Rng(5).images(names)) - features
    rms = {kind: noise.flatten(1).square().mean(1).sqrt() for kind, noise in {"own": own, **noises}.items()}
    torch.testing.assert_close(rms["random"], rms["own"], rtol=0.1, atol=0)
    torch.testing.assert_close(noises["swapped"], own.roll(1, 0))
    assert client_alone(network).extract(blobs.test.batch(slice(0, 1))).shape == features[:1].shape
