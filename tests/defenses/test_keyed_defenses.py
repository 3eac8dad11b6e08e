"""Keyed defences against what their papers say, and cases worked by hand."""

import math

import pytest
import torch
from torch.nn import functional

from bench.contracts import NotApplicable, Rng
from defenses.biohash import BioHash
from defenses.iom_grp import IomGrp
from defenses.iom_urp import IomUrp
from defenses.mlphash import MLPHash
from defenses.polyprotect import PolyProtect
from defenses.randcnn import RandCNN
from defenses.slerpface import SlerpFace

EMBEDDINGS = functional.normalize(torch.randn(40, 32, generator=Rng(0).torch()))


def test_polyprotect_by_hand() -> None:
    key = {"coefficients": torch.tensor([2.0, -1.0, 3.0]), "exponents": torch.tensor([2, 1, 3])}
    embedding = torch.tensor([[0.5, -0.5, 0.25, 0.5]])
    one = [2 * 0.25 + 0.5 + 3 * 0.25**3, 2 * 0.25 - 0.25 + 3 * 0.125]
    assert PolyProtect(terms=3, overlap=2).transform(embedding, key)[0].tolist() == pytest.approx(one)
    padded = [one[0], 2 * 0.25]  # the second window is 0.5, 0, 0
    assert PolyProtect(terms=3, overlap=0).transform(embedding, key)[0].tolist() == pytest.approx(padded)


@pytest.mark.parametrize(("overlap", "length"), [(0, 103), (1, 128), (2, 170), (3, 255), (4, 508)])
def test_polyprotect_has_the_papers_lengths(overlap: int, length: int) -> None:
    defense = PolyProtect(overlap=overlap)
    assert defense.transform(torch.zeros(1, 512), defense.draw_key(Rng(0), 512)).shape == (1, length)


def test_polyprotect_draws_distinct_coefficients_that_are_not_zero() -> None:
    drawn = [PolyProtect(largest=4).draw_key(Rng(n), 32) for n in range(200)]
    for key in drawn:
        assert sorted(key["exponents"].tolist()) == [1, 2, 3, 4, 5]
        assert len(set(key["coefficients"].tolist())) == 5
    every = torch.cat([key["coefficients"] for key in drawn])
    assert set(every.tolist()) == {-4, -3, -2, -1, 1, 2, 3, 4}


def test_haar_projections_treat_every_direction_alike() -> None:
    """Idiap's released orthonormalisation of uniform numbers has a first column close to the all-ones direction."""
    ones = torch.full((64,), 64**-0.5)
    for projections, low, high in (("haar", 0.0, 0.25), ("uniform", 0.8, 1.0)):
        defense = BioHash(bits=8, projections=projections)  # type: ignore[arg-type]
        keys = [defense.draw_key(Rng(n), 64)["projection"] for n in range(50)]
        along = torch.stack([(key[:, 0] @ ones).abs() for key in keys]).mean()
        assert low <= float(along) <= high
        assert torch.allclose(keys[0].T @ keys[0], torch.eye(8), atol=1e-5)
    signs = torch.stack([Rng(n).orthonormal(4, 4)[0, 0] for n in range(400)])
    assert abs(float((signs > 0).float().mean()) - 0.5) < 0.1, "without the sign correction, nearly all are negative"


def test_biohash_needs_as_many_dimensions_as_bits() -> None:
    with pytest.raises(NotApplicable, match="33 orthonormal vectors"):
        BioHash(bits=33).draw_key(Rng(0), 32)


def test_bits_under_a_fresh_key_say_nothing_of_the_person() -> None:
    """Two templates of the same embedding under two keys agree as often as two people's: in half of their bits."""
    defense = BioHash(bits=32)
    keys = [defense.draw_key(Rng(n), 32) for n in range(400)]
    made = torch.stack([defense.transform(EMBEDDINGS[:1], key)[0] for key in keys])
    agreed = (made[::2] == made[1::2]).float().mean(1)
    assert abs(float(agreed.mean()) - 0.5) < 4 * 0.5 / math.sqrt(32 * 200)


def test_an_index_is_the_largest_product() -> None:
    grp = IomGrp(groups=2, choices=3)
    vectors = torch.zeros(2, 3, 4)
    vectors[0, 2, 1] = vectors[1, 0, 3] = 1.0
    embedding = torch.tensor([[0.1, 0.9, 0.1, 0.4]])
    assert grp.transform(embedding, {"vectors": vectors})[0].tolist() == [2, 0]
    urp = IomUrp(groups=1, window=3)
    positions = torch.tensor([[[0, 1, 2], [3, 3, 1]]])  # products .04, .36, .09
    assert urp.transform(embedding, {"positions": positions})[0].tolist() == [1]


@pytest.mark.parametrize("defense", [BioHash(bits=16), MLPHash(), IomGrp(groups=20), IomUrp(groups=20, window=8)])
def test_margins_hold_exactly_for_the_same_template(defense: BioHash | MLPHash | IomGrp | IomUrp) -> None:
    key = defense.draw_key(Rng(1), 32)
    made = defense.transform(EMBEDDINGS, key)
    for number in range(5):
        holds = (defense.margins(EMBEDDINGS, made[number], key) >= 0).all(1)
        assert holds.tolist() == (made == made[number]).all(1).tolist()


