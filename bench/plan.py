"""Settings to a plan: the artefacts to make and the cells to judge, each with the key of what makes it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from bench.config import Settings
from bench.contracts import Attack, DataError, Defense, Knowledge, ReconstructionAttack, ReplayAttack, UserError
from bench.precision import pick_device, precision_name
from bench.records import Cell
from bench.registry import source_hash
from bench.store import content_key, file_hash

PROTOCOL = 1  #: raised whenever the harness would give another figure for the same plugins and data

TaskKind = Literal[
    "identity", "defense_state", "templates", "server_state", "embeddings", "attack_state", "reconstruction",
    "presentation",
]  # fmt: skip


@dataclass(frozen=True)
class Scene:
    """One dataset seen by one recogniser."""

    dataset: str
    recognizer: str
    faces_key: str = field(repr=False)  #: the test images as this recogniser wants them, and their pairs
    recognizer_key: str = field(repr=False)
    defender_key: str = field(repr=False)  #: the defender's public faces
    attacker_key: str = field(repr=False)


class _Needing:
    """What stands on artefacts."""

    needs: tuple[Task, ...]

    def need(self, kind: TaskKind) -> Task | None:
        """The direct need of a kind, if any."""
        return next((task for task in self.needs if task.kind == kind), None)


@dataclass(frozen=True)
class Task(_Needing):
    """An artefact to make. Two cells that want the same share it by its key."""

    kind: TaskKind
    key: str
    scene: Scene
    seed: int
    needs: tuple[Task, ...] = field(default=(), repr=False)
    defense: str = ""
    attack: str = ""

    @property
    def label(self) -> str:
        """For people."""
        shared = self.kind == "attack_state" and not self.needs  # the defence is then only one of those it serves
        who = " x ".join(part for part in ("" if shared else self.defense, self.attack) if part)
        return f"{self.kind.replace('_', ' ')}{': ' + who if who else ''}"


@dataclass(frozen=True)
class Job(_Needing):
    """A cell to judge, from these artefacts."""

    cell: Cell
    key: str
    scene: Scene
    needs: tuple[Task, ...] = field(repr=False)


@dataclass(frozen=True)
class Plan:
    """What a run comes to."""

    jobs: tuple[Job, ...]

    def tasks(self) -> list[Task]:
        """Every artefact once, needs before what needs them."""
        return every_task(need for job in self.jobs for need in job.needs)


def every_task(roots: Iterable[Task], leave_out: Callable[[Task], bool] = lambda _: False) -> list[Task]:
    """The roots and all that they need, once each, needs first; nothing under a task that is left out."""
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
    """The whole matrix.

    Raises:
        DataError: a dataset or the weights are not there.
        UserError: the device is not on this machine.
    """
    return Plan(
        tuple(job for scene in _scenes(settings) for seed in settings.run.seeds for job in _jobs(settings, scene, seed))
    )


def _scenes(settings: Settings) -> Iterator[Scene]:
    revisions = {label: dataset.revision() for label, dataset in {**settings.datasets, **settings.public}.items()}
    for recognizer_label, recognizer in settings.recognizers.items():
        parameters = {k: v for k, v in asdict(recognizer).items() if k != "weights"}
        recognizer_key = content_key(
            source=source_hash(type(recognizer)), parameters=parameters, weights=recognizer.weights_hash()
        )
        for label in settings.datasets:

            def public_key(lender: str, side: str, own: str = label) -> str:
                return content_key(
                    revision=revisions[own if lender == "rest" else lender],
                    side=side if settings.run.public_defender == settings.run.public_attacker else "all",
                    limit=settings.run.public_limit,
                    alignment=recognizer.alignment,  # noqa: B023 - called within this turn of the loop
                )

            yield Scene(
                dataset=label,
                recognizer=recognizer_label,
                faces_key=content_key(
                    revision=revisions[label], alignment=recognizer.alignment, images=settings.run.images
                ),
                recognizer_key=recognizer_key,
                defender_key=public_key(settings.run.public_defender, "defender"),
                attacker_key=public_key(settings.run.public_attacker, "attacker"),
            )


def _identity(plugin: Defense | Attack) -> dict[str, Any]:
    return {"source": source_hash(type(plugin)), "parameters": asdict(plugin)}


def _server(defense: Defense) -> dict[str, Any]:
    """What the server's part depends on: a file's bytes, not its place."""
    identity = _identity(defense)
    files = {name: file_hash(path) for name, path in defense.files().items()}
    return {**identity, "parameters": {**identity["parameters"], **files}}


def _own_encode(defense: Defense) -> bool:
    """Whether the client does something of the defence's own."""
    return type(defense).encode is not Defense.encode or type(defense).layout is not Defense.layout


def asks_server(attack: Attack) -> bool:
    """Whether what an attack makes depends on how the server recognises, and not on its templates alone."""
    return attack.level >= Knowledge.ENROLMENT and (attack.asks_server or attack.leaks == "embedding")


