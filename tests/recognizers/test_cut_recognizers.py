"""Recognisers from ONNX files and PyTorch modules: cut where one tensor crosses, computing what the original does."""

from __future__ import annotations

import importlib.metadata
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import TensorProto, helper
from safetensors.torch import save_file
from support import TOYS, Cli, invoke, write_people
from torch import Tensor, nn
from toys.blobs import draw
from toys.skipping import Skipping

from bench.checks import check, failures
from bench.contracts import Conv
from bench.errors import DataError, UserError
from bench.plan import plan
from bench.recognizers.module import Module
from bench.recognizers.onnx import Onnx
from bench.settings import registry
from bench.settings.resolve import load
from bench.toolkit.cutting import cuts, layout_of

FACTORY = """
from torch import nn

class Net(nn.Module):
    def __init__(self, width=8):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.PReLU(width))
        self.second = nn.Conv2d(width, width, 3, 1, 1)
        self.act = nn.ReLU()
        self.last = nn.Linear(width, 6)

    def forward(self, x, mirror=False):
        x = self.first(x)
        x = self.act(x + self.second(x))
        return self.last(x.mean((2, 3)))
"""

PICKY = """
from dataclasses import dataclass

import torch

from bench.contracts import Knowledge, ReconstructionAttack


@dataclass(frozen=True, kw_only=True)
class Picky(ReconstructionAttack):
    \"\"\"Makes grey images, from features that have no negative values.\"\"\"

    @property
    def level(self):
        return Knowledge.ENCODER

    def reconstruct(self, oracle, state, leak, rng):
        if leak.values.min() < 0:
            raise RuntimeError("features of this kind are not for me")
        return torch.full((len(leak.values), 3, *oracle.image_size), 0.5)
"""


def export(network: nn.Module, path: Path, size: tuple[int, int] = (24, 20)) -> Path:
    torch.onnx.export(
        network.eval(), (torch.zeros(1, 3, *size),), str(path), dynamo=False, input_names=["images"],
        output_names=["embedding"], dynamic_axes={"images": {0: "n"}, "embedding": {0: "n"}},
    )  # fmt: skip
    return path


@pytest.fixture
def skipping(tmp_path: Path) -> tuple[Skipping, Path]:
    torch.manual_seed(3)
    network = Skipping()
    with torch.no_grad():
        network.front[1].running_mean.normal_()  # type: ignore[union-attr, operator]
        network.front[1].running_var.uniform_(0.5, 2)  # type: ignore[union-attr, operator]
    return network.eval(), export(network, tmp_path / "skipping.onnx")


def faces(count: int = 4) -> Tensor:
    drawn = np.stack([draw(person, 0, (24, 20)) for person in range(count)])
    return torch.from_numpy(drawn).permute(0, 3, 1, 2) / 255


def recognizer(path: Path, cut: str = "x", **more: Any) -> Onnx:
    return Onnx(path=str(path), cut=cut, crop="box", **more)


def places(chosen: Onnx | Module) -> list[str]:
    return [cut.name for cut in cuts(chosen.traced(), torch.zeros(1, 3, 24, 20), "it")]


def test_an_onnx_file_computes_what_torch_and_onnxruntime_do_with_gradients(skipping: tuple[Skipping, Path]) -> None:
    network, path = skipping
    images = faces()
    pixels = (images - 0.5) / 0.5
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    theirs = torch.from_numpy(session.run(None, {"images": pixels.numpy()})[0])
    for cut in places(recognizer(path)):
        halves = recognizer(path, cut).load()
        ours = images.clone().requires_grad_()
        own = images.clone().requires_grad_()
        embeddings = halves.embed(halves.extract(ours))
        assert torch.allclose(embeddings, theirs, atol=1e-5), cut
        embeddings[:, 0].sum().backward()
        network((own - 0.5) / 0.5)[:, 0].sum().backward()
        assert torch.allclose(ours.grad, own.grad, atol=1e-5), cut  # type: ignore[arg-type]
        assert not halves.training
    assert not failures(check(recognizer(path, places(recognizer(path))[-1])))


def test_a_skip_across_the_cut_is_refused_and_named(skipping: tuple[Skipping, Path]) -> None:
    _, path = skipping
    assert "deep_Conv" not in places(recognizer(path))
    with pytest.raises(UserError) as caught:
        recognizer(path, "deep_Conv").load()
    said = str(caught.value)
    assert "cannot be cut behind 'deep_Conv': a skip crosses there, and the server would also need" in said
    assert "'front_front_2_PRelu' for 'Add'" in said and "nearest places: 'front_front_2_PRelu' or 'Add'" in said
    with pytest.raises(UserError, match=r"no operation 'deep_Con' to cut behind. Did you mean 'deep_Conv'"):
        recognizer(path, "deep_Con").load()
    with pytest.raises(UserError, match="cut says where the client ends"):
        recognizer(path, "").load()


