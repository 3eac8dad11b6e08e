"""Resolves validated settings into plugin instances, with sweeps, controls and canaries."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, get_args, get_type_hints

from bench import labels
from bench.contracts import Attack, InversionAttack, Knowledge, ReconstructionAttack, ReplayAttack
from bench.errors import UserError, near_miss
from bench.labels import PluginKind, kind_name
from bench.settings import controls, keyed_canaries, registry
from bench.settings.model import File, MetricSettings, Settings
from bench.settings.stack import stack
from bench.settings.toml import Overrides, default_path, named, overlay, read_file, with_profile
from bench.settings.values import expand
from bench.storage.keys import source_hash

_KINDS: dict[str, PluginKind] = {
    "datasets": "dataset",
    "recognizers": "recognizer",
    "defenses": "defense",
    "attacks": "attack",
}


def load(
    path: Path | None = None,
    profile: str | None = None,
    overrides: Overrides = (),
    given: Mapping[str, Mapping[str, Any]] | None = None,
) -> Settings:
    """Reads the file, overlays the profile, applies overrides, validates and resolves.

    Args:
        given: plugin instances by section (`defenses`, `attacks`) and label, in addition to the file's.

    Raises:
        UserError: one line with the file, the location and the nearest name.
    """
    path = path or default_path()
    file = read_file(path, profile, overrides)
    _check_labels(file, overrides, path, profile)
    return _resolve(file, path, given or {})


def _check_labels(file: File, overrides: Overrides, path: Path, profile: str | None) -> None:
    """Checks that labels which only the overrides name mean something: a misspelt one would have no effect.

    Raises:
        UserError: a label is not in the file, names no plugin, and the run does not use it.
    """
    told = [name[:2] for name in named(overrides) if len(name) > 2 and name[0] in _KINDS]
    before = with_profile(path, profile) if told else {}
    used = {"attacks": [file.run.pictures], "recognizers": [file.run.judge]}
    used["datasets"] = [file.run.public_defender, file.run.public_attacker]
    for section, label in told:
        known = [*before.get(section, {}), *getattr(file.run, section), *used.get(section, [])]
        known += registry.names(_KINDS[section])
        if label not in known and not {"plugin", "stack"} & set(getattr(file, section)[label]):
            raise UserError(f"{path}: nothing in this run is called {section}.{label}.{near_miss(label, known)}")


def _resolve(file: File, path: Path, given: Mapping[str, Mapping[str, Any]]) -> Settings:
    def plugins(section: str, wanted: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for label in wanted:
            found.update(_instances(file, section, label, path))
        for label, plugin in given.get(section, {}).items():
            _accept(section, label, plugin, found)
            found[label] = plugin
        return found

    attacks = plugins("attacks", file.run.attacks)
    defenses = plugins("defenses", file.run.defenses)
    if file.run.controls:
        for label, defense in list(defenses.items()):
            defenses.update(controls.controls(label, defense))
    if file.run.canaries:
        defenses.update(controls.canaries())
        where = f"{path}: run.canaries"
        defenses.update(
            keyed_canaries.keyed_canaries(list(attacks.values()), lambda name: registry.find("defense", name, where))
        )
    if file.run.replay:
        replay = registry.find("attack", "replay", f"{path}: run.replay")
        for label, attack in list(attacks.items()):
            if isinstance(attack, ReconstructionAttack) and attack.level > Knowledge.BLIND:
                attacks.setdefault(
                    labels.replay(label), registry.make(replay, {"attack": label}, f"{path}: run.replay")
                )
    for label, attack in list(attacks.items()):
        if isinstance(attack, ReplayAttack) and attack.attack not in attacks:
            where = f"{path}: [attacks.{label}] attack = {attack.attack!r}"
            raise UserError(f"{where} is not among run.attacks.{near_miss(attack.attack, attacks)}")
        if isinstance(attack, ReplayAttack) and not isinstance(attacks[attack.attack], ReconstructionAttack):
            raise UserError(f"{path}: [attacks.{label}] {attack.attack!r} reconstructs no images to replay")
    for label, attack in attacks.items():
        if attack.parts:
            _check_parts(label, attack, attacks, path)
    lenders = {file.run.public_defender, file.run.public_attacker} - {"rest"}
    metrics = file.metrics.model_dump()
    return Settings(
        run=file.run.model_copy(
            update={
                name: expand(getattr(file.run, name), f"{path}: run.{name}")
                for name in ("output", "store", "mirror", "cache")
            }
        ),
        metrics=MetricSettings(**expand(metrics, f"{path}: [metrics]")) if file.metrics.lpips else file.metrics,
        compare=file.compare,
        datasets=plugins("datasets", file.run.datasets),
        recognizers=plugins("recognizers", file.run.recognizers),
        defenses=defenses,
        attacks=attacks,
        public=plugins("datasets", sorted(lenders)),
        path=path,
        judge=_judge(file, path),
        pictures=_pictures(file, path),
    )


def _check_parts(label: str, attack: Attack, attacks: Mapping[str, Any], path: Path) -> None:
    """Checks the attacks whose reconstructions another one is given.

    Raises:
        UserError: one is not in the run, is itself made of others, knows more, or steals something else.
    """
    for name in attack.parts:
        where, part = f"{path}: [attacks.{label}] {name!r}", attacks.get(name)
        if part is None:
            raise UserError(f"{where} is not among run.attacks.{near_miss(name, attacks)}")
        if not isinstance(part, ReconstructionAttack) or part.parts:
            raise UserError(f"{where} reconstructs no images by itself; name a single reconstruction attack")
        if not part.level <= attack.level:
            raise UserError(
                f"{where} needs level '{part.level}', which its own '{attack.level}' does not include: "
                f"use {label}@{part.level}"
            )
        if part.leaks != attack.leaks:
            raise UserError(f"{where} steals the {part.leaks}, and {label!r} the {attack.leaks}")


def _judge(file: File, path: Path) -> Any:
    """The recogniser of `run.judge`, if one is named.

    Raises:
        UserError: no such recogniser, several at once, or one that is attacked in this run.
    """
    label = file.run.judge
    if not label:
        return None
    if label in file.run.recognizers:
        raise UserError(f"{path}: run.judge = {label!r} is attacked in this run; name another recogniser, or none")
    found = _instances(file, "recognizers", label, path)
    if len(found) > 1:
        raise UserError(f"{path}: run.judge = {label!r} is a sweep of {len(found)} recognisers; name one")
    return found[label]


def _pictures(file: File, path: Path) -> ReconstructionAttack | None:
    """The attack of `run.pictures`, if one is named.

    Raises:
        UserError: no such attack, several at once, or one that makes no image of an embedding by itself.
    """
    label = file.run.pictures
    if not label:
        return None
    found = _instances(file, "attacks", label, path)
    if len(found) > 1:
        raise UserError(f"{path}: run.pictures = {label!r} is a sweep of {len(found)} attacks; name one")
    attack = found[label]
    if not isinstance(attack, ReconstructionAttack) or attack.leaks != "embedding" or attack.parts:
        raise UserError(
            f"{path}: run.pictures = {label!r} makes no faces of embeddings by itself; name an attack that does, such "
            "as embedding_decoder"
        )
    return attack


def _accept(section: str, label: str, plugin: Any, taken: Mapping[str, Any]) -> None:
    """Checks an object that was passed in place of a label of the config.

    Raises:
        UserError: it is not a plugin, its label is taken, or its parameters cannot be part of a key.
    """
    where = f"{section}[{label!r}]"
    if not label.isidentifier():
        raise UserError(f"{where}: use a label of letters, digits and _, such as my_{_KINDS[section]}")
    if label in taken:
        raise UserError(f"{where}: the config already has a plugin with this label; choose another")
    registry.refuse_foreign(_KINDS[section], plugin, where)
    source_hash(type(plugin))


def _refuse_level(plugin: type[Any], level: str, where: str, label: str) -> None:
    """Checks that an attack has the level that `resrec@enrolment` asks for."""
    known = next((get_args(get_type_hints(plugin)[f.name]) for f in fields(plugin) if f.name == "knowledge"), ())
    if not known:
        raise UserError(f"{where}: {label!r}: this attack has only one level of knowledge; leave out '@{level}'")
    if level not in known:
        raise UserError(f"{where}: {label!r}: no level {level!r}.{near_miss(level, known)}")


def _instances(file: File, section: str, label: str, path: Path) -> dict[str, Any]:
    """The plugin of one label, or one for each point of its sweep."""
    kind = _KINDS[section]
    entries: Mapping[str, dict[str, Any]] = getattr(file, section)
    where = f"{path}: [{section}.{label}]" if label in entries else f"{path}: run.{section}"
    if labels.is_harness(label):
        raise UserError(f"{where}: {label!r}: labels with a ~ are reserved; use run.controls or run.canaries")
    plain, leaked = labels.with_key(label) if section == "attacks" else (label, False)
    own, level = labels.at_level(plain) if section == "attacks" else (label, "")
    parameters = dict(expand(overlay(entries.get(own, {}), entries.get(label, {})), where))
    if section == "defenses" and "stack" in parameters:
        return _stacks(file, label, parameters, where, path)
    name = parameters.pop("plugin", own)
    sweep = parameters.pop("sweep", {})
    if own not in entries and name not in registry.names(kind) and not registry.is_place(str(name)):
        known = {*registry.names(kind), *entries}
        raise UserError(f"{path}: unknown {kind_name(kind)} {own!r}.{near_miss(own, known)}")
    plugin = registry.find(kind, str(name), where)
    if level:
        _refuse_level(plugin, level, where, label)
        parameters["knowledge"] = level
    if leaked:
        if not issubclass(plugin, InversionAttack):
            raise UserError(f"{where}: {label!r}: this attack uses no key of its victims; leave out '+key'")
        parameters["key"] = "leaked"
    for trained in (f for f in fields(plugin) if f.name in ("training", "adaptation", "recipe")):
        shared = file.training if trained.name == "training" else {}
        parameters[trained.name] = {**vars(trained.default), **shared, **parameters.get(trained.name, {})}
    if not isinstance(sweep, Mapping) or not all(isinstance(values, list) and values for values in sweep.values()):
        raise UserError(f"{where}: a sweep is a list of values for a parameter: sweep.epsilon = [0.1, 0.2]")
    made: dict[str, Any] = {}
    for point in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, point, strict=True))
        made[labels.swept(label, chosen)] = registry.make(plugin, {**parameters, **chosen}, where)
    return made


def _stacks(file: File, label: str, parameters: Mapping[str, Any], where: str, path: Path) -> dict[str, Any]:
    """The stack of one label, or one for each combination of its parts' points.

    Raises:
        UserError: it has other parameters, fewer than two parts, an unknown one, or parts that do not fit.
    """
    names = parameters["stack"]
    others = sorted(set(parameters) - {"stack"})
    if others:
        raise UserError(f"{where}: a stack has no parameter {others[0]!r}; set it in the section of the part")
    if not isinstance(names, list) or len(names) < 2 or not all(isinstance(name, str) for name in names):
        raise UserError(f'{where}: a stack is a list of two defences or more: stack = ["laplace", "advface"]')
    if any("stack" in file.defenses.get(name, {}) for name in names):
        raise UserError(f"{where}: a part is itself a stack; list its parts")
    made: dict[str, Any] = {}
    for chosen in itertools.product(*(_instances(file, "defenses", name, path).items() for name in names)):
        parts = [part for _, part in chosen]
        made[labels.stacked(label, [own for own, _ in chosen])] = stack(names, parts, where)
    return made
