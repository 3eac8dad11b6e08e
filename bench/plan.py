"""Turns settings into a plan: the artefacts to make and the cells to judge, each with a key of all its inputs.

The module exceeds 300 lines so that everything that determines a key is in one place.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from bench.contracts import (
    Attack,
    CrossmatchAttack,
    Defense,
    InversionAttack,
    KeyedAttack,
    KeyedDefense,
    Knowledge,
    LinkageAttack,
    Recognizer,
    ReconstructionAttack,
    ReplayAttack,
    TraitAttack,
)
from bench.datasets.public_faces import REST, SIDES, PublicSources, Side
from bench.errors import DataError, UserError
from bench.labels import harness_part
from bench.metrics.catalogue import RATE_INTERVAL, SHARE_INTERVAL, of_kind
from bench.settings.controls import Canary, Control, HarnessDefense
from bench.settings.keyed_canaries import keyed_canary_faces
from bench.settings.model import Settings
from bench.settings.stack import Stack
from bench.storage.files import file_hash
from bench.storage.keys import content_key, source_hash
from bench.storage.records import Cell, Kind
from bench.toolkit.precision import pick_device, precision_name

PROTOCOL = 3  #: increment when the harness gives different figures for the same plugins and data

TaskKind = Literal[
    "identity", "judge_identity", "defense_state", "surrogate_state", "templates", "server_state", "embeddings",
    "attack_state", "reconstruction", "linkage", "traits", "clean_traits", "presentation", "login",
    "protected", "crossmatch", "inversion", "picture_decoder", "pictures", "attacker_identity", "defender_identity",
    "key_attack_state",
]  # fmt: skip


_LEARNING = frozenset(
    {"defense_state", "surrogate_state", "server_state", "attack_state", "picture_decoder", "key_attack_state"}
)
_EFFORT = 20  #: rough ratio of the duration of a training to that of another artefact


@dataclass(frozen=True)
class Scene:
    """One dataset with one recogniser."""

    dataset: str
    recognizer: str
    faces_key: str = field(repr=False)  #: the test images, aligned for this recogniser, and their pairs
    recognizer_key: str = field(repr=False)
    defender_key: str = field(repr=False)  #: the defender's public faces
    attacker_key: str = field(repr=False)
    judge_key: str = field(default="", repr=False)  #: of `run.judge`, and the test images as it wants them
    traits_key: str = field(default="", repr=False)  #: what is known of the judged and of the attacker's faces


class _Needing:
    """An item that needs artefacts."""

    needs: tuple[Task, ...]

    def need(self, kind: TaskKind) -> Task | None:
        """The direct dependency of a kind, if there is one."""
        return next((task for task in self.needs if task.kind == kind), None)


@dataclass(frozen=True)
class Task(_Needing):
    """An artefact to make. Cells that need the same artefact share it by its key."""

    kind: TaskKind
    key: str
    scene: Scene
    seed: int
    needs: tuple[Task, ...] = field(default=(), repr=False)
    defense: str = ""
    attack: str = ""
    bases: int = 0  #: number of `base` steps below the named attack

    @property
    def effort(self) -> int:
        """A rough share of a run's time, relative to a cell's 1, to estimate how much remains."""
        return _EFFORT if self.kind in _LEARNING else 1

    @property
    def label(self) -> str:
        """A description for messages."""
        shared = self.kind == "attack_state" and not self.need(
            "defense_state"
        )  # the named defence is then only one of several that share the artefact
        who = " x ".join(part for part in ("" if shared else self.defense, self.attack) if part)
        return f"{self.kind.replace('_', ' ')}{': ' + who if who else ''}"


@dataclass(frozen=True)
class Job(_Needing):
    """A cell to judge, and the artefacts that it needs."""

    cell: Cell
    key: str
    scene: Scene
    needs: tuple[Task, ...] = field(repr=False)
    origin: Mapping[str, str] = field(default_factory=dict, repr=False)  #: see `Record.origin`

    @property
    def label(self) -> str:
        """A description for messages."""
        return f"{self.cell.kind}: {self.cell.defense} {self.cell.attack}".rstrip()


@dataclass(frozen=True)
class Plan:
    """All cells of a run."""

    jobs: tuple[Job, ...]

    def tasks(self) -> list[Task]:
        """Every artefact once, in order of dependency."""
        return every_task(need for job in self.jobs for need in job.needs)


def every_task(roots: Iterable[Task], leave_out: Callable[[Task], bool] = lambda _: False) -> list[Task]:
    """The roots and all their dependencies, once each and in order; skips what lies below a task that is left out."""
    ordered: dict[str, Task] = {}

    def visit(task: Task) -> None:
        if task.key not in ordered and not leave_out(task):
            for need in task.needs:
                visit(need)
            ordered[task.key] = task

    for root in roots:
        visit(root)
    return list(ordered.values())


def plan(settings: Settings) -> Plan:
    """Plans the whole matrix.

    Raises:
        DataError: a dataset or weights are missing.
        UserError: the device is not available on this machine.
    """
    return Plan(
        tuple(
            job
            for scene in _scenes(settings)
            for seed in settings.run.seeds
            for job in _Planner(settings, scene, seed).jobs()
        )
    )


def public_sources(settings: Settings, dataset: str = "") -> PublicSources:
    """The settings that choose the public faces for a judged dataset, whose own label means its people in no pair."""
    run = settings.run
    defender, attacker = (REST if s == dataset else s for s in (run.public_defender, run.public_attacker))
    return PublicSources(defender, attacker, run.public_limit)


def left_out_people(settings: Settings, dataset: str) -> dict[Side, frozenset[str]]:
    """The people whose public faces each side does without, because another set names them too.

    Raises:
        DataError: a dataset is missing.
        UserError: nobody is left on a side.
    """
    sources = public_sources(settings, dataset)
    if sources.defender == sources.attacker == REST:
        return {side: frozenset() for side in SIDES}
    judged, rest = settings.datasets[dataset].known_people()
    return sources.left_out(judged, lambda label: rest if label == REST else settings.public[label].known_people()[1])


def _scenes(settings: Settings) -> Iterator[Scene]:
    revisions = {label: dataset.revision() for label, dataset in {**settings.datasets, **settings.public}.items()}
    traits = _traits(settings)
    left_out = {label: left_out_people(settings, label) for label in settings.datasets}
    judge = settings.judge
    judge_key, judge_weights = _judge(settings)
    for recognizer_label, recognizer in settings.recognizers.items():
        recognizer_key = _recognizer_key(recognizer)
        if judge_weights == recognizer.weights_hash():
            raise UserError(
                f"{settings.path}: run.judge = {settings.run.judge!r} has the weights of {recognizer_label!r}, which "
                "is attacked; name another network"
            )
        for label in settings.datasets:
            known = {**revisions, REST: revisions[label]}
            sources = public_sources(settings, label)
            public = {
                side: content_key(
                    **sources.identity(side, known.__getitem__, left_out[label][side]), alignment=recognizer.alignment
                )
                for side in SIDES
            }
            # All images of the selected pairs; only attacks use fewer.
            faces: dict[str, Any] = {"revision": revisions[label], "images": None}
            faces |= {"pairs": settings.run.pairs} if settings.run.pairs else {}
            seen = content_key(by=judge_key, alignment=judge.alignment, **faces) if judge else ""
            yield Scene(
                dataset=label,
                recognizer=recognizer_label,
                faces_key=content_key(alignment=recognizer.alignment, **faces),
                judge_key=seen,
                traits_key=traits[label],
                recognizer_key=recognizer_key,
                defender_key=public["defender"],
                attacker_key=public["attacker"],
            )


def _traits(settings: Settings) -> dict[str, str]:
    """By dataset, the key of its traits and of the attacker's; empty where no attack asks for them."""
    if not any(isinstance(attack, TraitAttack) for attack in settings.attacks.values()):
        return dict.fromkeys(settings.datasets, "")
    found = {label: dataset.traits_revision() for label, dataset in {**settings.datasets, **settings.public}.items()}
    sources = {label: public_sources(settings, label).source("attacker") for label in settings.datasets}
    return {
        label: content_key(judged=found[label], attacker=found[label if source == REST else source])
        for label, source in sources.items()
    }


