"""Seeds: the same for the same names, whatever else happened."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from bench.contracts import Rng
from bench.seeds import derive_seed

names = st.lists(st.text(max_size=8), min_size=1, max_size=4)


@given(names, names)
def test_a_seed_depends_on_every_name_and_fits_torch(first: list[str], second: list[str]) -> None:
    seed = derive_seed(*first)
    assert seed == derive_seed(*first)
    assert 0 <= seed < 2**63
    joined = "\x1f"
    if joined.join(first) != joined.join(second):
        assert seed != derive_seed(*second)


@given(st.permutations(list(range(6))), st.integers(1, 5))
def test_batch_size_and_order_do_not_change_an_images_noise(order: list[int], cut: int) -> None:
    rng = Rng(7).child("protect")
    image_names = [f"person/{i}" for i in range(6)]
    like = torch.zeros(6, 2, 3)
    whole = rng.images(image_names).laplace(like)
    for part in (order[:cut], order[cut:]):
        noise = rng.images([image_names[i] for i in part]).laplace(like[: len(part)])
        assert torch.equal(noise, whole[part])


def test_a_second_draw_is_fresh_and_roles_are_independent() -> None:
    like = torch.zeros(1, 64)
    source = Rng(1).images(["a"])
    assert not torch.equal(source.normal(like), source.normal(like))
    first = Rng(1).child("a").images(["x"]).normal(like)
    assert not torch.equal(first, Rng(1).child("b").images(["x"]).normal(like))


def test_noise_has_the_distribution_that_it_names() -> None:
    like = torch.zeros(1, 400_000)
    source = Rng(3).images(["a"])
    laplace = source.laplace(like)
    assert float(laplace.std()) == pytest.approx(2**0.5, rel=0.02)
    assert float(laplace.abs().mean()) == pytest.approx(1.0, rel=0.02)
    assert float(source.uniform(like, -0.2, 0.2).abs().max()) <= 0.2
    assert float(source.normal(like).std()) == pytest.approx(1.0, rel=0.02)


def test_a_batch_of_the_wrong_length_is_refused() -> None:
    with pytest.raises(ValueError, match="2 generators for a batch of 3"):
        Rng(0).images(["a", "b"]).normal(torch.zeros(3, 1))


@pytest.mark.parametrize("kind", [torch.float32, torch.bfloat16])
def test_laplace_noise_has_its_law_in_every_precision(kind: torch.dtype) -> None:
    noise = Rng(0).images(["a", "b"]).laplace(torch.zeros(2, 500_000, dtype=kind)).float()
    assert noise.abs().max() <= math.log(2**24) + 0.1
    assert noise.square().mean().sqrt() == pytest.approx(math.sqrt(2), rel=0.01)
    assert noise.abs().mean() == pytest.approx(1.0, rel=0.01)
