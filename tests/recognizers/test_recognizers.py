"""Recognisers: split where they should be, filled strictly, from files that are not trusted."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bench.contracts import Recognizer
from bench.datasets.align import ImageSource, align
from bench.datasets.decoding import read_image
from bench.datasets.lfw import image_name, parse_pairs
from bench.errors import DataError
from bench.recognizers.compact import SHIPPED, Compact
from bench.recognizers.facenet import FaceNet
from bench.recognizers.mobilefacenet import MobileFaceNet, _Whole
from bench.storage.weights import read_weights


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile.safetensors"
    save_file({name: value.contiguous() for name, value in _Whole(96).state_dict().items()}, path)
    return path


@pytest.fixture(scope="module")
def facenet(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from facenet_pytorch import InceptionResnetV1

    path = tmp_path_factory.mktemp("weights") / "facenet.pt"
    state = InceptionResnetV1(pretrained=None).state_dict()
    torch.save({**state, "logits.weight": torch.zeros(3, 512), "logits.bias": torch.zeros(3)}, path)
    return path


def _check(recognizer: Recognizer, features: tuple[int, ...], width: int) -> None:
    network = recognizer.load()
    assert not network.training
    images = torch.rand(2, 3, *recognizer.image_size)
    with torch.no_grad():
        extracted = network.extract(images)
        embeddings = network.embed(extracted)
    assert tuple(extracted.shape[1:]) == features
    assert embeddings.shape == (2, width)
    assert torch.allclose(embeddings.norm(dim=1), torch.ones(2), atol=1e-5)
    convolutions = [m for m in network.client.modules() if isinstance(m, torch.nn.Conv2d)]
    stated = [(c.inputs, c.outputs, c.kernel, c.stride, c.padding, c.groups) for c in network.layout]
    real = [
        (m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.padding[0], m.groups) for m in convolutions
    ]
    assert stated == real


def test_mobilefacenet_is_split_after_its_third_convolution(mobile: Path) -> None:
    _check(MobileFaceNet(weights=str(mobile)), (128, 56, 48), 128)


def test_facenet_is_split_after_conv2d_2b_and_the_halves_make_the_whole(facenet: Path) -> None:
    from facenet_pytorch import InceptionResnetV1

    recognizer = FaceNet(weights=str(facenet))
    _check(recognizer, (64, 77, 77), 512)
    whole = InceptionResnetV1(pretrained=None).eval()
    state = torch.load(facenet, weights_only=True)
    whole.load_state_dict({k: v for k, v in state.items() if not k.startswith("logits")})
    network = recognizer.load()
    images = torch.rand(1, 3, 160, 160)
    with torch.no_grad():
        expected = whole((images * 255 - 127.5) / 128)
        assert torch.allclose(network.embed(network.extract(images)), expected, atol=1e-5)
        unit = FaceNet(weights=str(facenet), normalisation="unit").load()
        assert torch.allclose(unit.embed(unit.extract(images)), whole(images), atol=1e-5)


@pytest.mark.parametrize("kind", [MobileFaceNet, FaceNet])
def test_another_architectures_weights_are_refused(kind: type[Recognizer], tmp_path: Path) -> None:
    path = tmp_path / "other.safetensors"
    save_file({"conv1.conv.weight": torch.zeros(64, 3, 5, 5), "body.weight": torch.zeros(2)}, path)
    said = r"these weights are for another architecture; missing: .* more; unexpected: .*body.weight"
    with pytest.raises(DataError, match=said):
        kind(weights=str(path)).load()  # type: ignore[call-arg]


def test_both_halves_of_what_is_wrong_are_told(mobile: Path, tmp_path: Path) -> None:
    state = read_weights(mobile)
    other = tmp_path / "other.pt"
    torch.save({**{f"x.{n}": v for n, v in state.items()}, "conv1.conv.weight": torch.zeros(64, 3, 5, 5)}, other)
    with pytest.raises(DataError) as caught:
        MobileFaceNet(weights=str(other)).load()
    for part in ("missing: ", "unexpected: x.", "another shape: conv1.conv.weight is (64, 3, 5, 5), not (64, 3, 3, 3)"):
        assert part in str(caught.value)


_Change = Callable[[dict[str, torch.Tensor]], object]


@pytest.mark.parametrize(
    "change",
    [
        lambda state: {n: v for n, v in state.items() if not n.endswith("num_batches_tracked")},
        lambda state: {f"module.{n}": v for n, v in state.items()},
        lambda state: {f"_orig_mod.module.{n}": v for n, v in state.items()},
        lambda state: {"epoch": 3, "state_dict": {f"module.{n}": v for n, v in state.items()}, "loss": 0.5},
        lambda state: {"model": state, "arguments": {"lr": 0.1}},
        lambda state: {**state, "logits.weight": torch.zeros(9, 128), "logits.bias": torch.zeros(9)},
        lambda state: {**state, "arcface.weight": torch.zeros(9, 128)},
        lambda state: {n: v.half() if v.is_floating_point() else v for n, v in state.items()},
    ],
)
def test_true_weights_are_taken_however_they_were_saved(mobile: Path, tmp_path: Path, change: _Change) -> None:
    path = tmp_path / "changed.pt"
    torch.save(change(read_weights(mobile)), path)
    expected, found = MobileFaceNet(weights=str(mobile)).load(), MobileFaceNet(weights=str(path)).load()
    for one, other in zip(expected.state_dict().values(), found.state_dict().values(), strict=True):
        assert one.shape == other.shape and torch.allclose(one.float(), other.float(), atol=2e-3)


@pytest.mark.parametrize("name", ["weights.pt", "weights.safetensors"])
@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\nsize 9\n", "a Git LFS pointer.*git lfs pull"),
        (b"<!DOCTYPE html><html><title>Quota exceeded", "a web page, not weights"),
        (b"", "an empty file"),
    ],
)
def test_what_stands_where_weights_should_is_told(tmp_path: Path, name: str, content: bytes, said: str) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(DataError, match=said):
        read_weights(path)


class _Hostile:
    def __reduce__(self):  # type: ignore[no-untyped-def]
        return os.system, ("touch owned",)


def test_damaged_hostile_missing_and_foreign_files_are_named(
    mobile: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    cut = tmp_path / "cut.safetensors"
    cut.write_bytes(mobile.read_bytes()[:1000])
    hostile, number, text = tmp_path / "hostile.pt", tmp_path / "number.pt", tmp_path / "text.pt"
    torch.save({"a": _Hostile()}, hostile)
    torch.save(3, number)
    text.write_text("not weights")
    for path, said in [
        (cut, "damaged or not a weights file"),
        (hostile, r"refused: it holds more than tensors \(\w+\.system\)"),
        (number, "not a state dict"),
        (text, "damaged or not a weights file"),
        (tmp_path / "gone.pt", r"no such file; set \[recognizers.mobilefacenet\] weights"),
    ]:
        with pytest.raises(DataError, match=said) as caught:
            MobileFaceNet(weights=str(path)).load()
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not Path("owned").exists()
    with pytest.raises(DataError, match="no weights given"):
        MobileFaceNet().weights_hash()


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@settings(max_examples=150, deadline=None)
@given(
    legacy=st.booleans(),
    changes=st.lists(st.tuples(st.integers(0, 600), st.integers(0, 255)), max_size=8),
    length=st.none() | st.integers(0, 600),
)
def test_any_damage_is_a_data_error(
    tmp_path_factory: pytest.TempPathFactory, legacy: bool, changes: list[tuple[int, int]], length: int | None
) -> None:
    path = tmp_path_factory.getbasetemp() / "damaged.pt"
    torch.save({"a": torch.ones(2, 3)}, path, _use_new_zipfile_serialization=not legacy)
    raw = bytearray(path.read_bytes()[:length])
    for place, value in changes:
        raw[place : place + 1] = bytes([value]) if place < len(raw) else b""
    path.write_bytes(raw)
    try:
        tensors = read_weights(path)
    except DataError as error:
        assert "damaged.pt" in str(error)
        assert "\n" not in str(error)
    else:
        assert all(isinstance(value, torch.Tensor) for value in tensors.values())


def test_facenet_offline_says_how_to_get_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("facenet_pytorch.models.inception_resnet_v1.download_url_to_file", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded .* set \[recognizers.facenet\] weights") as caught:
        FaceNet().weights_hash()
    assert str(tmp_path / "checkpoints") in str(caught.value)


def test_facenet_uses_what_was_downloaded_and_downloads_once(
    facenet: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fetched = []

    def download(address: str, path: str) -> None:
        fetched.append(address)
        state = torch.load(facenet, weights_only=True)
        torch.save({**state, "logits.weight": torch.zeros(8631, 512), "logits.bias": torch.zeros(8631)}, path)

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr("facenet_pytorch.models.inception_resnet_v1.download_url_to_file", download)
    once = FaceNet().weights_hash()
    assert FaceNet().weights_hash() == once
    _check(FaceNet(), (64, 77, 77), 512)
    assert len(fetched) == 1


def test_the_real_weights_load_strictly(data: Path) -> None:
    recognizer = MobileFaceNet(weights=str(data / "weights/mobilefacenet_casia_112x96.safetensors"))
    expected = "b6eab361f7eb2036193cb90124cb21953a0d2dffdb292947af088868f6888cda"
    assert recognizer.weights_hash() == expected
    assert hashlib.sha256(Path(recognizer.weights).read_bytes()).hexdigest() == expected
    _check(recognizer, (128, 56, 48), 128)


def test_the_real_weights_know_people(data: Path, tmp_path: Path) -> None:
    pairs = parse_pairs((data / "lfw/pairs.txt").read_text(), "pairs.txt")
    chosen = [p for p in pairs if p.genuine][:8] + [p for p in pairs if not p.genuine][:8]
    paths = [data / "lfw/images" / f"{image_name(side)}.jpg" for p in chosen for side in (p.left, p.right)]
    recognizer = MobileFaceNet(weights=str(data / "weights/mobilefacenet_casia_112x96.safetensors"))
    source = ImageSource([p.stem for p in paths], lambda i: read_image(paths[i]), "some")
    pixels, found = align(source, recognizer.alignment, tmp_path)
    assert found.all()
    network = recognizer.load()
    with torch.no_grad():
        images = torch.from_numpy(np.array(pixels)).permute(0, 3, 1, 2) / 255
        embeddings = network.embed(network.extract(images))
    cosines = (embeddings[::2] * embeddings[1::2]).sum(1)
    assert cosines[:8].mean() > cosines[8:].mean() + 0.3


def test_the_shipped_judge_is_another_network() -> None:
    judge = Compact(weights="package:compact_judge.safetensors")
    card = json.loads((SHIPPED.parent / "compact_judge.json").read_text())
    assert judge.weights_hash() == card["sha256"] != Compact().weights_hash()
    assert (SHIPPED.parent / "compact_judge.safetensors").stat().st_size < 3e6
    _check(judge, (64, 45, 45), 128)
    one, other = (weights.load().client[0][0].weight for weights in (judge, Compact()))
    assert not torch.allclose(one, other)
