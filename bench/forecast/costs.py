"""What a run would take, from a timed probe of this machine with random pictures; nothing is made or kept."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.contracts import (
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
)
from bench.datasets.public_faces import REST, SIDES
from bench.durations import duration
from bench.errors import DataError, NotApplicable
from bench.labels import harness_part
from bench.metrics.image import image_scores
from bench.plan import Job, Plan, Scene, Task, lending
from bench.runner.serial import missing_tasks, pending
from bench.settings.controls import Control
from bench.settings.model import Settings
from bench.storage.records import Run
from bench.toolkit.precision import keep_freed_memory, pick_device

_PROBE = 16  #: pictures a probe is made with
_STEPS = 4  #: of an optimisation's, that are timed
_FURTHER = 2  #: epochs after the first, that are timed
_FIT_STEPS = 2  #: of a defence's own training, that are timed
_LONG = 5.0  #: seconds in which warming up counts for little


@dataclass(frozen=True)
class Item:
    """One thing to make or judge."""

    what: str
    seconds: float
    bytes: int


@dataclass(frozen=True)
class Outlook:
    """What a run would make and judge."""

    items: tuple[Item, ...]
    cells: int  #: to judge
    finished: int  #: that stand already

    def as_dict(self) -> dict[str, Any]:
        """JSON-able."""
        totals = {"seconds": sum(i.seconds for i in self.items), "bytes": sum(i.bytes for i in self.items)}
        return {**asdict(self), **totals}

    def text(self) -> str:
        """For people."""
        if not self.cells:
            return f"Nothing to do: all {self.finished} cells are finished."
        groups: dict[str, list[Item]] = {}
        for item in self.items:
            groups.setdefault(item.what, []).append(item)
        rows = {f"{len(some)} x {what}" if len(some) > 1 else what: some for what, some in groups.items()}
        width = max(map(len, rows))
        lines = [
            f"{what:<{width}}  {duration(sum(i.seconds for i in some)):>9}  {_size(sum(i.bytes for i in some)):>9}"
            for what, some in (*rows.items(), ("in all, about", list(self.items)))
        ]
        lines.append(
            f"{self.cells} cells to judge, {self.finished} finished already. Aligning new faces is not counted."
        )
        return "\n".join(lines)


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.1f} MB"


def estimate(settings: Settings, plan: Plan, run: Run) -> Outlook:
    """What is missing, with the seconds and bytes that each part would take on this machine."""
    jobs = pending(plan, run)
    items = costs(settings, missing_tasks(jobs, Path(settings.run.store)), jobs)
    return Outlook(tuple(items), len(jobs), len(plan.jobs) - len(jobs))


def costs(settings: Settings, tasks: list[Task], jobs: list[Job]) -> list[Item]:
    """What each artefact and then each cell would take on this machine, from a timed probe."""
    keep_freed_memory()  # as the run does
    probes = {scene: _Probe(settings, scene) for scene in {*(t.scene for t in tasks), *(j.scene for j in jobs)}}
    return [probes[task.scene].task(task) for task in tasks] + [probes[job.scene].job(job) for job in jobs]


def _shortened(plugin: Any) -> Any:
    """The plugin with as little training as there can be, if it trains."""
    names = {f.name for f in fields(plugin)}
    short: dict[str, Any] = {}
    if "training" in names:
        short["training"] = replace(plugin.training, epochs=1, images=None)
    if "recipe" in names:
        short["recipe"] = replace(plugin.recipe, epochs=1, rounds=1, head_epochs=0)
    if "fit_steps" in names:
        short["fit_steps"] = min(plugin.fit_steps, _FIT_STEPS)
    return replace(plugin, **short)


def _hastened(attack: ReconstructionAttack) -> tuple[ReconstructionAttack, float]:
    """The attack with a short search, and how many times as long the whole one is."""
    for name, few in (("iterations", _STEPS), ("queries", getattr(attack, "candidates", 1) + 1)):
        asked = getattr(attack, name, few)
        if asked > few:
            return replace(attack, **{name: few}), asked / few
    return attack, 1.0


def _costs_like(defense: Defense) -> str:
    """The same for the points of a sweep over a size: a float that `fit` ignores (a noise bound) changes no cost."""
    sizes = {name: 0.0 for name in defense.ignored.get("fit", ()) if isinstance(getattr(defense, name), float)}
    parameters = {**vars(defense), **sizes}
    return f"{type(defense).__qualname__}{parameters}"


def _tensors(state: State | None) -> int:
    return sum(t.numel() * t.element_size() for t in state.tensors.values()) if state else 0


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of a second go, the first one having warmed up what there is to warm up; of the first if it was long."""
    for _ in range(2):
        started = time.perf_counter()
        result = work()
        seconds = time.perf_counter() - started
        if seconds > _LONG:
            break
    return seconds, result