def _judge(settings: Settings) -> tuple[str, str]:
    """The key of `run.judge`'s recogniser, and the hash of its weights; empty where there is no judge."""
    if settings.judge is None:
        return "", ""
    try:
        return _recognizer_key(settings.judge), settings.judge.weights_hash()
    except DataError as error:
        raise DataError(f'run.judge = {settings.run.judge!r}: {error}; run.judge = "" runs without a judge') from error


def _recognizer_key(recognizer: Recognizer) -> str:
    parameters = recognizer.identity()
    return content_key(source=source_hash(type(recognizer)), parameters=parameters, weights=recognizer.weights_hash())


def _identity(plugin: Defense | Attack) -> dict[str, Any]:
    sources = _sources(plugin)
    return {"source": sources[0] if len(sources) == 1 else sources, "parameters": asdict(plugin)}


def _sources(plugin: Defense | Attack) -> list[str]:
    """The hash of the plugin's source, and those of the plugins that it consists of."""
    parts = plugin.parts if isinstance(plugin, HarnessDefense | Stack) else ()
    return [source_hash(type(plugin)), *(source for part in parts for source in _sources(part))]


def _server(defense: Defense) -> dict[str, Any]:
    """What the server's part depends on: the content of its files, not their paths."""
    identity = _identity(defense)
    files = {name: file_hash(path) for name, path in defense.files().items()}
    return {**identity, "parameters": {**identity["parameters"], **files}}


