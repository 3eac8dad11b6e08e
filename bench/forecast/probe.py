"""Times a plugin on random images to estimate the cost of each artefact and each cell.

The module exceeds 300 lines because one class holds the timings that the kinds of artefact share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from bench.contracts import (
    Defense,
    FaceSet,
    InversionAttack,
    KeyedDefense,
    KeyOracle,
    Knowledge,
    Leak,
    LinkageAttack,
    Oracle,
    OwnPeople,
    ReconstructionAttack,
    Rng,
    State,
    Stolen,
    System,
    TraitAttack,
)
from bench.datasets.public_faces import REST, SIDES
from bench.errors import DataError, NotApplicable
from bench.labels import harness_part
from bench.metrics.image import image_scores
from bench.plan import Job, Scene, Task, public_sources
from bench.settings.controls import Canary, Control
from bench.settings.model import Settings
from bench.settings.stack import Stack
from bench.toolkit.imitated_service import imitated_service
from bench.toolkit.precision import pick_device

_PROBE = 16  #: images per timing
_STEPS = 4  #: timed steps of an attack's optimisation
_FURTHER = 2  #: timed epochs after the first
_FIT_STEPS = 2  #: timed training steps of a defence
_TRAITS = 5  #: traits of a timed attack on these
_LONG = 1.0  #: seconds beyond which warm-up does not matter


@dataclass(frozen=True)
class Item:
    """The cost of one artefact or cell."""

    what: str
    seconds: float
    bytes: int


def _shortened(plugin: Any) -> Any:
    """The plugin with as little training as possible."""
    names = {f.name for f in fields(plugin)}
    short: dict[str, Any] = {}
    if "training" in names:
        short["training"] = replace(plugin.training, epochs=1, images=None)
    if "recipe" in names:
        least = {"epochs": 1, "rounds": 1, "head_epochs": 0}
        short["recipe"] = replace(plugin.recipe, **{n: v for n, v in least.items() if hasattr(plugin.recipe, n)})
    if "fit_steps" in names:
        short["fit_steps"] = min(plugin.fit_steps, _FIT_STEPS)
    if isinstance(plugin, Stack):
        short["parts"] = tuple(_shortened(part) for part in plugin.parts)
    return replace(plugin, **short)


def _hastened(attack: ReconstructionAttack) -> tuple[ReconstructionAttack, float]:
    """The attack with a short search, and how many times longer the full one takes."""
    for name, few in (
        ("iterations", _STEPS), ("rounds", _STEPS), ("queries", getattr(attack, "candidates", 1) + 1)
    ):  # fmt: skip
        asked = getattr(attack, name, few)
        if asked > few:
            return replace(attack, **{name: few}), asked / few
    return attack, 1.0


def _costs_like(defense: Defense) -> str:
    """The same for all points of a sweep over a float that `fit` ignores (a noise bound): these have the same cost."""
    sizes = {name: 0.0 for name in defense.ignored.get("fit", ()) if isinstance(getattr(defense, name), float)}
    parameters = {**vars(defense), **sizes}
    return f"{type(defense).__qualname__}{parameters}"


def _tensors(state: State | None) -> int:
    return sum(t.numel() * t.element_size() for t in state.tensors.values()) if state else 0


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a second call, so that warm-up is not included; of the first call if it took long."""
    for _ in range(2):
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        if seconds > _LONG:
            break
    return seconds, result


@dataclass(frozen=True)
class _Defended:
    """A briefly fitted defence, with the costs of its parts."""

    fit: float  #: seconds of the full fitting
    protect: float  #: seconds per image
    bytes: int  #: size of a template
    state: State | None
    system: System
    templates: torch.Tensor


