"""Decoders: any feature size, trained repeatably, and good enough to open what is open."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from support import TOYS

from bench.contracts import Conv, FaceSet, Rng, State
from bench.settings import registry
from bench.toolkit.decoders import (
    DecoderSpec,
    Training,
    build_decoder,
    restore_decoder,
    set_batch_statistics,
    train_decoder,
)
from bench.toolkit.decoders.feature_cache import FeatureCache
from bench.toolkit.decoders.networks import Architecture, BatchNorm, Norm, _Edges
from bench.toolkit.precision import as_decoder_input, autocast

MOBILE = ((128, 56, 48), (Conv(3, 64, 3, 2, 1), Conv(64, 64, 3, 1, 1, 64), Conv(64, 128, 1)), (112, 96))
FACENET = ((64, 77, 77), (Conv(3, 32, 3, 2), Conv(32, 32, 3), Conv(32, 64, 3, 1, 1)), (160, 160))
ODD = ((5, 9, 7), (Conv(3, 5, 3, 2, 1),), (17, 13))
PLAIN = ((6, 15, 11), (), (15, 11))
CPU = torch.device("cpu")


@pytest.mark.parametrize("norm", ["batch", "group", "none"])
@pytest.mark.parametrize("architecture", ["trans", "res", "unet"])
@pytest.mark.parametrize("face", [MOBILE, FACENET, ODD, PLAIN], ids=["mobilefacenet", "facenet", "odd", "no layout"])
def test_every_decoder_faces_every_extractor(face, architecture: Architecture, norm: Norm) -> None:  # type: ignore[no-untyped-def]
    shape, layout, size = face
    decoder = build_decoder(DecoderSpec(architecture, norm, width=8), shape, layout, size)
    images = decoder(torch.randn(1, *shape))
    assert images.shape == (1, 3, *size)
    assert images.dtype == torch.float32
    assert 0 <= float(images.detach().min()) <= float(images.detach().max()) <= 1


def test_a_decoder_is_handed_what_autocast_would_have_made(monkeypatch: pytest.MonkeyPatch) -> None:
    decoder, features = build_decoder(DecoderSpec("res", width=8), *MOBILE).eval(), torch.randn(2, *MOBILE[0])
    for precision in ("auto", "float32"):
        monkeypatch.setenv("VEILBENCH_PRECISION", precision)
        handed = as_decoder_input(features)
        assert handed.is_contiguous(memory_format=torch.channels_last)
        with torch.no_grad(), autocast(CPU):
            assert torch.equal(decoder(handed), decoder(features.contiguous(memory_format=torch.channels_last)))


def test_trans_mirrors_the_extractor_layer_by_layer() -> None:
    decoder = build_decoder(DecoderSpec("trans"), *FACENET)
    layers = [m for m in decoder.modules() if isinstance(m, torch.nn.ConvTranspose2d)]
    mirrored = [(c.outputs, c.inputs, c.kernel, c.stride, c.groups) for c in reversed(FACENET[1])]
    assert [(m.in_channels, m.out_channels, m.kernel_size[0], m.stride[0], m.groups) for m in layers] == mirrored


@pytest.mark.parametrize("around", [(1, 2, 1, 2), (0, 1, 0, 0), (0, 0, 2, 2)])
def test_padding_for_a_gpu_has_the_gradients_of_torchs_own(around: tuple[int, int, int, int]) -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.randn(2, 3, 5, 6, dtype=torch.float64, generator=generator).requires_grad_()
    ours, theirs = _Edges.apply(features, around), F.pad(features, around, mode="replicate")
    weights = torch.randn(theirs.shape, dtype=torch.float64, generator=generator)
    gradients = [torch.autograd.grad((padded * weights).sum(), features)[0] for padded in (ours, theirs)]
    assert torch.equal(ours, theirs)
    assert torch.allclose(*gradients)


def test_batch_statistics_couple_the_batch_and_leave_running_ones_alone() -> None:
    decoder = build_decoder(DecoderSpec("res", width=8), *ODD).eval()
    features = torch.randn(3, *ODD[0])
    alone = decoder(features[:1])
    assert torch.allclose(alone, decoder(features)[:1], atol=1e-6)
    before = {name: value.clone() for name, value in decoder.state_dict().items()}
    set_batch_statistics(decoder, True)
    assert not torch.allclose(decoder(features[:1]), decoder(features)[:1], atol=1e-4)
    assert all(torch.equal(value, before[name]) for name, value in decoder.state_dict().items())
    point = features.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(decoder(point)[0].sum(), point)
    assert float(gradient[1].abs().sum()) > 0, "gradients flow through the batch's statistics"
    assert any(isinstance(m, BatchNorm) for m in decoder.modules())


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory):  # type: ignore[no-untyped-def]
    recognizer = registry.make(registry.find("recognizer", str(TOYS / "tiny.py"), "test"), {}, "test")
    dataset = registry.make(registry.find("dataset", str(TOYS / "blobs.py"), "test"), {}, "test")
    evaluation = dataset.load(recognizer.alignment, tmp_path_factory.mktemp("cache"))
    return recognizer.load(), evaluation.public, evaluation.test


def _train(scene, architecture: Architecture, seed: int = 0, **training):  # type: ignore[no-untyped-def]
    network, public, _ = scene
    spec = DecoderSpec(architecture, width=16)
    settings = Training(
        **{"epochs": 40, "batch": 8, "learning_rate": 2e-2 if architecture == "trans" else 5e-3, **training}
    )
    shape = (8, 12, 10)
    make = lambda: build_decoder(spec, shape, network.layout, (24, 20))  # noqa: E731
    return spec, train_decoder(make, network.extract, public, settings, Rng(seed), CPU, "test")


@pytest.mark.parametrize("architecture", ["trans", "res", "unet"])
def test_every_decoder_opens_unprotected_features(scene, architecture: Architecture) -> None:  # type: ignore[no-untyped-def]
    network, public, test = scene
    spec, state = _train(scene, architecture)
    decoder = restore_decoder(spec, state, (8, 12, 10), network.layout, (24, 20), CPU)
    assert not any(p.requires_grad for p in decoder.parameters())
    images = test.batch(slice(0, len(test)))
    with torch.no_grad():
        rebuilt = decoder(network.extract(images))
    blind = public.batch(slice(0, len(public))).mean(0, keepdim=True)
    assert float((rebuilt - images).square().mean()) < 0.25 * float((blind - images).square().mean())
    assert state.info["curve_held_out_l1"][-1] < state.info["curve_held_out_l1"][0]


def test_training_is_bit_repeatable_whatever_ran_before(scene) -> None:  # type: ignore[no-untyped-def]
    _, first = _train(scene, "res", epochs=2)
    torch.manual_seed(123)
    torch.rand(7)
    _, again = _train(scene, "res", epochs=2)
    _, other = _train(scene, "res", seed=1, epochs=2)
    assert all(torch.equal(first.tensors[name], again.tensors[name]) for name in first.tensors)
    assert not all(torch.equal(first.tensors[name], other.tensors[name]) for name in first.tensors)
    assert first.info["curve_held_out_l1"] == again.info["curve_held_out_l1"]


def test_training_does_not_disturb_anybody_elses_randomness(scene) -> None:  # type: ignore[no-untyped-def]
    torch.manual_seed(9)
    expected = torch.rand(3)
    torch.manual_seed(9)
    _train(scene, "trans", epochs=1)
    assert torch.equal(torch.rand(3), expected)


def test_too_short_a_training_is_not_called_converged(scene) -> None:  # type: ignore[no-untyped-def]
    assert _train(scene, "res", epochs=1)[1].info["converged"] is False


def test_a_training_stops_once_its_loss_has_settled(scene) -> None:  # type: ignore[no-untyped-def]
    long = _train(scene, "res", schedule="settle")[1].info
    assert long["epochs"] == len(long["curve_held_out_l1"]) < 40 and "settled" in long["stopped"]
    short = _train(scene, "res", schedule="settle", epochs=3)[1].info
    assert (short["epochs"], short["stopped"]) == (3, "after all epochs")
    assert (long["converged"], short["converged"]) == (True, False)


def test_training_wants_faces(scene) -> None:  # type: ignore[no-untyped-def]
    network, public, _ = scene
    one: FaceSet = public.subset([0])
    with pytest.raises(ValueError, match="at least two public faces"):
        train_decoder(lambda: torch.nn.Identity(), network.extract, one, Training(), Rng(0), CPU, "test")


def test_what_a_fixed_encoder_makes_is_made_once(scene) -> None:  # type: ignore[no-untyped-def]
    network, public, _ = scene
    seen = [0]

    def encode(images: torch.Tensor) -> torch.Tensor:
        seen[0] += len(images)
        found: torch.Tensor = network.extract(images)
        return found

    def train(fixed: bool) -> State:
        make = lambda: build_decoder(DecoderSpec("res", width=16), (8, 12, 10), network.layout, (24, 20))  # noqa: E731
        return train_decoder(make, encode, public, Training(epochs=8), Rng(0), CPU, "test", fixed=fixed)

    anew, at_first = train(fixed=False), seen[0]
    kept = train(fixed=True)
    assert seen[0] - at_first <= 2 * len(public) < at_first  # the mirrored ones are faces of their own
    assert kept.info["curve_held_out_l1"] == pytest.approx(anew.info["curve_held_out_l1"], abs=2e-3)


@pytest.mark.parametrize("most", [0, 3, 1000], ids=["no room", "some room", "room"])
def test_kept_features_are_those_of_the_encoder(most: int) -> None:
    images = torch.rand(9, 3, 4, 5)
    seen = []

    def encode(batch: torch.Tensor) -> torch.Tensor:
        seen.append(len(batch))
        return torch.cat([batch, -batch], 1)

    row = as_decoder_input(encode(images[:1]))
    kept = FeatureCache(encode, most * row.numel() * row.element_size())
    for chosen in ([0, 1, 2, 3], [2, 3, 4], [4, 2, 8, 0], [0, 1, 2, 3, 4, 8]):
        found = kept(images[chosen], chosen)
        assert torch.equal(found, as_decoder_input(torch.cat([images[chosen], -images[chosen]], 1)))
        assert found.is_contiguous(memory_format=torch.channels_last)
    assert seen[1:] == {0: [4, 3, 4, 6], 3: [4, 2, 2, 3], 1000: [4, 1, 1]}[most]


def test_a_full_disk_costs_time_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = FeatureCache(lambda batch: batch, 1 << 20)

    def full(data: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(kept, "_file", SimpleNamespace(write=full, seek=lambda _: 0))
    images = torch.rand(2, 3, 4, 4)
    assert torch.equal(kept(images, [0, 1]), as_decoder_input(images))
    assert torch.equal(kept(images, [0, 1]), as_decoder_input(images))