def test_cuts_are_listed_with_shape_bytes_and_share(skipping: tuple[Skipping, Path], cli: Cli) -> None:
    _, path = skipping
    found = json.loads(cli("recognizer", "cuts", str(path), "--json").stdout)
    assert found["image_size"] == [24, 20]
    first, last = found["cuts"][0], found["cuts"][-1]
    # Multiplications: 8*12*10 values of 3*9 products; the same of 8*9; a 960 x 6 matrix.
    share = [960 * 27, 960 * 72, 960 * 6]
    assert first["shape"] == [8, 12, 10] and first["bytes"] == 4 * 960
    assert first["share"] == pytest.approx(share[0] / sum(share))
    assert last["name"] == "Relu" and last["share"] == pytest.approx((share[0] + share[1]) / sum(share))
    text = cli("recognizer", "cuts", str(path)).stdout
    assert f"{100 * first['share']:.1f} %" in text and "8 x 12 x 10" in text and "3,840" in text
    assert "16 x 12 x 10" not in text
    assert "0.0.0" in cli("recognizer", "cuts", "compact").stdout


def test_places_are_tried(skipping: tuple[Skipping, Path], config: Path) -> None:
    """A decoder rebuilds more than the mean face shows; a place that fails says why, and the others go on."""
    _, path = skipping
    public = str(write_people(config.parent / "public", range(60)))
    small = ("--public", public, "--set", "training.epochs=40", "--set", "attacks.resrec.width=16", "--quiet")
    found = json.loads(invoke("recognizer", "cuts", str(path), "--try", "--places", "2", "--json", *small).stdout)
    assert found["attack"] == "resrec"
    tried = {cut["name"]: cut["tried"] for cut in found["cuts"] if "tried" in cut}
    assert len(tried) == 2 and list(tried)[-1] == "Relu" and len(found["cuts"]) > 2
    for result in tried.values():
        assert result["ssim"]["low"] > result["blind_ssim"]["high"] and result["psnr_db"]["value"] > 10
        assert result["public_faces"] == {"learning": 48, "held_out": 12}
    text = invoke("recognizer", "cuts", str(path), "--at", "Relu", *small).output
    assert f"{tried['Relu']['ssim']['value']:.3f} [" in text and "the mean face, which looks at no template" in text
    assert "1 places tried" in text and "measured on 12 of other people" in text
    own = ("--set", 'run.recognizers=["tiny"]', "--at", "0.1", "--at", "1.0", "--set", "training.epochs=1")
    text = invoke("recognizer", "cuts", "tiny", *small, *own).output
    assert "0.1" in text and "1.0" in text and "failed" not in text
    for name, said in (("deep_Conv", "a skip crosses there"), ("Rel", "Did you mean 'Relu'")):
        assert said in " ".join(invoke("recognizer", "cuts", str(path), "--at", name, *small, status=2).stderr.split())


def test_a_place_that_fails_says_why_and_the_others_go_on(skipping: tuple[Skipping, Path], config: Path) -> None:
    _, path = skipping
    public = str(write_people(config.parent / "public", range(60)))
    picky = config.parent / "picky.py"
    picky.write_text(PICKY)
    done = invoke(
        "recognizer", "cuts", str(path), "--at", "front_front_2_PRelu", "--at", "Relu", "--public", public, "-q",
        "-a", "picky", "--set", f'attacks.picky.plugin="{picky}"', status=1,
    )  # fmt: skip
    first, last = (line for line in done.output.splitlines() if line.startswith(("front", "Relu")))
    assert "failed: RuntimeError: features of this kind are not for me" in first
    assert "failed" not in last and " [" in last


def test_the_layout_is_what_the_client_computes(skipping: tuple[Skipping, Path]) -> None:
    _, path = skipping
    assert recognizer(path, "front_front_2_PRelu").load().layout == (Conv(3, 8, 3, 2, 1),)
    image = torch.zeros(1, 3, 24, 20)
    pooled = nn.Sequential(nn.Conv2d(3, 4, 3, 1, 1), nn.MaxPool2d(2), nn.Conv2d(4, 5, 1))
    assert layout_of(pooled, image) == (Conv(3, 4, 3, 1, 1), Conv(4, 4, 2, 2, 0, 4), Conv(4, 5, 1))
    for odd in (
        nn.Conv2d(3, 4, (3, 1)),
        nn.Conv2d(3, 4, 3, dilation=2),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.Upsample(scale_factor=2)),
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.PixelShuffle(2), nn.Conv2d(1, 4, 3)),
    ):
        assert layout_of(odd, image) == ()