class Probe:
    def __init__(self, settings: Settings, scene: Scene) -> None:
        self.settings = settings
        self.device = pick_device(settings.run.device)
        recognizer = settings.recognizers[scene.recognizer]
        self.network = recognizer.load().to(self.device).eval().requires_grad_(False)
        height, width = recognizer.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (2 * _PROBE, height, width, 3), dtype=np.uint8)
        count = len(pixels)
        names = tuple(map(str, range(count)))
        people = tuple(str(i // 4) for i in range(count))  # some defences learn from several images of a person
        self.faces = FaceSet(pixels, np.arange(count), names, people, np.ones(count, dtype=bool))
        self.test, rest = settings.datasets[scene.dataset].size()
        self.test = min(self.test, 2 * settings.run.pairs) if settings.run.pairs else self.test
        self.attacked = min(self.test, settings.run.images or self.test)
        sources = public_sources(settings, scene.dataset)

        def size(source: str) -> int:
            return rest if source == REST else settings.public[source].size()[1]

        self.public = {side: sources.count(side, size) for side in SIDES}
        self._defended: dict[str, _Defended] = {}
        self._served: dict[str, tuple[float, State | None]] = {}
        self._attacked: dict[tuple[str, str, int], tuple[float, int, float]] = {}
        self._embed = self._judge = 0.0

    def _fit_seconds(self, plugin: Any, first: float, fit: Callable[[Any], Any], public: int) -> float:
        """Seconds of the full fitting, whose first epoch took `first`; cached features make later epochs cheaper."""
        training = getattr(plugin, "training", None)
        if isinstance(plugin, Stack):
            longest = max(
                getattr(getattr(part, "training", None), "epochs", getattr(part, "fit_steps", _FIT_STEPS) / _FIT_STEPS)
                for part in plugin.parts
            )
            return first * max(1.0, float(longest))
        if hasattr(plugin, "fit_steps"):
            return first * max(1.0, float(plugin.fit_steps) / _FIT_STEPS)
        if training is None:
            return first * min(public, getattr(plugin, "learned", public)) / len(self.faces)
        longer = replace(plugin, training=replace(training, epochs=1 + _FURTHER, images=None))
        began = time.perf_counter()
        fit(longer)
        later = max(0.0, time.perf_counter() - began - first) / _FURTHER
        images = min(public, training.images or public)
        return float((first + later * (training.epochs - 1)) * images / len(self.faces))

    def _defense(self, label: str) -> _Defended:
        plugin = self.settings.defenses[label]
        if isinstance(plugin, Control):
            # A control reads its defence's templates, which takes no longer than embedding a face.
            parent = self._defense(harness_part(label)[0])
            return replace(parent, protect=self._embedding())
        alike = _costs_like(plugin)
        if alike not in self._defended:
            short = _shortened(plugin)
            learn: Callable[[Defense], State | None] = lambda one: one.fit(self.network, self.faces, Rng(0))  # noqa: E731
            fit, state = _timed(lambda: learn(short))
            system = System(self.network, plugin, plugin.prepare(self.network, state), self.device)
            _, server = self._server(label, system)
            system = replace(system, server=plugin.prepare_server(self.network, server))
            images = self.faces.batch(slice(0, _PROBE), self.device)

            def protect() -> torch.Tensor:
                with torch.no_grad():
                    return system.protect(system.encode(images), Rng(0).images(self.faces.names[:_PROBE]))

            seconds, templates = _timed(protect)
            size = templates[0].numel() * np.dtype(plugin.template_dtype).itemsize
            fit = self._fit_seconds(plugin, fit, learn, self.public["defender"])
            self._defended[alike] = _Defended(fit, seconds / _PROBE, size, state, system, templates)
        return self._defended[alike]

    def _server(self, label: str, system: System) -> tuple[float, State | None]:
        """Trains the server's part for one epoch on the timing's faces; returns (seconds, state)."""
        if label not in self._served:
            started = time.perf_counter()
            state = _shortened(system.defense).fit_server(system, self.faces, Rng(0))
            self._served[label] = time.perf_counter() - started, state
        return self._served[label]

    def _serving(self, label: str) -> Item:
        """The cost of training the server: each template is computed once and used in every epoch."""
        own = self._defense(label)
        plugin = own.system.defense
        epoch, state = self._server(label, own.system)
        made = min(epoch, own.protect * len(self.faces))
        images = min(self.public["defender"], getattr(plugin, "server_images", None) or self.public["defender"])
        epochs = plugin.recipe.epochs * plugin.recipe.rounds if hasattr(plugin, "recipe") else 1
        seconds = (made + (epoch - made) * epochs) * images / len(self.faces)
        return Item(f"server state: {label}", seconds, _tensors(state))

    def _attack(self, label: str, defense: str, bases: int = 0) -> tuple[float, int, float]:
        """(seconds to fit, bytes of the state, seconds per reconstruction) of an attack, or of one of its bases."""
        attack: Any = self.settings.attacks[label]
        for _ in range(bases):
            attack = attack.base
        # The cost depends on the defence if the attack runs it; a decoder costs the same for all that share a client.
        # On a control, an attack costs what it costs on the defence itself.
        if isinstance(self.settings.defenses[defense], Control):
            defense = harness_part(defense)[0]
        plugin = self.settings.defenses[defense]
        apart = attack.level >= Knowledge.ALGORITHM or attack.asks_stolen or attack.depends_on_server
        key = (label, _costs_like(plugin) if apart or plugin.has_own_client else "", bases)
        if key not in self._attacked:
            try:
                self._attacked[key] = self._probed(attack, self._defense(defense))
            except NotApplicable:
                self._attacked[key] = (0.0, 0, 0.0)
        return self._attacked[key]

    def _probed(self, attack: ReconstructionAttack, own: _Defended) -> tuple[float, int, float]:
        stored = own.system.embed(own.templates) if attack.leaks == "embedding" else None
        values = own.templates if stored is None else stored
        taken = values.cpu().numpy() if attack.asks_stolen else None
        oracle = Oracle(attack.level, own.system, Rng(0), stored, own.state, taken, show=attack.shown)
        fit, state = self._learned(attack, oracle, own)
        prepared = attack.prepare(oracle, state)
        shown = self.faces.batch(slice(0, len(values)), values.device)
        leak = Leak(values, rows=tuple(range(len(values))), guesses=tuple(shown for _ in attack.parts))
        names = self.faces.names[:_PROBE]
        brief, share = _hastened(attack)
        seconds, _ = _timed(lambda: brief.reconstruct(oracle, prepared, leak, Rng(0).images(names)))
        return fit, _tensors(state), share * seconds / _PROBE

    def _learned(self, attack: ReconstructionAttack, oracle: Oracle, own: _Defended) -> tuple[float, State | None]:
        """(seconds of the full training, a briefly trained state); with a base, only the continued training."""
        if attack.base is None:
            short = _shortened(attack)
            if hasattr(attack, "calibration") and hasattr(attack, "iterations"):
                few: Any = replace(short, calibration=_PROBE, iterations=min(attack.iterations, _STEPS))  # type: ignore[call-arg]
                fit, state = _timed(lambda: few.fit(oracle, self.faces, Rng(0)))
                return fit * attack.calibration / _PROBE * max(1.0, attack.iterations / _STEPS), state
            learn: Callable[[ReconstructionAttack], State | None] = lambda one: one.fit(oracle, self.faces, Rng(0))  # noqa: E731
            fit, state = _timed(lambda: learn(short))
            return self._fit_seconds(attack, fit, learn, self.public["attacker"]), state
        start = _shortened(attack.base).fit(oracle, self.faces, Rng(0))
        adaptation = getattr(attack, "adaptation", None)
        if adaptation is None:
            return _timed(lambda: attack.adapt(oracle, self.faces, Rng(0), start))
        brief: Any = replace(attack, adaptation=replace(adaptation, epochs=1), enrolled=len(self.faces))  # type: ignore[call-arg]
        began = time.perf_counter()
        state = brief.adapt(oracle, self.faces, Rng(0), start)
        spent = time.perf_counter() - began
        enrolled = min(getattr(attack, "enrolled", len(self.faces)), self.public["attacker"])
        made = min(spent, own.protect * len(self.faces))
        # Each face is protected once; the number of steps is that of 500 faces.
        passes = state.info.get("epochs", 1) if state else 1
        steps = (spent - made) / passes / len(self.faces) * 500 * adaptation.epochs
        return made / len(self.faces) * enrolled + steps, state

    def _student(self, task: Task, attack: Any) -> Item:
        """A linkage attack's training with a recipe. An epoch sees the public faces or, with a base, 500 templates."""
        own = self._defense(task.defense)
        oracle, brief = Oracle(attack.level, own.system, Rng(0), surrogate=own.state), _shortened(attack)
        try:
            if attack.base is None:
                spent, state = _timed(lambda: brief.fit(oracle, self.faces, Rng(0)))
                spent *= self.public["attacker"] / len(self.faces)
            else:
                start = _shortened(attack.base).fit(oracle, self.faces, Rng(0))
                spent, state = _timed(lambda: brief.adapt(oracle, self.faces, Rng(0), start))
        except (DataError, NotApplicable):  # the probe has too few people
            spent, state = 0.0, None
        return Item(task.label, spent * attack.recipe.epochs, _tensors(state))

    def _trait(self, task: Task, attack: Any) -> Item:
        """Learning traits, where only enrolling takes longer with more faces; or inferring them."""
        if task.kind == "traits":
            return Item(task.label, self.test * self._embedding() / 10, 40 * self.test)
        enrolled = min(getattr(attack, "enrolled", self.public["attacker"]), self.public["attacker"])
        answers = np.arange(len(self.faces), dtype=np.float32) % 2
        faces = replace(self.faces, traits={f"trait {number}": answers for number in range(_TRAITS)})
        if task.defense:
            own = self._defense(task.defense)
            system, each = own.system, own.protect
        else:
            system, each = System(self.network, Canary(kind="open"), device=self.device), self._embedding()
        seconds, state = _timed(lambda: attack.fit(Oracle(attack.level, system, Rng(0)), faces, Rng(0)))
        return Item(task.label, seconds + each * max(0, enrolled - len(faces)), _tensors(state))

    def _under_keys(self, task: Task) -> Item:
        """The artefacts of a keyed defence; a key for each person, and all of them as impostors of everybody."""
        defense, people = self.settings.defenses[task.defense], math.ceil(self.test / 2)
        assert isinstance(defense, KeyedDefense)
        images = self.faces.batch(slice(0, _PROBE), self.device)
        with torch.no_grad():
            embeddings = self.network.embed(self.network.extract(images)).cpu()
        try:
            draw, key = _timed(lambda: defense.draw_key(Rng(0), embeddings.shape[1]))
            once, templates = _timed(lambda: defense.transform(embeddings, key))
            if task.kind == "protected":
                size = templates[0].numel() * templates.element_size()
                return Item(task.label, people * (3 * draw + once * people / _PROBE), 2 * people * size)
            attack = self.settings.attacks.get(task.attack)
            if task.kind == "key_attack_state":
                return self._learning_keys(task, attack, defense, embeddings, draw + once / _PROBE)
            if not isinstance(attack, InversionAttack) or attack.learns:
                return Item(task.label, once, 8 * people**2)
            few, width = templates[:_STEPS], embeddings.shape[1]
            service = imitated_service(defense, key, few, width, Rng(0)) if attack.needs_service else None
            oracle = KeyOracle(
                attack.knows, defense, width, lambda _: key, Rng(0), attack.level, service, attack.shown,
                auxiliary=(lambda _: None) if attack.steals_auxiliary else None,
            )  # fmt: skip
            seconds, _ = _timed(lambda: attack.invert(oracle, few, Rng(0)))
        except NotApplicable:
            return Item(task.label, 0.0, 0)
        count = min(people, self.settings.run.images or people)
        return Item(task.label, count * (seconds / _STEPS + draw), 4 * count * embeddings.shape[1])

    def _learning_keys(self, task: Task, attack: Any, defense: KeyedDefense, embeddings: Tensor, each: float) -> Item:
        """Learning from own people, where only enrolling takes longer with more faces."""
        count = self.public["attacker"]
        people = tuple(str(number // 2) for number in range(len(embeddings)))
        own = OwnPeople(embeddings, people)

        def enrol(rows: Sequence[int], application: int, copy: int) -> Stolen:
            key = defense.draw_key(Rng(application), embeddings.shape[1])
            return Stolen(defense.transform(embeddings[list(rows)], key))

        oracle = KeyOracle(
            attack.knows, defense, embeddings.shape[1], lambda _: {}, Rng(0), level=attack.level, enrol=enrol
        )
        seconds, state = _timed(lambda: attack.fit(oracle, own, Rng(0)))
        return Item(task.label, seconds + each * max(0, count - len(own)), _tensors(state))

    def _pictured(self, task: Task) -> Item:
        """Training the decoder of recovered embeddings, or making faces with it."""
        attack = self.settings.pictures
        assert attack is not None
        if ("", "", 0) not in self._attacked:
            system = System(self.network, Canary(kind="open"), device=self.device)
            with torch.no_grad():
                features = self.network.extract(self.faces.batch(slice(0, _PROBE), self.device))
            own = _Defended(0.0, self._embedding(), 0, None, system, features)
            self._attacked["", "", 0] = self._probed(attack, own)
        fit, state, each = self._attacked["", "", 0]
        if task.kind == "picture_decoder":
            return Item(task.label, fit, state)
        height, width = self.network.image_size
        count = min(math.ceil(self.test / 2), self.attacked, attack.subset(Canary(kind="open")) or self.attacked)
        return Item(task.label, count * (each + self._embedding()), count * 6 * height * width)

    def _embedding(self) -> float:
        """Seconds per image for E and Psi."""
        if not self._embed:
            images = self.faces.batch(slice(0, _PROBE), self.device)

            def embed() -> None:
                with torch.no_grad():
                    self.network.embed(self.network.extract(images))

            self._embed = _timed(embed)[0] / _PROBE
        return self._embed

    def task(self, task: Task) -> Item:
        """The cost of an artefact."""
        if task.kind in ("identity", "judge_identity"):
            return Item(task.label, self.test * self._embedding(), self.test * 2048)
        if task.kind in ("attacker_identity", "defender_identity"):
            count = self.public["attacker" if task.kind == "attacker_identity" else "defender"]
            return Item(task.label, count * self._embedding(), count * 2048)
        if task.kind in ("presentation", "login"):
            # About half of the images are the left one of a genuine pair, and these are attacked first.
            own, shown = self._defense(task.defense), min(self.attacked, math.ceil(self.test / 2))
            if task.kind == "presentation":
                return Item(task.label, shown * own.protect, shown * own.bytes)
            protects = 0.0 if task.need("presentation") else own.protect
            return Item(task.label, shown * (protects + self._embedding()), self.test * 2048)
        if task.kind == "embeddings":
            return Item(task.label, 2 * self.test * self._embedding(), self.test * 4096)
        defense = task.defense
        if task.kind in ("protected", "crossmatch", "inversion", "key_attack_state"):
            return self._under_keys(task)
        if task.kind in ("picture_decoder", "pictures"):
            return self._pictured(task)
        if task.kind == "server_state":
            return self._serving(defense)
        linking = self.settings.attacks.get(task.attack)
        if isinstance(linking, TraitAttack):
            return self._trait(task, linking)
        if task.kind == "attack_state" and isinstance(linking, LinkageAttack) and hasattr(linking, "recipe"):
            return self._student(task, linking.base if task.bases else linking)
        if task.kind == "linkage" or isinstance(linking, LinkageAttack):
            return Item(task.label, self.test * self._embedding(), self.test**2)
        if task.kind == "attack_state":
            fit, state, _ = self._attack(task.attack, defense, task.bases)
            return Item(task.label, fit, state)
        if task.kind == "reconstruction":
            height, width = self.network.image_size
            attack = self.settings.attacks[task.attack]
            assert isinstance(attack, ReconstructionAttack)
            count = min(self.attacked, attack.subset(self.settings.defenses[defense]) or self.attacked)
            return Item(task.label, count * self._attack(task.attack, defense)[2], count * 6 * height * width)
        own = self._defense(defense)
        if task.kind in ("defense_state", "surrogate_state"):
            return Item(task.label, own.fit, _tensors(own.state))
        return Item(task.label, self.test * own.protect, self.test * own.bytes)

    def job(self, job: Job) -> Item:
        """The cost of judging a cell, without its artefacts."""
        label = f"judging {job.cell.kind} cells"
        if job.cell.kind not in ("reconstruction", "picture"):
            return Item(label, 0.5, 100 * self.test)
        if not self._judge:
            images = self.faces.batch(slice(0, _PROBE))
            self._judge = _timed(lambda: image_scores(images, images.flip(-1)))[0] / _PROBE
        # LPIPS costs about as much as the recogniser.
        return Item(label, self.attacked * (self._judge + 2 * self._embedding()), 150 * self.attacked)
