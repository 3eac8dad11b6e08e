"""DuetFace: what is stored, what can be rebuilt of it, and the recogniser that the server trains for it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from support import CONFIG, TOYS, Cli, figures

from bench.contracts import FaceSet, Knowledge, Oracle, Rng, SplitNetwork, State, System
from bench.errors import DataError
from bench.settings import registry
from bench.toolkit.block_dct import block_dct
from bench.toolkit.decoders import DecoderSpec, Training, build_decoder, train_decoder

CPU = torch.device("cpu")
CRUCIAL = {plane * 64 + c for plane in range(3) for c in (0, 1, 2, 3, 4, 5, 8, 9, 16, 24)}


@pytest.fixture(scope="module")
def scene() -> tuple[SplitNetwork, FaceSet]:
    """Pictures of fine texture: what is smooth is the client's, and leaves the server nothing."""
    recognizer = registry.make(registry.find("recognizer", str(TOYS / "tiny.py"), "test"), {}, "test")
    pictures = np.random.default_rng(0).integers(0, 256, (160, 12, 10, 3), dtype=np.uint8).repeat(2, 1).repeat(2, 2)
    names = tuple(map(str, range(len(pictures))))
    faces = FaceSet(pictures, np.arange(len(pictures)), names, None, np.ones(len(pictures), dtype=bool))
    return recognizer.load().requires_grad_(False), faces


def _unfitted(network: SplitNetwork, **parameters: Any) -> System:
    return System(network, registry.make(registry.find("defense", "duetface", "test"), parameters, "test"))


@pytest.mark.parametrize(("upsample", "grid"), [(8, (24, 20)), (1, (3, 3))])
def test_the_server_stores_all_but_the_crucial_channels(
    scene: tuple[SplitNetwork, FaceSet], upsample: int, grid: tuple[int, int]
) -> None:
    system = _unfitted(scene[0], upsample=upsample)
    images = scene[1].batch(slice(0, 3))
    stored = system.encode(images)
    assert stored.shape == (3, 162, *grid)
    kept = [c for c in range(192) if c not in CRUCIAL]
    assert torch.equal(stored, block_dct(images, upsample)[:, kept])
    assert float((stored.half().float() - stored).norm() / stored.norm()) < 1e-3


@pytest.mark.parametrize("upsample", [8, 1])
def test_the_servers_recogniser_learns_from_the_unprotected_one(
    scene: tuple[SplitNetwork, FaceSet], upsample: int
) -> None:
    network, _ = scene
    pictures = np.random.default_rng(1).integers(0, 256, (480, 12, 10, 3), dtype=np.uint8).repeat(2, 1).repeat(2, 2)
    names = tuple(map(str, range(len(pictures))))
    public = FaceSet(pictures, np.arange(len(pictures)), names, None, np.ones(len(pictures), dtype=bool))
    before = {name: value.clone() for name, value in network.state_dict().items()}
    system = _unfitted(
        network, upsample=upsample, recipe={"epochs": 8, "rounds": 1, "batch": 8, "learning_rate": 1e-3, "warm_up": 0}
    )
    state = system.defense.fit_server(system, public, Rng(0))
    assert state is not None
    start, reached = (state.info["cosine_to_unprotected"][when] for when in ("before", "after"))
    assert reached > start + 0.02, "of pictures that taught nothing"
    assert start > 0.5, "the first layer starts where least squares put it"
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    trained = System(network, system.defense, server=system.defense.prepare_server(network, state))
    images = public.batch(slice(0, 40))
    stored = trained.encode(images)
    embeddings = trained.embed(stored)
    assert float((embeddings * network.embed(network.extract(images))).sum(1).mean()) > start + 0.02
    # The server stores halves: that costs it nothing.
    assert float((trained.embed(stored.half().float()) * embeddings).sum(1).min()) > 1 - 1e-3


def test_trained_weights_are_read_and_anything_else_is_refused(
    scene: tuple[SplitNetwork, FaceSet], tmp_path: Path
) -> None:
    network, public = scene
    system = _unfitted(network, recipe={"epochs": 1})
    state = system.defense.fit_server(system, public, Rng(0))
    assert state is not None
    path = tmp_path / "duetface.safetensors"
    save_file(dict(state.tensors), path)
    reader = _unfitted(network, weights=str(path))
    again = reader.defense.fit_server(reader, public, Rng(1))
    assert again is not None
    assert all(torch.equal(value, again.tensors[name]) for name, value in state.tensors.items())
    other = _unfitted(network, weights=str(path), upsample=1)
    with pytest.raises(DataError, match="another architecture"):
        other.defense.fit_server(other, public, Rng(0))
    with pytest.raises(DataError, match=r"nowhere.safetensors: no such file; set \[defenses.duetface\] weights"):
        _unfitted(network, weights="nowhere.safetensors").defense.files()


@pytest.mark.parametrize("upsample", [8, 1])
@pytest.mark.parametrize("architecture", ["trans", "res", "unet"])
def test_decoders_learn_to_undo_it(scene: tuple[SplitNetwork, FaceSet], architecture: Any, upsample: int) -> None:
    network, public = scene
    oracle = Oracle(Knowledge.ENCODER, _unfitted(network, upsample=upsample), Rng(0))

    def make() -> torch.nn.Module:
        spec = DecoderSpec(architecture, "batch", 16)
        return build_decoder(spec, oracle.feature_shape, oracle.layout, oracle.image_size)

    training = Training(epochs=4 if upsample == 8 else 9, batch=8)
    state: State = train_decoder(make, oracle.encode, public, training, Rng(0), CPU, "test")
    assert state.info["curve_held_out_l1"][-1] < (0.2 if upsample == 8 else 0.245), "constant grey has 0.252"


DUETFACE = """
[defenses.duetface]
recipe = { epochs = 2 }
"""


def test_it_runs_like_any_other(config: Path, cli: Cli) -> None:
    config.write_text(CONFIG + DUETFACE)
    chosen = ("--set", 'run.defenses=["duetface"]')
    cli("run", "-q", *chosen)
    records = figures(Path("out/main"))
    assert {record["status"] for record in records.values()} == {"ok"}  # type: ignore[index]
    (templates,) = Path("store/templates").glob("*/templates.npy")
    assert templates.stat().st_size == pytest.approx(32 * 162 * 24 * 20 * 2, rel=0.01)
    said = cli("run", "--dry-run", *chosen, "--set", "defenses.duetface.upsample=1").stdout
    assert "server state: duetface" in said