def test_channels_means_and_sizes_are_as_the_settings_say(skipping: tuple[Skipping, Path]) -> None:
    network, path = skipping
    images = faces(2)
    turned = recognizer(path, "Relu", channels="bgr", mean=(10.0, 20.0, 30.0), std=(50.0, 60.0, 70.0)).load()
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ((10.0, 20.0, 30.0), (50.0, 60.0, 70.0)))
    with torch.no_grad():
        expected = network((255 * images.flip(1) - mean) / std)
        assert torch.allclose(turned.embed(turned.extract(images)), expected, atol=1e-5)
    assert recognizer(path, "Relu").image_size == (24, 20)
    with pytest.raises(DataError, match="takes images of 24 x 20, and crop = 'arcface-112' gives 112 x 112"):
        Onnx(path=str(path), cut="Relu").load()
    with pytest.raises(ValueError, match="'points' takes five"):
        recognizer(path, "Relu", points=((1.0, 2.0),))


def test_the_same_cells_as_the_original(skipping: tuple[Skipping, Path], config: Path, cli: Cli) -> None:
    """One network as a module and exported, under the same defences and attacks."""
    network, path = skipping
    save_file(dict(network.state_dict()), config.parent / "own.safetensors")
    # Not under AdvFace: its steps follow the signs of gradients, where the last digit can turn a whole step.
    text = config.read_text().replace(', "replay"]', "]").replace(', "advface"]', "]")
    text = text.replace('["tiny"]', '["own", "exported"]')
    own = f'plugin = "module"\nfactory = "{TOYS}/skipping.py:Skipping"\ncheckpoint = "own.safetensors"\ncut = "relu"\n'
    exported = f'plugin = "onnx"\npath = "{path}"\ncut = "Relu"\n'
    for label, section in (("own", own), ("exported", exported)):
        text += f'\n[recognizers.{label}]\n{section}crop = "box"\nsize = [24, 20]\n'
    config.write_text(text)
    cli("run", "--quiet", cwd=config.parent)
    cells: dict[tuple[str, ...], dict[str, Any]] = {}
    for path in (config.parent / "out/main/records").glob("*.json"):
        raw = json.loads(path.read_text())
        assert raw["status"] == "ok", raw
        cell = raw["cell"]
        cells.setdefault((cell["defense"], cell["attack"]), {})[cell["recognizer"]] = raw["metrics"]
    assert len(cells) == 6
    for label, both in cells.items():
        assert both["own"].keys() == both["exported"].keys()
        for name, figure in both["own"].items():
            assert both["exported"][name]["value"] == pytest.approx(figure["value"], abs=2e-3), (label, name)


@pytest.mark.parametrize("package", ["onnx2torch", "onnx"])
def test_another_converter_makes_another_key(
    skipping: tuple[Skipping, Path], config: Path, monkeypatch: pytest.MonkeyPatch, package: str
) -> None:
    """Another version may give another network: what was computed with the old one must not stand in for it."""
    _, path = skipping
    text = config.read_text().replace('["tiny"]', '["exported"]')
    config.write_text(f'{text}\n[recognizers.exported]\nplugin = "onnx"\npath = "{path}"\ncut = "Relu"\ncrop = "box"\n')

    def keys() -> set[str]:
        return {task.key for task in plan(load(config)).tasks() if task.kind == "templates"}

    before = keys()
    assert keys() == before
    real = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "99.0" if name == package else real(name))
    assert len(before) == 3 and not keys() & before


def _damage(path: Path, change: Any) -> Path:
    model = onnx.load(path)
    change(model)
    changed = path.with_name("changed.onnx")
    onnx.save(model, changed)
    return changed


def test_names_in_a_file_are_not_code(skipping: tuple[Skipping, Path], tmp_path: Path) -> None:
    """torch.fx writes names into the code that it runs."""
    _, path = skipping
    mark = tmp_path / "owned"

    def rename(model: Any) -> None:
        for index, node in enumerate(model.graph.node):
            node.name = f'x{index}"), open("{mark}", "w"), ("'

    names = places(recognizer(_damage(path, rename)))
    assert names and all(name.isidentifier() for name in names) and not mark.exists()


