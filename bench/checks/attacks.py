"""Checks of an attack: it only asks for what it declares, and it works where nothing is protected.

The module exceeds 300 lines because all kinds of attack are checked on one scene.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable
from functools import cached_property
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cosine_similarity

from bench.checks.linkage import check_linkage
from bench.checks.scene import Noisy, Open, Scene
from bench.checks.traits import check_traits
from bench.checks.verdict import (
    Pointless,
    Verdict,
    Wrong,
    disturb_globals,
    keep_still,
    sound_parameters,
    stored_state,
    work_off,
)
from bench.contracts import (
    Attack,
    Defense,
    FaceSet,
    Knowledge,
    Leak,
    LinkageAttack,
    Oracle,
    ReconstructionAttack,
    Rng,
    State,
    System,
    TraitAttack,
)
from bench.contracts.oracle import client_alone
from bench.errors import KnowledgeError, NotApplicable
from bench.metrics.image import image_scores

_CLOSE = 0.02  #: in pixel values: the possible effect of bfloat16 in another batch
_FROM_RNG = "Take all randomness from the rng that the step is given."


def check_attack(attack: Attack, scene: Scene) -> list[Verdict]:
    """Runs every check, in order; the last one measures the cost of an image."""
    checks: list[tuple[str, Callable[[], str | None]]] = [("parameters", lambda: sound_parameters(attack))]
    if isinstance(attack, ReconstructionAttack):
        looks = _Looks(attack, scene)
        checks += [
            ("level", looks.level),
            ("knowledge, nothing protected", looks.knowledge),
            ("knowledge, noise", looks.knowledge_under_noise),
            ("images", looks.images),
            ("inputs untouched", looks.inputs_untouched),
            ("weights untouched", lambda: scene.refuse_changes(looks.untouched)),
            ("same seed, same images", looks.same_seed),
            ("batch composition", looks.batch_composition),
            ("works on unprotected templates", looks.opens),
            ("holds no state", lambda: keep_still(attack)),
            ("cost", looks.cost),
        ]
    elif isinstance(attack, LinkageAttack):
        checks += [("level", lambda: str(attack.level)), ("scores", lambda: check_linkage(attack, scene))]
    elif isinstance(attack, TraitAttack):
        checks += [("level", lambda: str(attack.level)), ("traits", lambda: check_traits(attack, scene))]
    needs = {name: "knowledge, nothing protected" for name, _ in checks[3:]}
    return work_off(checks, needs | {"batch composition": "same seed, same images"})


class _Looks:
    """One attack on the unprotected system, fitted on first use."""

    def __init__(self, attack: ReconstructionAttack, scene: Scene) -> None:
        self.attack, self.scene = attack, scene
        count = attack.subset(Open()) or len(scene.test)
        self.names = scene.names(count)
        self.originals = scene.images(count)
        self.untouched = scene.weights()
        self.asked: Counter[str] = Counter()

    def tried(self, defense: Defense) -> tuple[Oracle, Any, Tensor]:
        """(oracle, prepared state, stolen values) on a defended system."""
        state = defense.fit(self.scene.network, self.scene.public, Rng(0).child("defence"))
        system = self.scene.system(defense, state)
        with torch.no_grad():
            templates = system.protect(system.encode(self.originals), Rng(0).images(self.names))
            embeddings = system.embed(templates)
        copy = (
            defense.fit(client_alone(self.scene.network), self.public, Rng(1)) if self.attack.asks_surrogate else None
        )
        leaks = self.attack.leaks == "embedding"
        taken = self._stolen(system, embeddings if leaks else templates)
        state = stored_state(self._learned(self.attack, system, copy, taken))
        # As in a run: stored embeddings are only available to an attack that steals them, and not during training.
        known = embeddings if leaks and self.attack.level >= Knowledge.ENROLMENT else None
        shown = self.attack.shown
        oracle = Oracle(self.attack.level, system, Rng(0).child("oracle"), known, copy, taken, show=shown)
        return oracle, self.attack.prepare(oracle, state), embeddings if leaks else templates

    @property
    def public(self) -> FaceSet:
        """The attacker's faces. An attack that learns from a database leaves half of the scene's to it."""
        whole = self.scene.public
        return whole.subset(range(len(whole) // 2)) if self.attack.asks_stolen else whole

    def _stolen(self, system: System, values: Tensor) -> NDArray[Any] | None:
        """The database: the values to attack, and those of people who are neither attacked nor public."""
        if not self.attack.asks_stolen:
            return None
        rest = self.scene.public.subset(range(len(self.public), len(self.scene.public)))
        with torch.no_grad():
            others = system.protect(system.encode(rest.batch(slice(None))), Rng(0).images(rest.names))
            others = system.embed(others) if self.attack.leaks == "embedding" else others
        found: NDArray[Any] = torch.cat([values, others]).cpu().numpy()
        return found

    def _learned(
        self, attack: ReconstructionAttack, system: System, copy: State | None, taken: NDArray[Any] | None
    ) -> State | None:
        oracle = Oracle(attack.level, system, Rng(0).child("oracle", attack.level), None, copy, taken)
        public = self.public
        if attack.base is None:
            state = attack.fit(oracle, public, Rng(0).child("fit"))
        else:
            start = stored_state(self._learned(attack.base, system, copy, taken))
            state = attack.adapt(oracle, public, Rng(0).child("adapt"), start)
        self.asked.update(oracle.queries)
        return state

    @property
    def subjects(self) -> tuple[str, ...]:
        return (self.scene.test.subjects or self.scene.test.names)[: len(self.names)]

    @cached_property
    def open(self) -> tuple[Oracle, Any, Tensor]:
        return self.tried(Open())

    def made(self, some: slice = slice(None)) -> Tensor:
        oracle, prepared, values = self.open
        rows = tuple(range(len(self.names)))[some]
        leak = Leak(values[some].clone(), self.subjects[some], rows, guesses=self.guesses(some))
        return self.attack.reconstruct(oracle, prepared, leak, Rng(0).images(self.names[some])).detach()

    def guesses(self, some: slice) -> tuple[Tensor, ...]:
        """Stand-ins for what an attack's parts made: other people's images by the first, the originals by the rest."""
        strangers = self.originals.roll(2, 0)[some]
        return tuple(self.originals[some].clone() if i else strangers for i in range(len(self.attack.parts)))

    def level(self) -> str:
        if not isinstance(self.attack.level, Knowledge) or self.attack.leaks not in ("template", "embedding"):
            raise Wrong(
                "a level of Knowledge, and leaks of 'template' or 'embedding'",
                f"{self.attack.level!r}, {self.attack.leaks!r}", "Return Knowledge.ENCODER, for example.",
            )  # fmt: skip
        return f"{self.attack.level}, leaks the {self.attack.leaks}"

    def _respects(self, work: Callable[[], Any]) -> None:
        try:
            work()
        except KnowledgeError as error:
            raise Wrong(
                f"what level '{self.attack.level}' allows", str(error),
                "Declare the higher level, or do without; the harness also refuses it.",
            ) from error  # fmt: skip

    def knowledge(self) -> str:
        try:
            self._respects(self.open.__len__)
            self._respects(self.made)
        except NotApplicable as why:
            raise Pointless(f"does not apply where nothing is protected: {why}") from why
        asked = self.asked + self.open[0].queries
        return ", ".join(f"{name} {count}" for name, count in sorted(asked.items())) or "no queries"

    def knowledge_under_noise(self) -> str:
        def work() -> None:
            oracle, prepared, values = self.tried(Noisy())
            others = iter([values[:2]] * (self.attack.copies - 1))
            leak = Leak(values[:2], self.subjects[:2], (0, 1), others, self.guesses(slice(0, 2)))
            self.attack.reconstruct(oracle, prepared, leak, Rng(0).images(self.names[:2]))

        try:
            self._respects(work)
        except NotApplicable as why:
            return f"does not apply: {why}"
        return "kept"

    def _open_or_skip(self) -> None:
        try:
            _ = self.open
        except NotApplicable as why:
            raise Pointless(str(why)) from why

    def images(self) -> str:
        self._open_or_skip()
        made = self.made()
        wanted = (len(self.names), 3, *self.scene.network.image_size)
        if tuple(made.shape) != wanted:
            raise Wrong(f"images {wanted}", str(tuple(made.shape)), "Return (B, 3, H, W); oracle.image_size has H, W.")
        if not torch.isfinite(made).all():
            raise Wrong("finite images", "NaN or infinity", "Look for a division by 0.")
        low, high = float(made.min()), float(made.max())
        if low < -0.5 or high > 1.5:
            raise Wrong(
                "values of about [0, 1]", f"{low:.3g} to {high:.3g}",
                "Images are RGB in [0, 1]; a recogniser's own normalisation ends at its client.",
            )  # fmt: skip
        return f"{low:.2f} to {high:.2f}"

    def inputs_untouched(self) -> None:
        self._open_or_skip()
        oracle, prepared, values = self.open
        stolen = values.clone()
        leak = Leak(stolen, self.subjects, tuple(range(len(values))), guesses=self.guesses(slice(None)))
        self.attack.reconstruct(oracle, prepared, leak, Rng(0).images(self.names))
        if not torch.equal(stolen, values):
            raise Wrong("stolen values unchanged", "others", "Work on a copy of leak.values.")

    def same_seed(self) -> None:
        self._open_or_skip()
        disturb_globals(1)
        one = self.made()
        disturb_globals(2)
        other = self.made()
        if not torch.equal(one, other):
            apart = float((one - other).abs().max())
            raise Wrong("the same images with the same seed", f"different ones, by up to {apart:.3g}", _FROM_RNG)

    def batch_composition(self) -> str:
        self._open_or_skip()
        if self.attack.coupled:
            return "depends on its batch, as declared"
        whole = self.made(slice(0, 3))
        alone = torch.cat([self.made(slice(i, i + 1)) for i in range(len(whole))])
        apart = float((whole - alone).abs().mean())
        if apart > _CLOSE:
            raise Wrong(
                "the same image alone as in a batch", f"different ones, by {apart:.3g} on average",
                "Process each image independently, or declare the dependence with the property coupled.",
            )  # fmt: skip
        return f"within {apart:.1e}"

    def opens(self) -> str:
        """Its score must exceed the blind floor significantly: paired difference over its standard error."""
        self._open_or_skip()
        if self.attack.level == Knowledge.BLIND or self.attack.yardstick or self.attack.control:
            raise Pointless("not meant as a strong attack: a reference for others")
        made = self.made().clamp(0, 1)
        public = self.scene.public
        floor = torch.stack([public.batch(slice(i, i + 1))[0] for i in range(len(public))]).mean(0).expand_as(made)
        if self.attack.leaks == "embedding":
            own, blind = (self._cosines(images) for images in (made, floor))
            what = "cosine"
        else:
            scores = [torch.from_numpy(image_scores(self.originals, images)["ssim"]) for images in (made, floor)]
            (own, blind), what = scores, "SSIM"
        gain = own - blind
        error = float(gain.std()) / len(gain) ** 0.5 if len(gain) > 1 else 0.0
        note = f"{what} {float(own.mean()):.2f}, mean face {float(blind.mean()):.2f}"
        if float(gain.mean()) <= 2 * error:
            raise Wrong(
                "a better result than the mean face where nothing is protected", note,
                "An attack that is weak here makes every defence look good: train it longer or on more faces.",
            )  # fmt: skip
        return note

    def _cosines(self, images: Tensor) -> Tensor:
        network = self.scene.network
        with torch.no_grad():
            made, real = (network.embed(network.extract(batch)) for batch in (images, self.originals))
        return cosine_similarity(made, real).double()

    def cost(self) -> str:
        self._open_or_skip()
        started = time.perf_counter()
        self.made()
        return f"{1000 * (time.perf_counter() - started) / len(self.names):.1f} ms per image"