def _metrics(settings: Settings) -> dict[str, Any]:
    """What the scores of a reconstruction depend on: the backbone's bytes, not its place."""
    chosen = settings.metrics.model_dump()
    backbone = chosen.pop("lpips_backbone")
    if not chosen["lpips"]:
        return {"bootstrap": chosen["bootstrap"]}
    if backbone:
        path = Path(backbone).expanduser()
        if not path.is_file():
            raise DataError(f"{path}: no such LPIPS backbone; set metrics.lpips_backbone, or metrics.lpips = false")
        chosen["backbone"] = file_hash(path)
    return chosen


def _jobs(settings: Settings, scene: Scene, seed: int) -> Iterator[Job]:
    device = pick_device(settings.run.device)
    machine = {
        "protocol": PROTOCOL,
        "device": device.type,
        "precision": precision_name(device),
        "torch": torch.__version__,
        "recognizer": scene.recognizer_key,
        "seed": seed,
    }

    def task(kind: TaskKind, *needs: Task, defense: str = "", attack: str = "", **parts: Any) -> Task:
        key = content_key(kind=kind, needs=[need.key for need in needs], machine=machine, **parts)
        return Task(kind, key, scene, seed, needs, defense, attack)

    def job(kind: Any, defense: str, attack: str, *needs: Task) -> Job:
        instance = settings.attacks.get(attack)
        cell = Cell(
            kind=kind,
            dataset=scene.dataset,
            recognizer=scene.recognizer,
            defense=defense,
            attack=attack,
            level=str(_level(settings, instance)) if instance else "",
            leaks=instance.leaks if instance else "",
            seed=seed,
        )
        key = content_key(
            cell=cell,
            needs=[need.key for need in needs],
            metrics=metrics if kind == "reconstruction" else {"bootstrap": settings.metrics.bootstrap},
            machine=machine,
            attack=_identity(instance) if instance else {},
        )
        return Job(cell, key, scene, needs)

    metrics = _metrics(settings)
    identity = task("identity", faces=scene.faces_key)
    for name, defense in settings.defenses.items():
        protects, serves = _identity(defense.at("protect")), _server(defense)
        state = task("defense_state", defense=name, public=scene.defender_key, plugin=_identity(defense.at("fit")))
        templates = task("templates", state, defense=name, faces=scene.faces_key, plugin=protects)
        # What the server trains for itself is seen in its embeddings and decisions, never in what is rebuilt.
        server: tuple[Task, ...] = ()
        if type(defense).fit_server is not Defense.fit_server:
            server = (task("server_state", state, defense=name, public=scene.defender_key, plugin=serves),)
        embeddings = task("embeddings", templates, state, *server, defense=name, plugin=serves)
        yield job("utility", name, "", embeddings, templates, state, *server)
        reconstructions: dict[str, Task] = {}
        for label, attack in settings.attacks.items():
            if not isinstance(attack, ReconstructionAttack):
                continue
            fits: dict[str, Any] = {"plugin": _identity(attack), "public": scene.attacker_key}
            needs: tuple[Task, ...] = ()
            # A decoder trained at level `encoder` knows nothing of `protect`: one serves all defences that share E.
            own_encode = attack.level >= Knowledge.ENCODER and _own_encode(defense)
            if attack.level >= Knowledge.ALGORITHM or own_encode:
                fits["protects"] = protects
            if attack.level >= Knowledge.ENROLMENT or own_encode:
                needs = (state,)
            asked: tuple[Task, ...] = ()
            recogniser: dict[str, Any] = {}
            if asks_server(attack):
                asked, recogniser = server, {"server": serves}
            needs += asked
            fitted = task("attack_state", *needs, defense=name, attack=label, **fits, **recogniser)
            leaked = embeddings if attack.leaks == "embedding" else templates
            made = task("reconstruction", leaked, fitted, state, *asked, defense=name, attack=label, **recogniser)
            reconstructions[label] = made
            yield job("reconstruction", name, label, made, fitted, identity, state)
        for label, attack in settings.attacks.items():
            if isinstance(attack, ReplayAttack):
                if attack.present == "template":
                    yield job("replay", name, label, embeddings, state)
                    continue
                # Its noise is seeded by these names, so they are part of what made it.
                names = {"defense": name, "attack": attack.attack}
                rebuilt = reconstructions[attack.attack]
                shown = task("presentation", rebuilt, state, *server, **names, labels=names, plugin=serves)
                yield job("replay", name, label, shown, embeddings, state)
            elif not isinstance(attack, ReconstructionAttack):
                raise UserError(f"{settings.path}: attack {label!r} is of a kind that this version does not judge")


def _level(settings: Settings, attack: Attack) -> Knowledge:
    if isinstance(attack, ReplayAttack) and attack.present == "image":
        return settings.wrapped(attack).level
    return attack.level