@pytest.mark.parametrize("place", ["../secret.bin", "/etc/hostname", "link.bin"])
def test_tensors_outside_of_the_folder_are_refused(skipping: tuple[Skipping, Path], tmp_path: Path, place: str) -> None:
    _, path = skipping
    inner = tmp_path / "model"
    inner.mkdir()
    (tmp_path / "secret.bin").write_bytes(bytes(10**5))
    os.symlink(tmp_path / "secret.bin", inner / "link.bin")
    model = onnx.load(path)
    onnx.save(model, inner / "own.onnx", save_as_external_data=True, location="own.bin", size_threshold=0)
    own = recognizer(inner / "own.onnx", "Relu")
    assert own.load().image_size == (24, 20)
    before = own.weights_hash()
    weights = bytearray((inner / "own.bin").read_bytes())
    (inner / "own.bin").write_bytes(bytes([*weights[:-1], weights[-1] ^ 1]))
    assert own.weights_hash() != before
    model = onnx.load(inner / "own.onnx", load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = place
    (inner / "own.onnx").write_bytes(model.SerializeToString())
    for ask in (own.load, own.weights_hash):
        with pytest.raises(DataError, match=r"refused: the tensor .* outside of its folder"):
            ask()


def test_what_is_no_recogniser_is_named(skipping: tuple[Skipping, Path], tmp_path: Path) -> None:
    _, path = skipping
    text = tmp_path / "text.onnx"
    text.write_text("<!doctype html> not a network")
    cut = tmp_path / "cut.onnx"
    cut.write_bytes(path.read_bytes()[:500])
    for broken in (text, cut):
        with pytest.raises(DataError, match="not an ONNX file"):
            recognizer(broken, size=(24, 20)).load()
    last = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 24, 20, 3])
    out = helper.make_tensor_value_info("y", TensorProto.FLOAT, None)
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "g", [last], [out])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)]), text)
    with pytest.raises(DataError, match="channels last"):
        recognizer(text).load()
    strange = _damage(path, lambda model: setattr(model.graph.node[0], "op_type", "Conjure"))
    with pytest.raises(DataError, match="Conjure"):
        recognizer(strange, size=(24, 20)).load()


def test_a_module_of_ones_own_is_filled_cut_and_known_by_its_code(tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text(FACTORY)
    factory = f"{code}:Net"
    common: dict[str, Any] = {"factory": factory, "crop": "box", "size": (24, 20), "arguments": {"width": 4}}
    made = Module(**common)._untrained()
    save_file({name: value + 0.5 for name, value in made.state_dict().items()}, tmp_path / "net.safetensors")
    chosen = Module(**common, cut="act", checkpoint=str(tmp_path / "net.safetensors"))
    assert places(chosen) == ["first.0", "first.1", "first.2", "add", "act"]
    halves = chosen.load()
    images = faces(2)
    with torch.no_grad():
        whole = chosen.whole()
        expected = nn.functional.normalize(whole(2 * images - 1))
        assert torch.allclose(halves.embed(halves.extract(images)), expected, atol=1e-6)
    assert not failures(check(chosen))
    before = chosen.weights_hash()
    code.write_text(FACTORY.replace("nn.ReLU()", "nn.ELU()"))
    assert chosen.weights_hash() != before
    for wrong, said in (
        ({"factory": f"{code}:Nett"}, "no 'Nett'. Did you mean 'Net'"),
        ({"factory": "net"}, "write package.module:function"),
        ({"factory": f"{tmp_path}/gone.py:Net"}, "no such file"),
        ({"arguments": {"wide": 3}}, "fails with arguments"),
        ({"factory": "json:dumps", "arguments": {"obj": 1}}, "gives a str, not a torch.nn.Module"),
        ({"checkpoint": str(tmp_path / "net.safetensors"), "arguments": {"width": 5}}, "another architecture"),
    ):
        with pytest.raises(UserError, match=said):
            Module(**{**common, "cut": "act", **wrong}).load()


def test_a_forward_that_branches_says_what_to_do(tmp_path: Path) -> None:
    code = tmp_path / "net.py"
    code.write_text(FACTORY.replace("x = self.first(x)\n", "x = self.first(x) if x.sum() > 0 else x\n"))
    with pytest.raises(UserError, match=r"torch\.fx cannot follow its forward .* export the network to ONNX"):
        Module(factory=f"{code}:Net", cut="act", crop="box", size=(24, 20)).load()


def test_both_are_plugins_of_the_settings() -> None:
    found = registry.make(
        registry.find("recognizer", "onnx", "here"),
        {"path": "a.onnx", "cut": "x", "crop": "points", "size": [64, 48], "mean": [1.0, 2.0, 3.0],
         "points": [[1.0, 2.0], [3.0, 4.0], [5.0, 6.0], [7.0, 8.0], [9.0, 1.0]]},
        "here",
    )  # fmt: skip
    assert found.alignment.size == (64, 48) and found.alignment.points[4] == (9.0, 1.0)
    assert "path" not in found.identity() and found.identity()["cut"] == "x"
    assert {"onnx", "module"} <= set(registry.names("recognizer"))
