"""Checks of a keyed defence: renewability, determinism under one key, independence of others; and of its attacks."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from bench.checks.verdict import Pointless, Verdict, Wrong, disturb_globals, keep_still, sound_parameters, work_off
from bench.contracts import (
    CrossmatchAttack,
    InversionAttack,
    Key,
    KeyedAttack,
    KeyedDefense,
    KeyOracle,
    OwnPeople,
    Rng,
    Stolen,
)
from bench.toolkit.imitated_service import imitated_service

WIDTHS = (128, 512)  #: of embeddings, as compact and most published recognisers have them
_PEOPLE = 60
_GENUINE = 0.7  #: cosine of two images of one person
_APART = 4.0  #: standard errors beyond which scores under another key are no longer those of strangers

_FROM_RNG = "Take all randomness from the rng that draw_key is given, and none in transform."


def check_keyed_defense(defense: KeyedDefense, width: int = WIDTHS[0], people: int = _PEOPLE) -> list[Verdict]:
    """Runs every check on random unit embeddings, in order; the last one measures the cost of a template.

    Args:
        people: fewer are enough for slow schemes, and less sure.
    """
    looks = _Looks(defense, width, people)
    checks: list[tuple[str, Callable[[], str | None]]] = [
        ("parameters", lambda: sound_parameters(defense)),
        ("key", looks.key_is_drawn),
        ("templates", looks.shapes),
        ("auxiliary data", looks.auxiliary_data),
        ("inputs untouched", looks.inputs_untouched),
        ("same key, same template", looks.deterministic),
        ("others do not matter", looks.independent),
        ("scores", looks.scores),
        ("recognises", looks.recognises),
        ("renewable", looks.renewable),
        ("margins", looks.margins),
        ("holds no state", lambda: keep_still(defense)),
        ("cost", looks.cost),
    ]
    needs = {name: "templates" for name, _ in checks[3:]}
    return work_off(checks, {**needs, "templates": "key", "recognises": "scores", "renewable": "scores"})


class _Looks:
    def __init__(self, defense: KeyedDefense, width: int, people: int = _PEOPLE) -> None:
        self.defense, self.width = defense, width
        draws = torch.randn(2, people, width, generator=Rng(0).torch())
        self.first = functional.normalize(draws[0])
        own = functional.normalize(draws[1] - (draws[1] * self.first).sum(1, keepdim=True) * self.first)
        self.second = _GENUINE * self.first + (1 - _GENUINE**2) ** 0.5 * own  # another image of each person

    @cached_property
    def key(self) -> Key:
        return self.defense.draw_key(Rng(1), self.width)

    @cached_property
    def other_key(self) -> Key:
        return self.defense.draw_key(Rng(2), self.width)

    def made(self, embeddings: Tensor, key: Key | None = None) -> Tensor:
        with torch.no_grad():
            return self.defense.transform(embeddings, key or self.key)

    @cached_property
    def stored(self) -> Tensor:
        return self.made(self.first)

    def login(self, embeddings: Tensor, record: int | None = None) -> Tensor:
        """Scores (N,) of these probes with the stored records in the same rows, or all with one record."""
        claimed = [row if record is None else record for row in range(len(embeddings))]
        with torch.no_grad():
            beside = self.defense.auxiliary(self.first, self.key)
            if beside is None:
                probes = self.defense.probe_beside(embeddings, self.key, None)
            else:
                parts = [
                    self.defense.probe_beside(embeddings[place : place + 1], self.key, beside[row])
                    for place, row in enumerate(claimed)
                ]
                probes = torch.cat(parts)
            return self.defense.compare(self.stored[claimed], probes, self.key)

    def key_is_drawn(self) -> str:
        disturb_globals(1)
        again = self.defense.draw_key(Rng(1), self.width)
        if not self.key or not all(isinstance(part, Tensor) for part in self.key.values()):
            raise Wrong("a mapping of names to tensors", type(self.key).__name__, 'Return {"name": tensor}.')
        if any(not torch.equal(part, again[name]) for name, part in self.key.items()):
            raise Wrong("the same key with the same seed", "another", _FROM_RNG)
        if all(torch.equal(part, self.other_key[name]) for name, part in self.key.items()):
            raise Wrong("another key with another seed", "the same", "Draw the key from rng.")
        size = sum(part.numel() * part.element_size() for part in self.key.values())
        return f"{', '.join(self.key)}: {size / 1e3:.1f} kB for embeddings of {self.width}"

    def shapes(self) -> str:
        found = self.made(self.first)
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(self.first):
            came = str(tuple(found.shape)) if isinstance(found, Tensor) else type(found).__name__
            raise Wrong(f"templates (B, ...) of {len(self.first)} embeddings", came, "Preserve the first dimension.")
        if not torch.isfinite(found).all():
            raise Wrong("finite templates", "NaN or infinity", "Look for a division by 0.")
        return f"{tuple(found.shape[1:])} of {str(found.dtype).removeprefix('torch.')}"

    def auxiliary_data(self) -> str:
        with torch.no_grad():
            found = self.defense.auxiliary(self.first, self.key)
            again = self.defense.auxiliary(self.first, self.key)
        if found is None or again is None:
            raise Pointless("none but the key")
        if found.ndim < 2 or len(found) != len(self.first) or not torch.isfinite(found.double()).all():
            raise Wrong(
                f"finite values (B, ...) of {len(self.first)} embeddings", str(tuple(found.shape)), "One row each."
            )
        if not torch.equal(found, again):
            raise Wrong("the same auxiliary data under the same key", "others", _FROM_RNG)
        return f"{tuple(found.shape[1:])} of {str(found.dtype).removeprefix('torch.')}"

    def inputs_untouched(self) -> None:
        embeddings, parts = self.first.clone(), {name: part.clone() for name, part in self.key.items()}
        self.made(self.first)
        same = torch.equal(embeddings, self.first)
        if not same or any(not torch.equal(part, self.key[name]) for name, part in parts.items()):
            raise Wrong("embeddings and key unchanged", "others", "transform must not write to its inputs.")

    def deterministic(self) -> None:
        one = self.made(self.first)
        disturb_globals(1)
        if not torch.equal(one, self.made(self.first)):
            raise Wrong("the same template under the same key", "another", _FROM_RNG)

    def independent(self) -> None:
        whole = self.made(self.first)
        alone = torch.cat([self.made(self.first[i : i + 1]) for i in range(8)])
        # The last digit depends on the batch, so a bit may flip: most templates must be the same, and all nearly so.
        apart = (whole[:8].double() - alone.double()).abs()
        if float((apart > 1e-3 * whole.double().abs().max()).double().mean()) > 0.01:
            raise Wrong(
                "the same template alone as among others", "another",
                "Compute each template from its own embedding and the key only.",
            )  # fmt: skip

    def scores(self) -> str:
        found, crossed = self.login(self.first), self.login(self.first, record=0)
        if tuple(found.shape) != (len(self.first),) or not torch.isfinite(found).all():
            raise Wrong(f"finite scores ({len(self.first)},)", str(tuple(found.shape)), "Return one number per row.")
        if float(found.mean()) <= float(crossed[1:].mean()):
            raise Wrong("higher scores for equal templates", "lower ones", "Higher must mean more similar.")
        return f"{float(found.mean()):.3g} for equal templates, {float(crossed[1:].mean()):.3g} for two people's"

    @cached_property
    def logins(self) -> tuple[Tensor, Tensor]:
        """Scores of stored templates with probes of the same person and of the next one, under one key."""
        return self.login(self.second).double(), self.login(self.second.roll(1, 0)).double()

    def crossed(self, key: Key) -> tuple[Tensor, Tensor]:
        """Scores of stored templates with those of the same person and of the next one under another key."""
        stored, others = self.stored, self.made(self.second, key)
        with torch.no_grad():
            return self.defense.score(stored, others).double(), self.defense.score(stored, others.roll(1, 0)).double()

    def recognises(self) -> str:
        own, other = self.logins
        if float(own.mean()) <= float(other.mean()):
            raise Wrong("higher scores for the same person", "lower ones", "A protected probe must match its template.")
        return f"{float((own[:, None] > other).double().mean()):.3f} of comparisons in the right order, one key for all"

    def renewable(self) -> str:
        """Whether a person's template under another key scores like a stranger's."""
        if torch.equal(self.stored[:8], self.made(self.first[:8], self.other_key)):
            raise Wrong("another template under another key", "the same", "transform must depend on the key.")
        drawn = [self.crossed(self.defense.draw_key(Rng(3).child(n), self.width)) for n in range(8)]
        means = torch.stack([(own - other).mean() for own, other in drawn])
        error = float(means.std() / len(means) ** 0.5)
        excess, strangers = float(means.mean()), float(torch.stack([other.mean() for _, other in drawn]).mean())
        if excess > max(_APART * error, 0.2 * (float(self.logins[0].mean()) - strangers)):
            raise Wrong("scores of strangers under another key", f"{excess:.3g} more", "Let the key change all of it.")
        return f"under another key, a person scores {excess:+.2g} (± {2 * error:.1g}) above strangers"

    def margins(self) -> str:
        stored = self.made(self.first)
        found = self.defense.margins(self.first[:1], stored[0], self.key)
        if found is None:
            raise Pointless("declares none: attacks on hashes do not apply")
        if found.ndim != 2 or len(found) != 1:
            raise Wrong("margins (B, M)", str(tuple(found.shape)), "Return one row per embedding.")
        if float(found.min()) < -1e-5:
            raise Wrong("no negative margin at the true embedding", f"{float(found.min()):.3g}", "Check their signs.")
        at = self.first[1:2].clone().requires_grad_()
        other = self.defense.margins(at, stored[0], self.key)
        assert other is not None
        if not other.requires_grad:
            raise Wrong("margins with gradients", "none", "Compute them from the embeddings by differentiable steps.")
        return f"{found.shape[1]}, of which a stranger violates {float((other < 0).double().mean()):.2f}"

    def cost(self) -> str:
        began = time.perf_counter()
        key = self.defense.draw_key(Rng(4), self.width)
        drawn = time.perf_counter()
        self.made(self.first, key)
        each = (time.perf_counter() - drawn) / len(self.first)
        return f"{1000 * (drawn - began):.2f} ms for a key, {1000 * each:.3f} ms for a template"


def check_keyed_attack(attack: KeyedAttack, broken: KeyedDefense, width: int = WIDTHS[0]) -> list[Verdict]:
    """Runs it on a defence that it should break, with random embeddings.

    Args:
        broken: the defence that the attack declares (`breaks`), or any other if it declares none.
    """
    looks = _Looks(broken, width)

    def leaked(_: int) -> Key:
        return looks.key

    def beside(number: int) -> Tensor | None:
        found = broken.auxiliary(looks.first, looks.key)
        return None if found is None else found[number]

    own = OwnPeople(torch.cat([looks.first, looks.second]), tuple(str(n % _PEOPLE) for n in range(2 * _PEOPLE)))

    def enrol(rows: Sequence[int], application: int, copy: int) -> Stolen:
        key = (looks.key, looks.other_key)[application % 2]
        shown = own.embeddings[list(rows)]
        return Stolen(looks.made(shown, key), broken.auxiliary(shown, key))

    def runs() -> str:
        known: dict[str, Any] = {
            "level": attack.level,
            "show": attack.shown,
            "enrol": enrol,
            "auxiliary": beside if attack.steals_auxiliary else None,
            "records": (lambda number: looks.made(looks.first[number : number + 1].expand(attack.records - 1, -1)))
            if attack.records > 1
            else None,
        }
        teacher = KeyOracle(attack.knows, broken, width, leaked, Rng(0), **known)
        known |= {"enrol": None, "learned": attack.fit(teacher, own, Rng(0))}
        if attack.needs_service:
            known["service"] = imitated_service(broken, looks.key, looks.stored, width, Rng(5))
        oracle = KeyOracle(attack.knows, broken, width, leaked, Rng(0), **known)
        stored = looks.made(looks.first)
        if isinstance(attack, CrossmatchAttack):
            auxiliary = broken.auxiliary(looks.first, looks.key) if attack.steals_auxiliary else None
            first = Stolen(stored[:6], None if auxiliary is None else auxiliary[:6])
            second = Stolen(looks.made(looks.second, looks.other_key)[:5], None if auxiliary is None else auxiliary[:5])
            with torch.no_grad():
                found = attack.link(oracle, first, second)
            wanted: tuple[int, ...] = (6, 5)
        elif isinstance(attack, InversionAttack):
            found, wanted = attack.invert(oracle, stored[:6], Rng(0)), (6, width)
        else:
            raise Pointless("neither an inversion nor a crossmatch")
        if tuple(found.shape) != wanted or not torch.isfinite(found).all():
            raise Wrong(f"finite values {wanted}", str(tuple(found.shape)), "Return one row per template.")
        return f"{type(broken).__name__}: {tuple(found.shape)}"

    return work_off([("parameters", lambda: sound_parameters(attack)), ("runs", runs)], {})