def _metrics(settings: Settings) -> dict[str, Any]:
    """What a reconstruction's scores depend on: the set of metrics, and the content of the backbone, not its path."""
    chosen = {**settings.metrics.model_dump(), "figures": [m.name for m in of_kind("reconstruction")]}
    backbone = chosen.pop("lpips_backbone")
    if not chosen["lpips"]:
        return {name: chosen[name] for name in ("bootstrap", "figures")}
    if backbone:
        path = Path(backbone).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such LPIPS backbone; set metrics.lpips_backbone, or metrics.lpips = false")
        chosen["backbone"] = file_hash(path)
    return chosen


@dataclass(frozen=True)
class _Defended:
    """The artefacts of one defence in a scene."""

    name: str
    plugin: Defense
    protects: Mapping[str, Any]  #: what a template depends on
    serves: Mapping[str, Any]  #: what an embedding depends on
    state: Task
    templates: Task
    server: tuple[Task, ...]
    embeddings: Task


class _Planner:
    """Plans one scene with one seed."""

    def __init__(self, settings: Settings, scene: Scene, seed: int) -> None:
        device = pick_device(settings.run.device)
        self.settings, self.scene, self.seed = settings, scene, seed
        self.metrics = _metrics(settings)
        self.known = {label: _identity(attack) for label, attack in settings.attacks.items()}  # once, not once a cell
        self.known |= {f"defense {label}": _identity(defense) for label, defense in settings.defenses.items()}
        self.machine = {
            "protocol": PROTOCOL,
            "device": device.type,
            "precision": precision_name(device),
            "torch": torch.__version__,
            "recognizer": scene.recognizer_key,
            "seed": seed,
        }

    def _task(
        self, kind: TaskKind, *needs: Task, defense: str = "", attack: str = "", bases: int = 0, **parts: Any
    ) -> Task:
        key = content_key(kind=kind, needs=[need.key for need in needs], machine=self.machine, **parts)
        return Task(kind, key, self.scene, self.seed, needs, defense, attack, bases)

    def _job(self, kind: Kind, defense: str, attack: str, *needs: Task) -> Job:
        instance = self.settings.attacks.get(attack)
        cell = Cell(
            kind=kind,
            dataset=self.scene.dataset,
            recognizer=self.scene.recognizer,
            defense=defense,
            attack=attack,
            level=str(_level(self.settings, instance)) if instance else "",
            leaks=instance.leaks if instance else "",
            seed=self.seed,
        )
        key = content_key(
            cell=vars(cell),
            needs=[need.key for need in needs],
            metrics=self._measured(kind),
            machine=self.machine,
            attack=self.known[attack] if instance else {},
        )
        code = [self.known[name]["source"] for name in (f"defense {defense}", attack) if name in self.known]
        origin = {"data": self.scene.faces_key, "recognizer": self.scene.recognizer_key, "code": content_key(code=code)}
        return Job(cell, key, self.scene, needs, origin)

    def _measured(self, kind: Kind) -> dict[str, Any]:
        """What a cell's figures depend on besides its artefacts."""
        if kind == "reconstruction":
            return self.metrics
        resampled = ("traits", "crossmatch", "inversion", "picture")
        bootstrap = {"bootstrap": self.metrics["bootstrap"]} if kind in resampled else {}
        halves = {"halves": True} if kind == "crossmatch" else {}  # the best score is chosen on one of them
        return {"interval": (SHARE_INTERVAL, RATE_INTERVAL), **bootstrap, **halves}

    def jobs(self) -> Iterator[Job]:
        """Every cell of the scene."""
        identity = self._task("identity", faces=self.scene.faces_key)
        self.judge = (self._task("judge_identity", judge=self.scene.judge_key),) if self.scene.judge_key else ()
        for name, defense in self.settings.defenses.items():
            if isinstance(defense, KeyedDefense):
                yield from self._under_keys(name, defense, identity)
            else:
                yield from self._under(self._defended(name, defense), identity)

    def _defended(self, name: str, defense: Defense) -> _Defended:
        protects, serves = _identity(defense.at("protect")), _server(defense)
        faces, public = self.scene.faces_key, self.scene.defender_key
        source: tuple[Task, ...]
        if isinstance(defense, Control):
            # A control replaces the noise in its defence's templates: same shadow, same images, same batches.
            parent = self._defended(harness_part(name)[0], defense.defense)
            state, source = parent.state, (parent.templates, parent.state)
        else:
            state = self._task("defense_state", defense=name, public=public, plugin=_identity(defense.at("fit")))
            source = (state,)
        templates = self._task("templates", *source, defense=name, faces=faces, plugin=protects)
        # What the server trains for itself affects its embeddings and decisions, but no reconstruction.
        server: tuple[Task, ...] = ()
        if type(defense).fit_server is not Defense.fit_server:
            server = (self._task("server_state", state, defense=name, public=public, plugin=serves),)
        embeddings = self._task("embeddings", templates, state, *server, defense=name, plugin=serves)
        return _Defended(name, defense, protects, serves, state, templates, server, embeddings)

    def _under(self, own: _Defended, identity: Task) -> Iterator[Job]:
        """The cells of one defence."""
        probe = own.plugin if isinstance(own.plugin, HarnessDefense) else None
        if probe is None or probe.useful:
            yield self._job("utility", own.name, "", own.embeddings, own.templates, own.state, *own.server)
        reconstructions: dict[str, Task] = {}
        for label, attack in self.settings.attacks.items():
            if isinstance(attack, ReconstructionAttack) and (probe is None or probe.faces(attack)):
                fitted, made = self._attacked(own, label, attack)
                reconstructions[label] = made
                yield self._job("reconstruction", own.name, label, made, fitted, identity, own.state, *self.judge)
        for label, attack in self.settings.attacks.items():
            if isinstance(attack, LinkageAttack | TraitAttack):
                if probe is None or (isinstance(probe, Canary) and probe.faces(attack)):
                    yield self._without_picture(own, label, attack)
            elif isinstance(attack, ReplayAttack):
                if probe is None:
                    yield self._replayed(own, label, attack, reconstructions)
            elif not isinstance(attack, ReconstructionAttack | KeyedAttack):
                raise UserError(f"{self.settings.path}: attack {label!r} is of a kind that this version does not judge")

    def _under_keys(self, name: str, defense: KeyedDefense, identity: Task) -> Iterator[Job]:
        """The cells of a keyed defence.

        It has no feature maps, so attacks on these do not apply, and a run plans no cell for them; nor does it plan
        attacks on keyed templates for other defences.
        """
        plugin = _identity(defense)
        canary = harness_part(name)[1]
        # Artefacts without the replayed templates are of earlier versions.
        protected = self._task("protected", identity, defense=name, plugin=plugin, also="replay")
        if not canary:
            own = self._task("crossmatch", protected, defense=name, plugin=plugin)
            yield self._job("protection", name, "", protected, own)
            yield self._job("crossmatch", name, "", own, protected)
        for label, attack in self.settings.attacks.items():
            if canary and not (isinstance(attack, KeyedAttack) and keyed_canary_faces(canary, attack)):
                continue
            attacked: dict[str, Any] = {"plugin": plugin, "attacked_by": self.known[label]}
            learned: tuple[Task, ...] = ()
            if isinstance(attack, KeyedAttack) and attack.learns:
                own = self._task("attacker_identity", public=self.scene.attacker_key)
                learned = (self._task("key_attack_state", own, defense=name, attack=label, **attacked),)
            if isinstance(attack, CrossmatchAttack):
                scored = self._task("crossmatch", protected, *learned, defense=name, attack=label, **attacked)
                yield self._job("crossmatch", name, label, scored, protected)
            elif isinstance(attack, InversionAttack):
                # Artefacts without the score after renewal are of earlier versions.
                fewer: dict[str, Any] = {"images": self.settings.run.images, "shown": "renewed"}
                serving = self._public_identities() if attack.needs_service else ()
                needs = (protected, identity, *learned, *serving)
                inverted = self._task("inversion", *needs, defense=name, attack=label, **attacked, **fewer)
                yield self._job("inversion", name, label, inverted, protected, identity)
                if not canary and self.settings.pictures is not None:
                    yield self._pictured(name, label, plugin, identity, protected, inverted)

    def _pictured(
        self, name: str, label: str, plugin: Mapping[str, Any], identity: Task, protected: Task, inverted: Task
    ) -> Job:
        """Faces from recovered embeddings, and from true ones; one decoder serves all schemes and attacks."""
        assert self.settings.pictures is not None
        decodes: dict[str, Any] = {"decoded_by": _identity(self.settings.pictures)}
        fewer: dict[str, Any] = {"images": self.settings.run.images}
        fitted = self._task("picture_decoder", public=self.scene.attacker_key, **decodes)
        clean = self._task(
            "pictures", identity, fitted, faces=self.scene.faces_key, also="mean face", **decodes, **fewer
        )
        needs = (inverted, protected, identity, fitted)
        made = self._task("pictures", *needs, defense=name, attack=label, plugin=plugin, **decodes, **fewer)
        return self._job("picture", name, label, made, clean, protected, identity, *self.judge)

    def _public_identities(self) -> tuple[Task, Task]:
        """Embeddings of the attacker's own faces, and of the defender's, who are other customers of the service."""
        return (
            self._task("attacker_identity", public=self.scene.attacker_key),
            self._task("defender_identity", public=self.scene.defender_key),
        )

    def _attacked(self, own: _Defended, label: str, attack: ReconstructionAttack) -> tuple[Task, Task]:
        """The trained attack and its reconstructions."""
        bases = 0
        if attack.base is not None and attack.does_as_its_base(own.plugin):
            attack, bases = attack.base, 1
        asked: tuple[Task, ...] = ()
        recogniser: dict[str, Any] = {}
        if attack.depends_on_server:
            asked, recogniser = own.server, {"server": own.serves}
        fewer = {"images": limit} if (limit := images_of(self.settings, own.plugin)) else {}
        copy = self._surrogate(own) if attack.asks_surrogate else ()
        fitted = self._learned(own, label, attack, bases)
        leaked = own.embeddings if attack.leaks == "embedding" else own.templates
        needs = (leaked, fitted, own.state, *asked, *copy, *self._parts(own, attack))
        made: dict[str, Any] = {**recogniser, **fewer}
        return fitted, self._task("reconstruction", *needs, defense=own.name, attack=label, bases=bases, **made)

    def _parts(self, own: _Defended, attack: Attack) -> tuple[Task, ...]:
        """The reconstructions that an attack is given."""
        return tuple(self._attacked(own, part, self.settings.part(part))[1] for part in attack.parts)

    def _surrogate(self, own: _Defended) -> tuple[Task]:
        plugin = _identity(own.plugin.at("fit"))
        return (self._task("surrogate_state", defense=own.name, public=self.scene.attacker_key, plugin=plugin),)

    def _learned(
        self, own: _Defended, label: str, attack: ReconstructionAttack | LinkageAttack | TraitAttack, bases: int = 0
    ) -> Task:
        """An attack's trained state; if it has a base, training continues from the base's state."""
        identity = _identity(attack) if bases else self.known[label]
        fits: dict[str, Any] = {"plugin": identity, "public": self.scene.attacker_key}
        needs: tuple[Task, ...] = ()
        if not isinstance(attack, TraitAttack) and attack.base is not None:
            needs += (self._learned(own, label, attack.base, bases + 1),)
        # A decoder trained at level `encoder` does not depend on `protect`: it serves all defences that share E.
        client = attack.level >= Knowledge.ENCODER and own.plugin.has_own_client
        if attack.level >= Knowledge.ALGORITHM or client:
            fits["protects"] = own.protects
        if attack.level >= Knowledge.ENROLMENT or attack.level >= Knowledge.SERVER or client:
            needs += (own.state,)
        if attack.asks_stolen:
            needs += (own.embeddings if attack.leaks == "embedding" else own.templates,)
        if attack.asks_surrogate:
            needs += self._surrogate(own)
        if isinstance(attack, TraitAttack):
            fits["traits"] = self.scene.traits_key
        if attack.depends_on_server:
            needs += own.server
            fits["server"] = own.serves
        return self._task("attack_state", *needs, defense=own.name, attack=label, bases=bases, **fits)

    def _without_picture(self, own: _Defended, label: str, attack: LinkageAttack | TraitAttack) -> Job:
        if isinstance(attack, LinkageAttack):
            return self._linked(own, label, attack)
        return self._inferred(own, label, attack)

    def _linked(self, own: _Defended, label: str, attack: LinkageAttack) -> Job:
        fitted = self._learned(own, label, attack)
        needs = (own.templates, fitted, own.state, *own.server, own.embeddings, *self._parts(own, attack))
        scores = self._task("linkage", *needs, defense=own.name, attack=label, server=own.serves)
        return self._job("linkage", own.name, label, scores, fitted, own.embeddings, own.state)

    def _inferred(self, own: _Defended, label: str, attack: TraitAttack) -> Job:
        fitted = self._learned(own, label, attack)
        needs = (own.templates, fitted, own.state, *self._parts(own, attack))
        found = self._task("traits", *needs, defense=own.name, attack=label)
        scene = self.scene
        on: dict[str, Any] = {"faces": scene.faces_key, "public": scene.attacker_key, "traits": scene.traits_key}
        clean = self._task("clean_traits", attack=label, plugin=self.known[label], **on)
        return self._job("traits", own.name, label, found, clean, fitted, own.state)

    def _replayed(self, own: _Defended, label: str, attack: ReplayAttack, made: Mapping[str, Task]) -> Job:
        if attack.present == "template":
            return self._job("replay", own.name, label, own.embeddings, own.state)
        name, rebuilds, shown = own.name, attack.attack, made[attack.attack]
        if own.plugin.shares_templates:
            shown = self._task("presentation", shown, own.state, defense=name, attack=rebuilds, plugin=own.protects)
        needs = (shown, own.state, *own.server)
        login = self._task("login", *needs, defense=name, attack=rebuilds, plugin=own.serves)
        return self._job("replay", own.name, label, login, own.embeddings, own.state)


def images_of(settings: Settings, defense: Defense) -> int | None:
    """The number of images that attacks on a defence reconstruct at most; None: all."""
    limits = (settings.run.images, defense.most_images if isinstance(defense, HarnessDefense) else None)
    return min((limit for limit in limits if limit), default=None)


def _level(settings: Settings, attack: Attack) -> Knowledge:
    if isinstance(attack, ReplayAttack) and attack.present == "image":
        return settings.wrapped(attack).level
    return attack.level
