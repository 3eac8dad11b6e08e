"""Matrices and encryption: what they compare, and what a key holder sees."""

import pytest
import torch
from torch.nn import functional

from bench.contracts import Rng
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
