"""Inversion by gradients: opens what is open, keeps to its subset and level, never looks at the truth."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from support import CONFIG, Cli
from torch import Tensor

from bench.contracts import Knowledge, Leak, Oracle, Rng, State, System
from bench.errors import KnowledgeError
from bench.labels import PluginKind
from bench.runner.batches import attacked_first
from bench.settings import registry

NAMES = tuple(f"face{i}" for i in range(6))


def _plugin(kind: PluginKind, name: str, **parameters: object) -> object:
    return registry.make(registry.find(kind, name, "test"), parameters, "test")


def _attack(**parameters: object):  # type: ignore[no-untyped-def]
    quick = {"iterations": 150, "learning_rate": 0.05, "variation": 1e-3, **parameters}
    return _plugin("attack", "gradient_inversion", **quick)


def _system(defense: object) -> System:
    """Features as large as the paper's are in proportion: enough of them to tell the image."""
    torch.manual_seed(3)
    client = torch.nn.Sequential(torch.nn.Conv2d(3, 16, 3, 2, 1), torch.nn.PReLU())
    from bench.contracts import Conv, SplitNetwork

    server = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(16 * 80, 8))
    layout = (Conv(3, 16, 3, 2, 1),)
    network = SplitNetwork(client, server, image_size=(16, 20), layout=layout).eval().requires_grad_(False)
    return System(network, defense)  # type: ignore[arg-type]


def _faces() -> Tensor:
    torch.manual_seed(4)
    return torch.nn.functional.interpolate(torch.rand(6, 3, 4, 5), (16, 20), mode="bilinear")


def _invert(system: System, attack, images: Tensor, order: list[int] | None = None) -> tuple[Tensor, Oracle]:  # type: ignore[no-untyped-def]
    order = order or list(range(len(images)))
    stolen = system.protect(system.encode(images), Rng(1).images(NAMES)).detach()[order]
    oracle = Oracle(Knowledge.WHITEBOX, system, Rng(2))
    rng = Rng(9).images([NAMES[i] for i in order])
    return attack.reconstruct(oracle, None, Leak(stolen), rng), oracle


def _psnr(one: Tensor, two: Tensor) -> Tensor:
    return -10 * (one - two).square().flatten(1).mean(1).log10()


def test_unprotected_features_give_the_image_away() -> None:
    system, images = _system(_plugin("defense", "unprotected")), _faces()
    found, oracle = _invert(system, _attack(), images)
    assert _psnr(found, images).mean() > 25
    assert oracle.queries["system"] == 1
    assert oracle.reported["objective"] < 0.01
    assert found.min() >= 0 and found.max() <= 1


def test_each_image_is_optimised_on_its_own() -> None:
    system, images = _system(_plugin("defense", "unprotected")), _faces()
    attack = _attack(iterations=20)
    together, _ = _invert(system, attack, images)
    turned, _ = _invert(system, attack, images, [5, 2])
    assert torch.allclose(turned, together[[5, 2]], atol=1e-4)


def test_restarts_never_raise_the_objective() -> None:
    system, images = _system(_plugin("defense", "unprotected")), _faces()
    once = _invert(system, _attack(iterations=15), images)[1].reported["objective"]
    twice = _invert(system, _attack(iterations=15, restarts=3), images)[1].reported["objective"]
    assert twice <= once


def test_too_few_steps_are_said_to_be_too_few() -> None:
    system, images = _system(_plugin("defense", "unprotected")), _faces()
    assert _invert(system, _attack(iterations=10), images)[1].reported["converged"] < 0.5


@pytest.mark.parametrize("samples", [1, 3])
def test_through_a_randomised_defence(samples: int) -> None:
    system, images = _system(_plugin("defense", "laplace", scale=0.02)), _faces()
    found, _ = _invert(system, _attack(samples=samples), images)
    blind = _psnr(torch.full_like(images, 0.5), images).mean()
    assert _psnr(found, images).mean() > blind + 6


def test_through_an_optimising_defence_with_its_noise_renewed() -> None:
    calls = []

    class Counting(type(_plugin("defense", "unprotected"))):  # type: ignore[misc]
        """Adds a constant that no gradient passes."""

        def protect(self, system: System, features: Tensor, rng: object) -> Tensor:
            calls.append(len(features))
            return features.detach() + 0.1

    system, images = _system(Counting()), _faces()
    found, _ = _invert(system, _attack(refresh=50), images)
    assert _psnr(found, images).mean() > 22
    assert len(calls) == 1 + 3, "the victim's, and one every 50 of 150 steps"


def test_below_whitebox_there_is_no_system() -> None:
    system = _system(_plugin("defense", "unprotected"))
    oracle = Oracle(Knowledge.ENROLMENT, system, Rng(2))
    with pytest.raises(KnowledgeError):
        _attack().reconstruct(oracle, None, Leak(torch.zeros(1, 16, 8, 10)), Rng(0).images(["a"]))


