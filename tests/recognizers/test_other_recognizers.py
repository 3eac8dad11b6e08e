"""Black boxes that only embed, and FRBench's networks."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from support import Cli
from torch import nn

from bench.checks import check, failures
from bench.contracts import NotApplicable
from bench.errors import DataError, UserError
from bench.recognizers import frbench
from bench.recognizers.embedder import Embedder
from bench.recognizers.frbench import FrBench
from bench.toolkit.cutting import cuts

EMBED = '''
import numpy as np

def embed(images):
    """Mean colours of a grid of 4 x 4, in some directions."""
    assert images.dtype == np.uint8 and images.shape[1:] == (24, 20, 3)
    blocks = images.reshape(len(images), 4, 6, 4, 5, 3).mean((2, 4)).reshape(len(images), -1) / 255 - 0.5
    return blocks @ np.random.default_rng(0).normal(size=(48, 16))
'''
PROGRAM = f"""{EMBED}
import io, sys
out = io.BytesIO()
np.save(out, embed(np.load(io.BytesIO(sys.stdin.buffer.read()), allow_pickle=False)))
sys.stdout.buffer.write(out.getvalue())
"""
BOX: dict[str, Any] = {"crop": "box", "size": (24, 20)}


@pytest.fixture
def code(tmp_path: Path) -> Path:
    path = tmp_path / "box.py"
    path.write_text(EMBED)
    (tmp_path / "program.py").write_text(PROGRAM)
    return path


def test_a_function_and_a_program_embed_alike(code: Path) -> None:
    function = Embedder(function=f"{code}:embed", **BOX)
    program = Embedder(command=(sys.executable, str(code.with_name("program.py"))), **BOX)
    images = torch.rand(3, 3, 24, 20)
    found = [one.load() for one in (function, program)]
    embeddings = [network.embed(network.extract(images)) for network in found]
    assert embeddings[0].shape == (3, 16) and torch.equal(*embeddings)
    assert not failures(check(function))
    images.requires_grad_()
    with pytest.raises(NotApplicable, match="it has no gradients"):
        found[0].embed(found[0].extract(images)).sum().backward()
    assert function.weights_hash() != Embedder(function=f"{code}:embed", version="2", **BOX).weights_hash()


def test_what_is_no_embedding_is_named(code: Path) -> None:
    images = torch.rand(2, 3, 24, 20)

    def said(**what: Any) -> str:
        with pytest.raises(UserError) as caught:
            Embedder(**what, **BOX).load().extract(images)
        return str(caught.value)

    code.write_text(f"{EMBED}\ndef one(images):\n    return embed(images)[0]\n")
    assert "gave float64 (16,) for 2 images; finite floats (B, D) are wanted" in said(function=f"{code}:one")
    assert "has no 'embedd'. Did you mean 'embed'?" in said(function=f"{code}:embedd")
    assert "cannot be run" in said(command=("/nowhere/at/all",))
    assert "failed with status 3: no model" in said(
        command=(sys.executable, "-c", "import sys; print('no model', file=sys.stderr); sys.exit(3)")
    )
    assert "wrote no .npy of embeddings" in said(command=(sys.executable, "-c", "print('hello')"))
    assert "takes more than 0.2 s" in said(command=(sys.executable, "-c", "import time; time.sleep(9)"), seconds=0.2)
    with pytest.raises(ValueError, match="either a function or a command"):
        Embedder(**BOX)


def test_a_black_box_takes_part_in_what_embeddings_allow(code: Path, config: Path, cli: Cli) -> None:
    text = config.read_text().replace('["tiny"]', '["box"]').replace(', "advface"]', "]")
    text = text.replace('"replay"]', '"gaussian_inversion", "gradient_inversion", "linkage"]')
    text += f'\n[recognizers.box]\nplugin = "embedder"\nfunction = "{code}:embed"\ncrop = "box"\nsize = [24, 20]\n'
    text += "\n[attacks.gaussian_inversion]\nqueries = 64\nimages = 4\n"
    text += "\n[attacks.gradient_inversion]\niterations = 2\nimages = 2\n"
    config.write_text(text)
    cli("run", "--quiet", cwd=config.parent)
    status: dict[str, set[str]] = {}
    reasons = set()
    for path in (config.parent / "out/main/records").glob("*.json"):
        raw = json.loads(path.read_text())
        status.setdefault(raw["cell"]["attack"], set()).add(raw["status"])
        reasons.add(raw["reason"])
    assert status == {
        "": {"ok"}, "mean_face": {"ok"}, "gaussian_inversion": {"ok"}, "linkage": {"ok"},
        "resrec": {"skipped"}, "gradient_inversion": {"skipped"},
    }  # fmt: skip
    assert any("has no spatial layout" in reason for reason in reasons) and any(
        "no gradients" in reason for reason in reasons
    )


@pytest.mark.parametrize("name", ["mobilefacenet-plain", "ir-18"])
def test_frbench_backbones_are_cut_untrained(name: str) -> None:
    untrained = FrBench(network=name)
    places = cuts(untrained.traced(), torch.zeros(1, 3, 112, 112), name)
    network = FrBench(network=name, cut=places[len(places) // 3].name).load()
    images = torch.rand(2, 3, 112, 112)
    with torch.no_grad():
        expected = nn.functional.normalize(untrained.whole()(2 * images - 1).flatten(1))
        assert torch.allclose(network.embed(network.extract(images)), expected, atol=1e-5)
    again = FrBench(network=name, seed=1)
    assert again.weights_hash() != untrained.weights_hash()
    with pytest.raises(UserError, match=r"no such backbone\. Did you mean 'ir-18'"):
        FrBench(network="ir-19", cut="x").load()


def test_frbench_trained_networks_bring_their_own_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    state = FrBench(network="ir-18").whole().state_dict()
    torch.save(state, tmp_path / "weight.pt")
    points = np.array([[38.0, 51.0], [73.0, 51.0], [56.0, 71.0], [41.0, 92.0], [70.0, 92.0]]).tolist()
    pixels = {
        "size": [112, 112],
        "mean": [0.5, 0.4, 0.3],
        "std": [0.5, 0.5, 0.25],
        "channel": "bgr",
        "template": points,
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump({"backbone": {"name": "ir-18"}, "input": pixels}))
    asset = {"path": str(tmp_path), "contents": {"config": "config.yaml", "weight": "weight.pt"}}
    monkeypatch.setattr("frbench.get_asset", lambda name: asset)
    frbench._asset.cache_clear()
    chosen = FrBench(network="ir-18_arcface_ms1m", cut="input_layer.2")
    network = chosen.load()
    images = torch.rand(1, 3, 112, 112)
    mean, std = (torch.tensor(x).view(1, 3, 1, 1) for x in ([0.5, 0.4, 0.3], [0.5, 0.5, 0.25]))
    with torch.no_grad():
        expected = nn.functional.normalize(chosen.whole()((images.flip(1) - mean) / std).flatten(1))
        assert torch.allclose(network.embed(network.extract(images)), expected, atol=1e-5)
    assert chosen.alignment.points[0] == (38.0, 51.0)

    def offline(name: str) -> Any:
        raise OSError("no network")

    monkeypatch.setattr("frbench.get_asset", offline)
    frbench._asset.cache_clear()
    with pytest.raises(DataError, match=r"FRBench cannot give it \(no network\)"):
        chosen.load()
