"""A run on a GPU: the same figures twice, and the processor's figures within rounding."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support import Cli, figures

from bench.contracts import FaceSet
from bench.runner.batches import halving
from bench.toolkit.cuda_graphs import Repeated

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")

# The snap and the white box add searches and gradients to the decoders of the toy matrix.
MATRIX = (
    'run.attacks=["mean_face", "resrec", "resrec@algorithm", "urec", "transrec", "snap@enrolment", "linear_inversion", '
    '"gradient_inversion", "gaussian_inversion", "embedding_decoder", "linkage", "replay"]'
)
SMALL = (
    "attacks.snap.rounds=2", "attacks.gradient_inversion.iterations=3", "attacks.gaussian_inversion.queries=100",
)  # fmt: skip


def _run(cli: Cli, name: str, device: str, *options: str, **environment: str) -> Path:
    settings = (f'run.device="{device}"', f'run.store="store-{name}"', MATRIX, *SMALL)
    cli(
        "run",
        "-q",
        "--strict",
        "-o",
        name,
        *(part for one in settings for part in ("--set", one)),
        *options,
        **environment,
    )
    return Path(name)


def test_two_runs_on_a_gpu_give_the_same_figures(config: Path, cli: Cli) -> None:
    one, two = (figures(_run(cli, name, "cuda")) for name in ("one", "two"))
    assert len(one) > 30
    different = [name for name in one if one[name] != two[name]]
    assert not different


def test_workers_that_share_a_gpu_give_the_figures_of_one_process(config: Path, cli: Cli) -> None:
    one = figures(_run(cli, "one", "cuda"))
    two = figures(_run(cli, "two", "cuda", "--workers", "2"))
    assert one == two


def test_a_batch_that_does_not_fit_is_halved() -> None:
    """Each image wants a third of the card, so that two fit and four do not."""
    torch.cuda.empty_cache()
    size = torch.cuda.mem_get_info()[0] // 3
    made = halving(lambda some: torch.empty(len(some), size, dtype=torch.uint8, device="cuda").shape[0], np.arange(4))
    found = []
    for batch, count in made:
        found.append((batch.tolist(), count))
        torch.cuda.empty_cache()
    assert found == [([0, 1], 2), ([2, 3], 2)]


def test_pixels_on_the_card_are_those_of_the_set() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (9, 8, 6, 3), dtype=np.uint8)
    names = tuple(map(str, range(9)))
    faces = FaceSet(pixels, np.arange(9), names, None, np.ones(9, dtype=np.bool_)).subset([7, 2, 5])
    some = np.array([2, 0])
    assert torch.equal(faces.loader(torch.device("cuda"))(some).cpu(), faces.batch(some))


def test_a_replayed_step_does_what_it_does_once() -> None:
    total, one = torch.zeros((), device="cuda"), torch.ones((), device="cuda")
    step = Repeated(lambda: total.mul_(0.5).add_(one), total.device)  # type: ignore[arg-type, return-value]
    for _ in range(10):
        step()
    assert float(total) == 2 - 0.5**9
    step.free()


# Snap subtracts the nearest of a few values, which rounding decides: .024 in float32, where others differ by .004.
@pytest.mark.parametrize(("precision", "tolerance"), [("float32", 0.03), ("auto", 0.05)])
def test_a_gpu_agrees_with_the_processor(config: Path, cli: Cli, precision: str, tolerance: float) -> None:
    """Rounding decides other images of a toy's few than the exact figures would, so accuracies may differ by more."""
    ssim = {}
    for device in ("cpu", "cuda"):
        chosen = precision if device == "cuda" else "float32"
        found = figures(_run(cli, device, device, VEILBENCH_PRECISION=chosen))
        ssim[device] = {
            name: one["metrics"]["ssim"]["value"] for name, one in found.items() if "ssim" in one["metrics"]
        }
    assert len(ssim["cpu"]) > 20
    gaps = {name: abs(value - ssim["cuda"][name]) for name, value in ssim["cpu"].items()}
    assert max(gaps.values()) < tolerance, sorted(gaps.items(), key=lambda gap: gap[1])[-5:]