@dataclass(frozen=True)
class _Defended:
    """A defence, fitted briefly, and what its parts cost."""

    fit: float  #: seconds of its whole fitting
    protect: float  #: seconds an image
    bytes: int  #: of a template
    state: State | None
    system: System
    templates: torch.Tensor


class _Probe:
    def __init__(self, settings: Settings, scene: Scene) -> None:
        self.settings = settings
        self.device = pick_device(settings.run.device)
        recognizer = settings.recognizers[scene.recognizer]
        self.network = recognizer.load().to(self.device).eval().requires_grad_(False)
        height, width = recognizer.image_size
        pixels = np.random.default_rng(0).integers(0, 256, (2 * _PROBE, height, width, 3), dtype=np.uint8)
        count = len(pixels)
        names = tuple(map(str, range(count)))
        self.faces = FaceSet(pixels, np.arange(count), names, names, np.ones(count, dtype=bool))
        self.test, rest = settings.datasets[scene.dataset].size()
        self.test = min(self.test, 2 * settings.run.pairs) if settings.run.pairs else self.test
        self.attacked = min(self.test, settings.run.images or self.test)
        lends = lending(settings)

        def size(lender: str) -> int:
            return rest if lender == REST else settings.public[lender].size()[1]

        self.public = {side: lends.count(side, size) for side in SIDES}
        self._defended: dict[str, _Defended] = {}
        self._served: dict[str, tuple[float, State | None]] = {}
        self._attacked: dict[tuple[str, str, int], tuple[float, int, float]] = {}
        self._embed = self._judge = 0.0

    def _fit_seconds(self, plugin: Any, first: float, fit: Callable[[Any], Any], public: int) -> float:
        """Seconds of a whole fitting whose first epoch took so long: features that are kept cost nothing later."""
        training = getattr(plugin, "training", None)
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
            # It reads what its defence stored; that takes no longer than embedding a face.
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
        """(seconds of training on the probe's faces for an epoch, the state) of the server's own part."""
        if label not in self._served:
            started = time.perf_counter()
            state = _shortened(system.defense).fit_server(system, self.faces, Rng(0))
            self._served[label] = time.perf_counter() - started, state
        return self._served[label]

    def _serving(self, label: str) -> Item:
        """Every template that it learns from is made once, and seen in each epoch."""
        own = self._defense(label)
        plugin = own.system.defense
        epoch, state = self._server(label, own.system)
        made = min(epoch, own.protect * len(self.faces))
        images = min(self.public["defender"], getattr(plugin, "server_images", None) or self.public["defender"])
        epochs = plugin.recipe.epochs * plugin.recipe.rounds if hasattr(plugin, "recipe") else 1
        seconds = (made + (epoch - made) * epochs) * images / len(self.faces)
        return Item(f"server state: {label}", seconds, _tensors(state))

    def _attack(self, label: str, defense: str, bases: int = 0) -> tuple[float, int, float]:
        """(fit seconds, state bytes, reconstruct seconds an image) of an attack, or of one that it goes on from."""
        attack: Any = self.settings.attacks[label]
        for _ in range(bases):
            attack = attack.base
        # What goes through the defence costs what the defence costs; a decoder the same under all that share a client.
        apart = attack.level >= Knowledge.ALGORITHM or self.settings.defenses[defense].has_own_client
        key = (label, defense if apart else "", bases)
        if key not in self._attacked:
            try:
                self._attacked[key] = self._probed(attack, self._defense(defense))
            except NotApplicable:
                self._attacked[key] = (0.0, 0, 0.0)
        return self._attacked[key]

    def _probed(self, attack: ReconstructionAttack, own: _Defended) -> tuple[float, int, float]:
        oracle = Oracle(attack.level, own.system, Rng(0), surrogate=own.state)
        fit, state = self._learned(attack, oracle, own)
        prepared = attack.prepare(oracle, state)
        leak = Leak(own.templates if attack.leaks == "template" else own.system.embed(own.templates))
        names = self.faces.names[:_PROBE]
        brief, share = _hastened(attack)
        seconds, _ = _timed(lambda: brief.reconstruct(oracle, prepared, leak, Rng(0).images(names)))
        return fit, _tensors(state), share * seconds / _PROBE

    def _learned(self, attack: ReconstructionAttack, oracle: Oracle, own: _Defended) -> tuple[float, State | None]:
        """(seconds of all its learning, a state learned briefly); of an attack with a base, what it adds to that."""
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
        # Each face is protected once, and as many steps are made as with 500 faces.
        passes = state.info.get("epochs", 1) if state else 1
        steps = (spent - made) / passes / len(self.faces) * 500 * adaptation.epochs
        return made / len(self.faces) * enrolled + steps, state

    def _student(self, task: Task, attack: Any) -> Item:
        """What a linkage attack learns by a recipe: every epoch sees the public faces, and about 500 templates."""
        own = self._defense(task.defense)
        brief: LinkageAttack = _shortened(attack)

        def fit() -> State | None:
            try:
                return brief.fit(Oracle(attack.level, own.system, Rng(0), surrogate=own.state), self.faces, Rng(0))
            except (DataError, NotApplicable):  # the probe's few faces: too few people
                return None

        began = time.perf_counter()
        state = fit()
        spent = time.perf_counter() - began
        templates = 500 if attack.level >= Knowledge.ALGORITHM else 0
        each = spent / (len(self.faces) + templates)
        seconds = each * attack.recipe.epochs * (self.public["attacker"] + templates)
        return Item(task.label, seconds, _tensors(state))

    def _embedding(self) -> float:
        """Seconds an image, E and Psi."""
        if not self._embed:
            images = self.faces.batch(slice(0, _PROBE), self.device)

            def embed() -> None:
                with torch.no_grad():
                    self.network.embed(self.network.extract(images))

            self._embed = _timed(embed)[0] / _PROBE
        return self._embed

    def task(self, task: Task) -> Item:
        """An artefact's cost."""
        if task.kind in ("identity", "judge_identity"):
            return Item(task.label, self.test * self._embedding(), self.test * 2048)
        if task.kind in ("presentation", "login"):
            # About half are a genuine pair's left, and those are attacked first.
            own, shown = self._defense(task.defense), min(self.attacked, math.ceil(self.test / 2))
            if task.kind == "presentation":
                return Item(task.label, shown * own.protect, shown * own.bytes)
            protects = 0.0 if task.need("presentation") else own.protect
            return Item(task.label, shown * (protects + self._embedding()), self.test * 2048)
        if task.kind == "embeddings":
            return Item(task.label, 2 * self.test * self._embedding(), self.test * 4096)
        defense = task.defense
        if task.kind == "server_state":
            return self._serving(defense)
        linking = self.settings.attacks.get(task.attack)
        if task.kind == "attack_state" and isinstance(linking, LinkageAttack) and hasattr(linking, "recipe"):
            return self._student(task, linking)
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
        """A cell's cost, once its artefacts are there."""
        label = f"judging {job.cell.kind} cells"
        if job.cell.kind != "reconstruction":
            return Item(label, 0.5, 100 * self.test)
        if not self._judge:
            images = self.faces.batch(slice(0, _PROBE))
            self._judge = _timed(lambda: image_scores(images, images.flip(-1)))[0] / _PROBE
        # LPIPS costs about as much as the recogniser.
        return Item(label, self.attacked * (self._judge + 2 * self._embedding()), 150 * self.attacked)
