"""Matrices and encryption: what they compare, and what a key holder sees."""

import sys

import pytest
import torch
from torch.nn import functional

from bench.contracts import NotApplicable, Rng
from defenses.ckks import Ckks, _scheme
from defenses.matrix import Matrix

EMBEDDINGS = functional.normalize(torch.randn(40, 32, generator=Rng(0).torch()))


@pytest.mark.parametrize("form", ["vector", "trace"])
@pytest.mark.parametrize("matrices", ["orthogonal", "general"])
def test_a_matrix_keeps_the_cosine_and_its_key_opens_it(form: str, matrices: str) -> None:
    defense = Matrix(form=form, matrices=matrices)  # type: ignore[arg-type]
    key = defense.draw_key(Rng(1), 32)
    stored, probes = defense.transform(EMBEDDINGS, key), defense.probe(EMBEDDINGS.roll(1, 0), key)
    assert torch.allclose(defense.score(stored, probes), (EMBEDDINGS * EMBEDDINGS.roll(1, 0)).sum(1), atol=1e-3)
    assert torch.allclose(defense.undo(stored, key), EMBEDDINGS, atol=1e-3)
    other = defense.undo(stored, defense.draw_key(Rng(2), 32))
    assert float(functional.cosine_similarity(other, EMBEDDINGS).abs().mean()) < 0.4
    if form == "trace":
        own = key["left_inverse"] @ stored @ key["right_inverse"]
        assert float(own.tril(-1).abs().mean()) > 0.01, "what hides the diagonal is not empty"


def test_an_encrypted_store_scores_without_decrypting() -> None:
    pytest.importorskip("tenseal", reason="the extra veilbench[encryption] is not installed")
    defense = Ckks()
    key = defense.draw_key(Rng(1), 32)
    stored = defense.transform(EMBEDDINGS[:2], key)
    assert torch.equal(stored, defense.transform(EMBEDDINGS[:2], key))
    found = defense.compare(stored[:1].expand(40, -1), defense.probe(EMBEDDINGS, key), key)
    assert torch.allclose(found, EMBEDDINGS @ EMBEDDINGS[0], atol=1e-5)
    each = defense.compare(stored, EMBEDDINGS[1:3], key)
    assert torch.allclose(each, (EMBEDDINGS[:2] * EMBEDDINGS[1:3]).sum(1), atol=1e-5)
    assert torch.allclose(defense.undo(stored, key), EMBEDDINGS[:2], atol=1e-5)
    stranger = defense.draw_key(Rng(2), 32)
    assert float(functional.cosine_similarity(defense.undo(stored, stranger), EMBEDDINGS[:2]).abs().max()) < 0.8
    assert abs(float(defense.score(stored, defense.transform(EMBEDDINGS[:2], stranger)).mean()) - 1 / 256) < 0.005


def test_unmasked_slots_of_one_score_are_the_template() -> None:
    """Each slot has a partial sum, so the difference of two neighbours is one entry times a known number."""
    pytest.importorskip("tenseal", reason="the extra veilbench[encryption] is not installed")
    defense, probe = Ckks(), EMBEDDINGS[1:2]
    key = defense.draw_key(Rng(1), 32)
    scheme, stored = _scheme(key), defense.transform(EMBEDDINGS[:1], key)[0]
    for masked in (False, True):
        sums = torch.from_numpy(scheme.opened(scheme.scored(stored, probe, masked)))
        entries = (sums[:32] - sums[1:33]) / probe[0]
        cosine = float(functional.cosine_similarity(entries, EMBEDDINGS[0].double(), dim=0))
        assert float(sums[0]) == pytest.approx(float(EMBEDDINGS[0] @ probe[0]), abs=1e-5)
        assert cosine > 0.999 if not masked else abs(cosine) < 0.6
        assert not masked or float(sums[1:32].abs().max()) < 1e-6


def test_tenseals_own_product_gives_the_template_to_a_key_holder() -> None:
    """Why there is a mask: `decrypt` hides the slots behind the score, which SEAL shows."""
    tenseal = pytest.importorskip("tenseal", reason="the extra veilbench[encryption] is not installed")
    context = tenseal.context(tenseal.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40, 60])
    context.global_scale = 2**40
    context.generate_galois_keys()
    entries, probe = EMBEDDINGS[0].double(), EMBEDDINGS[1].double()
    product = tenseal.ckks_vector(context, entries.tolist()).dot(probe.tolist())
    assert len(product.decrypt()) == 1
    plain, seal = tenseal.sealapi.Plaintext(), context.seal_context().data
    tenseal.sealapi.Decryptor(seal, context.secret_key().data).decrypt(product.ciphertext()[0], plain)
    sums = torch.tensor(tenseal.sealapi.CKKSEncoder(seal).decode_double(plain))
    found = (sums[:32] - sums[1:33]) / probe
    assert float(functional.cosine_similarity(found, entries, dim=0)) > 0.999


def test_without_tenseal_the_message_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenseal", None)
    with pytest.raises(NotApplicable, match=r"veilbench\[encryption\]"):
        Ckks().draw_key(Rng(0), 32)