def test_mlp_hash_layers_are_orthonormal_the_way_they_can_be() -> None:
    key = MLPHash().draw_key(Rng(0), 32)
    assert [tuple(layer.shape) for layer in key.values()] == [(32, 64), (64, 64), (64, 64), (64, 32)]
    assert torch.allclose(key["layer0"] @ key["layer0"].T, torch.eye(32), atol=1e-5)
    assert torch.allclose(key["layer3"].T @ key["layer3"], torch.eye(32), atol=1e-5)


def test_slerpface_by_hand() -> None:
    """Two groups of weight .5: alpha .9 minus that goes .4 of the way, 36 of 90 degrees."""
    key = {"directions": torch.tensor([[0.0, 1.0], [1.0, 0.0]]), "places": torch.zeros(2, 0, dtype=torch.long)}
    embedding = torch.tensor([[1.0, 0.0, 0.0, 1.0]]) / 2**0.5
    c, s = math.cos(math.radians(36)), math.sin(math.radians(36))
    wanted = torch.tensor([[c, s], [s, c]])
    plain, beside = SlerpFace(group=2, drop=0.0), SlerpFace(group=2, drop=0.0, attention="beside")
    assert torch.allclose(plain.transform(embedding, key)[0], wanted / 2, atol=1e-6)
    assert torch.allclose(beside.transform(embedding, key)[0], wanted, atol=1e-6)
    assert plain.auxiliary(embedding, key) is None
    (weights,) = beside.auxiliary(embedding, key)  # type: ignore[misc]
    assert weights.tolist() == pytest.approx([0.5, 0.5])
    for defense, auxiliary in ((plain, None), (beside, weights)):
        probe = defense.probe_beside(embedding, key, auxiliary)
        assert float(defense.score(defense.transform(embedding, key), probe)) == pytest.approx(1.0)


@pytest.mark.parametrize(("draws", "low", "high"), [("with", 0.34, 0.42), ("without", 0.47, 0.53)])
def test_slerpface_loses_less_than_it_draws(draws: str, low: float, high: float) -> None:
    """With replacement, 12 or 4 draws of 16 places, half of the groups each, hit .38 of them."""
    defense = SlerpFace(draws=draws)  # type: ignore[arg-type]
    embeddings = functional.normalize(torch.randn(50, 128, generator=Rng(3).torch()))
    made = torch.cat([defense.transform(one[None], defense.draw_key(Rng(n), 128)) for n, one in enumerate(embeddings)])
    assert low < float((made == 0).float().mean()) < high
    assert torch.allclose(made.norm(dim=2), defense.map_of(embeddings), atol=1e-6), "as released, the map is in plain"
    assert torch.allclose(defense.map_of(embeddings).sum(1), torch.ones(50))


def test_slerpface_compares_what_the_template_kept() -> None:
    """The entries that the template lost do not matter in a probe, so the score is not symmetric."""
    defense = SlerpFace(group=16)
    key = defense.draw_key(Rng(0), 32)
    stored, probes = defense.transform(EMBEDDINGS[:2], key), defense.probe(EMBEDDINGS[2:4], key)
    kept = functional.normalize(torch.where(stored == 0, 0.0, probes), dim=2)
    scores = defense.score(stored, probes)
    assert torch.allclose(scores, (stored * kept).sum((1, 2)), atol=1e-6)
    assert not torch.allclose(defense.score(probes, stored), scores, atol=1e-3)


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: BioHash(bits=1), "bits"), (lambda: PolyProtect(overlap=5), "overlap"),
        (lambda: IomGrp(choices=300), "choices"), (lambda: IomUrp(factors=0), "factors"),
        (lambda: MLPHash(layers=0), "layers"), (lambda: BioHash(pool=0), "pool"),
        (lambda: SlerpFace(drop=0.7), "drop"),
    ],
)  # fmt: skip
def test_odd_parameters_are_refused(made: object, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made()  # type: ignore[operator]


def test_a_randcnn_key_selects_and_orders_the_hidden_units() -> None:
    defense = RandCNN(hidden=64, outputs=48, kept=0.25)
    one, other = (defense.draw_key(Rng(n), 32) for n in (1, 2))
    assert one["mask"].sum() == 16 and sorted(one["order"].tolist()) == list(range(64))
    stored = defense.transform(EMBEDDINGS, one)
    assert torch.allclose(stored.norm(dim=1), torch.ones(len(EMBEDDINGS)))
    assert torch.equal(stored, RandCNN(hidden=64, outputs=48, kept=0.25).transform(EMBEDDINGS, one)), (
        "layers are public"
    )
    across = functional.cosine_similarity(stored, defense.transform(EMBEDDINGS, other))
    near = functional.normalize(EMBEDDINGS + 0.05 * torch.randn(EMBEDDINGS.shape, generator=Rng(5).torch()))
    same = functional.cosine_similarity(stored, defense.transform(near, one))
    assert float(same.min()) > 0.8 > 0.7 > float(across.max())
