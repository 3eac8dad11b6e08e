"""Checks of keyed defences and of attacks on them: the sound pass, and each mistake is named."""

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from support import invoke
from torch import Tensor

from bench.checks import assert_sound, check, failures
from bench.checks.keyed import WIDTHS, check_keyed_defense
from bench.cli.scaffold import scaffold
from bench.contracts import Key, KeyedDefense, Rng
from bench.settings import registry

HASHES = ("biohash", "mlphash", "iom_grp", "iom_urp", "polyprotect", "slerpface", "matrix")


@pytest.mark.parametrize("name", HASHES)
def test_the_built_in_ones_are_sound(name: str) -> None:
    defense = registry.make(registry.find("defense", name, "t"), {}, "t")
    for width in WIDTHS:
        wrong = failures(check_keyed_defense(defense, width))
        assert not wrong, wrong


def test_encryption_is_sound() -> None:
    pytest.importorskip("tenseal", reason="the extra veilbench[encryption] is not installed")
    wrong = failures(check_keyed_defense(registry.make(registry.find("defense", "ckks", "t"), {}, "t"), 32, 8))
    assert not wrong, wrong


@pytest.mark.parametrize(
    "name", ["key_inversion", "exponent_one", "shift_linkage", "slerp_inversion", "attention_map", "key_decoder"]
)
def test_their_attacks_are_sound(name: str) -> None:
    assert_sound(registry.make(registry.find("attack", name, "t"), {}, "t"))


@dataclass(frozen=True, kw_only=True)
class _Signs(KeyedDefense):
    mistake: ClassVar[str] = ""

    def draw_key(self, rng: Rng, width: int) -> Key:
        return {"p": torch.randn(width, 40) if self.mistake == "key" else rng.orthonormal(width, 40)}

    def transform(self, embeddings: Tensor, key: Key) -> Tensor:
        if self.mistake == "others do not matter":
            embeddings = embeddings - embeddings.mean(0)
        if self.mistake == "same key, same template":
            embeddings = embeddings + torch.randn_like(embeddings)
        if self.mistake == "inputs untouched":
            embeddings *= 2
        return embeddings[:, :40] > 0 if self.mistake == "renewable" else embeddings @ key["p"] > 0

    def auxiliary(self, embeddings: Tensor, key: Key) -> Tensor | None:
        return torch.zeros(3, 2) if self.mistake == "auxiliary data" else None

    def score(self, stored: Tensor, probes: Tensor) -> Tensor:
        wrong = self.mistake == "scores"
        return ((stored != probes) if wrong else (stored == probes)).float().mean(1)

    def margins(self, embeddings: Tensor, template: Tensor, key: Key) -> Tensor:
        sign = -1 if self.mistake == "margins" else 1
        return sign * embeddings @ key["p"] * (2.0 * template.float() - 1)


@pytest.mark.parametrize(
    "mistake",
    [
        "",
        "key",
        "inputs untouched",
        "same key, same template",
        "others do not matter",
        "auxiliary data",
        "scores",
        "renewable",
        "margins",
    ],
)
def test_each_mistake_is_named(mistake: str) -> None:
    wrong = {verdict.check for verdict in failures(check(type("Mine", (_Signs,), {"mistake": mistake})()))}
    assert wrong - {"parameters"} >= {mistake} if mistake else wrong == {"parameters"}  # the class is made on the fly


def test_a_written_keyed_defence_is_short_and_sound(tmp_path: Path) -> None:
    path = scaffold("defense", "mine", tmp_path, keyed=True)
    assert len(path.read_text().splitlines()) <= 40
    assert "ok    renewable" in invoke("check", str(path)).output


def test_only_a_defence_has_keys(tmp_path: Path) -> None:
    assert (
        "only a defence has keys"
        in invoke("new", "attack", "mine", "--keyed", "--path", str(tmp_path), status=2).output
    )