def test_a_subset_is_enrolled_images_of_all_folds_and_every_table_says_how_many(
    config: Path, cli: Cli, tmp_path: Path
) -> None:
    text = CONFIG.replace('attacks = ["mean_face", "resrec", "replay"]', 'attacks = ["mean_face", "wide", "replay"]')
    text = text.replace('attack = "resrec"', 'attack = "wide"')
    config.write_text(
        text
        + """
[attacks.wide]
plugin = "gradient_inversion"
iterations = 12
variation = 0.001
images = 6
images_defended = 4
"""
    )
    cli("run", "--quiet")
    records = {path.stem: json.loads(path.read_text()) for path in (tmp_path / "out/main/records").glob("*.json")}
    sizes = {
        (r["cell"]["defense"], r["cell"]["attack"]): r["metrics"]["ssim"]["n"]
        for r in records.values()
        if "ssim" in r["metrics"]
    }
    assert sizes[("unprotected", "wide")] == 6 and sizes[("laplace", "wide")] == sizes[("advface", "wide")] == 4
    assert sizes[("unprotected", "mean_face")] == 32
    replays = {r["cell"]["defense"]: r["metrics"]["srra1"]["n"] for r in records.values() if "srra1" in r["metrics"]}
    assert replays == {"unprotected": 6, "laplace": 4, "advface": 4}
    board = json.loads(cli("leaderboard", "out/main", "--format", "json").stdout)
    assert all(row["bound_ssim"] is not None for row in board), "the bound stands on the images that all attacked"
    assert any("attack not converged" in row["flags"] for row in board)


def test_the_order_of_attack_takes_folds_in_turn() -> None:
    import numpy as np

    from bench.contracts import Pairs

    pairs = Pairs(
        left=np.array([0, 2, 4, 6, 0]),
        right=np.array([1, 3, 5, 7, 3]),
        genuine=np.array([True, True, True, True, False]),
        fold=np.array([0, 0, 1, 1, 0]),
    )
    assert attacked_first(pairs, 8).tolist() == [0, 4, 2, 6, 1, 3, 5, 7]


def test_its_state_is_nothing() -> None:
    assert _attack().fit(None, None, None) is None
    assert replace(_attack(), images=None).subset(_plugin("defense", "unprotected")) is None
    assert isinstance(State(), State)


def _stolen() -> tuple[System, Tensor, Tensor]:
    system, images = _system(_plugin("defense", "unprotected")), _faces()
    return system, images, system.embed(system.encode(images))


def _search(system: System, stolen: Tensor, level: Knowledge = Knowledge.ENROLMENT, **parameters: object):  # type: ignore[no-untyped-def]
    attack = _plugin("attack", "gaussian_inversion", **{"queries": 400, "candidates": 16, **parameters})
    oracle = Oracle(level, system, Rng(2))
    state = State({"start": torch.full((3, 16, 20), 0.5)})
    found = attack.reconstruct(oracle, state, Leak(stolen), Rng(9).images(NAMES[: len(stolen)]))  # type: ignore[attr-defined]
    return found, oracle


def test_gaussians_climb_the_cosine_within_their_budget() -> None:
    system, _, stolen = _stolen()
    found, oracle = _search(system, stolen)
    before = (system.embed(system.encode(torch.full_like(found, 0.5))) * stolen).sum(1)
    after = (system.embed(system.encode(found)) * stolen).sum(1)
    assert (after >= before - 1e-5).all() and after.mean() > before.mean() + 0.1
    assert oracle.queries["embed_images"] <= 400 * len(stolen)
    reported = oracle.reported
    assert reported["queries_per_target"] <= 400
    assert reported["cosine_at_25%"] <= reported["cosine_at_100%"] == pytest.approx(float(after.mean()), abs=1e-4)


def test_a_larger_budget_reaches_further_and_alone_is_as_together() -> None:
    system, _, stolen = _stolen()
    short, long = (_search(system, stolen, queries=q)[1].reported["cosine_at_100%"] for q in (100, 1600))
    assert long > short
    together, alone = _search(system, stolen)[0], _search(system, stolen[:1])[0]
    assert torch.allclose(together[:1], alone, atol=1e-4)


def test_grey_and_symmetric_are_what_they_say() -> None:
    system, _, stolen = _stolen()
    grey = _search(system, stolen, colour=False)[0]
    assert torch.allclose(grey[:, 0], grey[:, 1]) and torch.allclose(grey[:, 1], grey[:, 2])
    mirrored = _search(system, stolen, symmetric=True)[0]
    assert torch.allclose(mirrored, mirrored.flip(-1), atol=1e-5)
    with pytest.raises(KnowledgeError):
        _search(system, stolen, Knowledge.ALGORITHM)


def test_embeddings_have_a_table_of_their_own(config: Path, cli: Cli, tmp_path: Path) -> None:
    text = CONFIG.replace(
        'attacks = ["mean_face", "resrec", "replay"]', 'attacks = ["mean_face", "dots"]\nreplay = true'
    )
    text = text.replace('"laplace", "advface"]', '"laplace"]')
    dots = '[attacks.dots]\nplugin = "gaussian_inversion"\nqueries = 64\ncandidates = 8\nimages = 3\n'
    foretold = []
    for queries in ("5000", "1000000"):
        config.write_text(text + dots.replace("64", queries))
        items = json.loads(cli("run", "--dry-run", "--json").stdout)["items"]
        foretold.append(
            sum(item["seconds"] for item in items if item["what"].startswith("reconstruction: unprotected x dots"))
        )
    assert foretold[1] > 20 * foretold[0], "two hundred times as long, timed from a short search"
    config.write_text(text + dots)
    cli("run", "--quiet")
    rows = json.loads(cli("leaderboard", "out/main", "--embeddings", "--format", "json").stdout)
    assert {(row["defense"], row["attack"]) for row in rows} == {("unprotected", "dots"), ("laplace", "dots")}
    assert all(row["targets"] == 3 and row["queries"] <= 64 and row["srra1"] is not None for row in rows)
    board = json.loads(cli("leaderboard", "out/main", "--format", "json").stdout)
    assert all(row["worst_attack"] == "" and row["srra1"] is None for row in board), "no part in the templates' worst"
    shown = (tmp_path / "out/main/leaderboard.md").read_text()
    assert "### Attacks on embeddings" in shown and (tmp_path / "out/main/embeddings.tex").exists()
