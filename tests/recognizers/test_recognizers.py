"""Recognisers: split where they should be, filled strictly, from files that are not trusted."""

import hashlib
import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from bench.contracts import DataError, Recognizer
from bench.recognizers.facenet import FaceNet
from bench.recognizers.mobilefacenet import MobileFaceNet, _Whole


@pytest.fixture(scope="module")
def mobile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("weights") / "mobile.safetensors"
    save_file({name: value.contiguous() for name, value in _Whole().state_dict().items()}, path)
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
    save_file({"conv1.conv.weight": torch.zeros(64, 3, 5, 5), "head.weight": torch.zeros(2)}, path)
    with pytest.raises(DataError, match=r"these weights are for another architecture: missing .* more"):
        kind(weights=str(path)).load()  # type: ignore[call-arg]


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
        (hostile, "refused: it holds more than tensors"),
        (number, "not a state dict"),
        (text, "refused|damaged"),
        (tmp_path / "gone.pt", r"no such file; set \[recognizers.mobilefacenet\] weights"),
    ]:
        with pytest.raises(DataError, match=said) as caught:
            MobileFaceNet(weights=str(path)).load()
        assert path.name in str(caught.value)
        assert "\n" not in str(caught.value)
    assert not Path("owned").exists()
    with pytest.raises(DataError, match="no weights given"):
        MobileFaceNet().weights_hash()


def test_facenet_offline_says_how_to_get_its_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from urllib.error import URLError

    def no_network(*_: object, **__: object) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    monkeypatch.setattr("facenet_pytorch.InceptionResnetV1.__init__", no_network)
    with pytest.raises(DataError, match=r"could not be downloaded .* set \[recognizers.facenet\] weights"):
        FaceNet().weights_hash()


def test_the_real_weights_load_strictly_and_know_people(data: Path) -> None:
    recognizer = MobileFaceNet(weights=str(data / "weights/mobilefacenet_casia_112x96.safetensors"))
    expected = "b6eab361f7eb2036193cb90124cb21953a0d2dffdb292947af088868f6888cda"
    assert recognizer.weights_hash() == expected
    assert hashlib.sha256(Path(recognizer.weights).read_bytes()).hexdigest() == expected
    _check(recognizer, (128, 56, 48), 128)
