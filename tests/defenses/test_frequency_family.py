"""The frequency family: what each defence stores, by its definition, and what whoever has a client device sees."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support import CONFIG, Cli, figures
from torch import Tensor

from bench.analysis.best_known import best_known
from bench.checks import Scene
from bench.contracts import Knowledge, Rng, System, UserError
from bench.contracts.oracle import Oracle
from bench.settings import registry
from bench.settings.controls import controls
from bench.toolkit.block_dct import block_dct, read_block_dct

CRUCIAL = {0, 1, 2, 3, 4, 5, 8, 9, 16, 24}
KEPT = [plane * 64 + c for plane in range(3) for c in range(64) if c not in CRUCIAL]
NAMES = ("partialface", "fracface", "dctdp", "minusface")
BRIEF: dict[str, dict[str, Any]] = {"dctdp": {"fit_steps": 4}, "minusface": {"fit_steps": 4, "width": 4}}


@pytest.fixture(scope="module")
def scene() -> Scene:
    return Scene.small(public=40)


@pytest.fixture(scope="module")
def system(scene: Scene) -> Callable[..., System]:
    def make(name: str, **parameters: Any) -> System:
        defense = registry.make(registry.find("defense", name, "test"), BRIEF.get(name, {}) | parameters, "test")
        return scene.system(defense, defense.fit(scene.network, scene.public, Rng(0)))

    return make


def _templates(system: System, images: Tensor, seed: int = 0) -> Tensor:
    with torch.no_grad():
        return system.send(images, Rng(seed).images([*map(str, range(len(images)))]))


def _sources(channels: Tensor, templates: Tensor) -> Tensor:
    """(B, C'): which channel stands in each place of a template; fails where none does."""
    same = (channels[:, None] == templates[:, :, None]).all((3, 4))
    assert bool(same.any(2).all())
    return same.int().argmax(2)


# ------------------------------------------------------------------------------------------------- what is stored


def test_partialface_shows_one_subset_of_what_is_left_in_one_order(scene: Scene, system: Callable[..., System]) -> None:
    images = scene.images(1).expand(200, -1, -1, -1)[:, :, :16, :16]
    stored = _templates(system("partialface"), images)
    assert stored.shape == (200, 27, 16, 16)
    shown = _sources(block_dct(images[:1])[:, KEPT].expand(200, -1, -1, -1), stored)
    assert torch.equal(shown[:, :9] + 54, shown[:, 9:18]), "the same channels of each plane"
    assert torch.equal(shown[:, :9] + 108, shown[:, 18:])
    views = {tuple(view) for view in shown[:, :9].tolist()}
    subsets = {frozenset(view) for view in views}
    assert len(views) == 36
    assert len(subsets) == 6
    assert sorted(c for subset in subsets for c in subset) == list(range(54)), "disjoint, and all of them"
    assert {tuple(sorted(s)) for s in subsets} <= views, "one order is the natural one"


def test_partialface_refuses_subsets_of_unequal_size() -> None:
    with pytest.raises(UserError, match="subsets must divide 54"):
        registry.make(registry.find("defense", "partialface", "test"), {"subsets": 5}, "test")


def test_fracface_relabels_by_a_square_blown_up_by_itself(scene: Scene, system: Callable[..., System]) -> None:
    kept = [KEPT[9 * row + (column if row % 2 == 0 else 8 - column)] for row in range(9) for column in range(9)]
    assert all(c < 64 for c in kept[:54])
    images = scene.images(3)
    stored = _templates(system("fracface"), images)
    assert stored.shape[1] == 81
    shown = _sources(block_dct(images)[:, kept], stored)
    for entries in (shown[0].view(9, 9), shown[1].view(9, 9)):
        # Entry (3i + k, 3j + l) is (A[i, j] - 1) * 9 + A[k, l] modulo 81; on the diagonal both digits are one.
        digits = torch.stack([entries[4 * i, 4 * j] for i in range(3) for j in range(3)]).view(3, 3)
        square = digits // 10 + torch.where(digits == 0, 9, 1) if bool((digits == 0).any()) else (digits - 1) // 10 + 1
        wanted = [[((square[r // 3, c // 3] - 1) * 9 + square[r % 3, c % 3]) % 81 for c in range(9)] for r in range(9)]
        assert entries.tolist() == [[int(value) for value in row] for row in wanted]
    assert not torch.equal(shown[0], shown[1])


def test_fracfaces_secret_is_an_images_a_batchs_or_the_systems(scene: Scene, system: Callable[..., System]) -> None:
    images = scene.images(1).expand(4, -1, -1, -1)
    batch, fixed = system("fracface", draw="batch"), system("fracface", draw="fixed")
    stored = _templates(batch, images)
    assert torch.equal(stored[0], stored[3])
    assert not torch.equal(stored, _templates(batch, images, seed=1))
    assert batch.defense.protect_batch is not None
    assert torch.equal(_templates(fixed, images), _templates(fixed, images, seed=1))
    assert not fixed.defense.randomized
    halved = system("fracface", draw="fixed", input_range="released").encode(images[:1])
    torch.testing.assert_close(halved, 0.5 * fixed.encode(images[:1]), atol=1e-3, rtol=1e-3)


def test_dctdps_budgets_add_up_and_its_noise_is_an_images_own(scene: Scene, system: Callable[..., System]) -> None:
    images = scene.images(1).expand(300, -1, -1, -1)[:, :, :16, :16]
    defense = registry.make(registry.find("defense", "dctdp", "test"), {"fit_steps": 6, "epsilon": 2.0}, "test")
    small = Scene.small((16, 16), 16)
    state = defense.fit(small.network, small.public, Rng(0))
    here = small.system(defense, state)
    seen = torch.cat([defense.encode(here, small.public.batch(slice(i, i + 8))) for i in range(0, 16, 8)])
    sensitivity = seen.amax(0) - seen.amin(0)
    assert float((sensitivity / state.tensors["scale"]).mean()) == pytest.approx(2.0, rel=1e-3)
    stored = _templates(here, images)
    noise = stored - defense.reference(here, here.encode(images))
    ratio = noise.abs().mean(0) / state.tensors["scale"]  # the mean of |Laplace(0, b)| is b
    assert float(ratio.median()) == pytest.approx(1.0, abs=0.02)  # some places barely vary at all: rounding
    assert float((noise[0] * noise[1]).sum() / noise[0].square().sum()) < 0.5


def test_one_noise_for_a_batch_cancels_in_a_difference(scene: Scene, system: Callable[..., System]) -> None:
    shared = system("dctdp", noise="batch")
    images = scene.images(2)
    stored, clean = _templates(shared, images), shared.encode(images)
    torch.testing.assert_close(stored[0] - stored[1], clean[0] - clean[1], atol=0.05, rtol=1e-3)
    assert shared.defense.protect_batch is not None


def test_dctdp_claims_what_its_budgets_compose_to_or_nothing(system: Callable[..., System]) -> None:
    said = system("dctdp", epsilon=1.0).defense.claims((112, 96))
    assert said["epsilon of a pixel, composed"] == 189
    assert said["epsilon of an image, composed"] == 189 * 112 * 96
    for parameters in ({"sensitivity": "ones"}, {"noise": "batch"}):
        assert str(system("dctdp", **parameters).defense.claims((112, 96))["epsilon"]).startswith("none")


def test_minusface_sends_a_picture_whose_mean_over_orders_is_that_of_the_mean_channel(
    scene: Scene, system: Callable[..., System]
) -> None:
    open_ = system("minusface", clamp=False)
    images = scene.images(1)
    residue = open_.encode(images)
    many = _templates(open_, images.expand(200, -1, -1, -1))
    mean = residue.mean(1, keepdim=True).expand_as(residue)
    error = many.mean(0) - read_block_dct(mean, scene.network.image_size)[0]
    assert float(error.abs().mean()) < 0.2 * float((many - many.mean(0)).abs().mean())
    closed = _templates(system("minusface"), images)
    assert 0 <= float(closed.min()) <= float(closed.max()) <= 1
    assert not torch.equal(many[0], many[1])


def test_minusfaces_generator_learns_to_draw_the_face() -> None:
    small = Scene.small((16, 16), 16)
    images = small.public.batch(slice(0, 8))
    errors = []
    for steps in (1, 150):
        parameters = {"fit_steps": steps, "width": 8, "learning_rate": 5e-3}
        defense = registry.make(registry.find("defense", "minusface", "test"), parameters, "test")
        trained = small.system(defense, defense.fit(small.network, small.public, Rng(0)))
        drawn = block_dct(images) - trained.encode(images)
        errors.append(float((read_block_dct(drawn, (16, 16)).clamp(0, 1) - images).abs().mean()))
    assert errors[1] < 0.7 * errors[0]


# ------------------------------------------------------------------------------------------- who sees what of it


@pytest.mark.parametrize("name", NAMES)
def test_a_client_device_shows_what_will_be_stored(scene: Scene, system: Callable[..., System], name: str) -> None:
    protected = system(name)
    oracle = Oracle(Knowledge.ENCODER, protected, Rng(3))
    images = scene.images(2)
    one, other = oracle.encode(images), oracle.encode(images)
    assert one.shape == _templates(protected, images).shape == (2, *oracle.feature_shape)
    assert not torch.equal(one, other), "each query draws anew"
    assert oracle.varies
    assert oracle.queries["encode_images"] == 4


def test_noise_has_controls_and_a_selection_has_none(system: Callable[..., System]) -> None:
    assert set(controls("dctdp", system("dctdp").defense)) == {"dctdp~random", "dctdp~swapped"}
    assert not any(controls(name, system(name).defense) for name in ("partialface", "fracface", "minusface"))


def test_what_others_published_stands_beside_each() -> None:
    known = {name: best_known(name) for name in (*NAMES, "dctdp_ones", "fracface_fixed")}
    assert {name: value.ssim for name, value in known.items() if value} == {
        "partialface": 0.591, "fracface": 0.614, "fracface_fixed": 0.696, "dctdp": 0.687, "dctdp_ones": 0.687,
        "minusface": 0.5,
    }  # fmt: skip


FAMILY = """
[defenses.partialface]
recipe = { epochs = 1 }
[defenses.dctdp]
fit_steps = 2
recipe = { epochs = 1 }
[attacks.identify_and_solve]
iterations = 2
learned = 8
faces = 8
[attacks.captures]
average = 2
width = 8
training = { epochs = 1, images = 8 }
"""


def test_the_family_runs_like_any_other(config: Path, cli: Cli) -> None:
    config.write_text(CONFIG + FAMILY)
    cli(
        "run", "-q",
        "--set", 'run.defenses=["partialface", "dctdp"]',
        "--set", 'run.attacks=["mean_face", "resrec", "captures", "identify_and_solve", "resrec@algorithm"]',
        "--set", "run.controls=true",
    )  # fmt: skip
    records = figures(Path("out/main"))
    assert {record["status"] for record in records.values()} == {"ok"}  # type: ignore[index]
    assert any("dctdp~random" in name for name in records)
    text = (Path("out/main") / "records").glob("utility*dctdp--*.json")
    assert all('"epsilon of a pixel, composed": 189.0' in path.read_text() for path in text)
