"""Builds a trial's settings, one plugin with the standard set of a profile, and the lines that make it permanent."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from bench.contracts import (
    Attack,
    Dataset,
    Defense,
    InversionAttack,
    KeyedAttack,
    KeyedDefense,
    LinkageAttack,
    ReconstructionAttack,
    TraitAttack,
)
from bench.errors import UserError
from bench.labels import Knowledge, PluginKind, at_level, leaked_key, with_key
from bench.settings import registry
from bench.settings.describe import levels
from bench.settings.model import File
from bench.settings.toml import read_file
from bench.storage.files import replacing

_SECTIONS: dict[PluginKind, str] = {
    "defense": "defenses", "attack": "attacks", "dataset": "datasets", "recognizer": "recognizers"
}  # fmt: skip
_BLIND = str(Knowledge.BLIND)
_STEPS = ("fit", "encode", "protect", "embed", "fit_server", "protect_batch", "layout", "client_side", "randomized")
_KEYED_STEPS = ("draw_key", "transform", "score", "margins")
_LEARNS = ("fit", "adapt", "base", "asks_surrogate", "copies", "score")


@dataclass(frozen=True)
class Trial:
    """The settings of a trial, and the lines to add to `bench.toml`."""

    kind: PluginKind
    label: str  #: label of the plugin on trial
    beside: tuple[str, ...]  #: labels of the plugins that it is compared with
    profile: str | None
    run: Mapping[str, Any]  #: the trial's values of [run]
    section: Mapping[str, Any]  #: the plugin's own section; empty if the settings already have it

    @property
    def overrides(self) -> list[str]:
        """In the form of `--set`."""
        own = {f"{_SECTIONS[self.kind]}.{self.label}.{name}": value for name, value in self.section.items()}
        run = {f"run.{name}": value for name, value in self.run.items()}
        return [f"{name}={as_toml(value)}" for name, value in {**own, **run}.items()]

    def lines(self) -> str:
        """The lines that make the trial a profile of `bench.toml`."""
        extends = [f"extends = {as_toml(self.profile)}"] if self.profile else []
        parts = [[f"[profile.{self.label}]", *extends], [f"[profile.{self.label}.run]", *_pairs(self.run)]]
        if self.section:
            parts.insert(0, [f"[{_SECTIONS[self.kind]}.{self.label}]", *_pairs(self.section)])
        return "\n\n".join("\n".join(part) for part in parts if len(part) > 1) + "\n"


def trial(
    place: str,
    path: Path,
    profile: str | None,
    overrides: Sequence[str] = (),
    parameters: Mapping[str, Any] | None = None,
    kind: PluginKind | None = None,
) -> Trial:
    """Combines a plugin with the standard set of a profile and its most similar plugin.

    A defence faces the profile's attacks, at every level of knowledge that one of them has, next to a system without a
    defence and the most similar defence. A keyed one faces the profile's attacks on keyed templates, or all there are,
    next to the most similar keyed defence. An attack faces the profile's defences and the canaries, next to the blind
    guesses and the most similar attack. A dataset or recogniser is added to the profile's own, with the undefended
    system, one defence and one attack.

    Args:
        place: a name, a file, or `package.module:Class`.
        parameters: the plugin's parameters.
        kind: needed if a name could be of several kinds.

    Raises:
        UserError: there is no such plugin, or the settings cannot be read.
    """
    file = read_file(path, profile, overrides)
    parameters = parameters or {}
    kind = registry.find_kind(place, kind, "try")
    entries: Mapping[str, dict[str, Any]] = getattr(file, _SECTIONS[kind])
    named = {label for label, entry in entries.items() if entry.get("plugin") == place and "sweep" not in entry}
    foreign = registry.is_place(place)  # a built-in plugin's variants are other settings of it
    label = min(named if foreign else (), default="") or _label(place, {*registry.names(kind), *entries, profile})
    section = {**({"plugin": place} if foreign and not named else {}), **parameters}
    plugin = registry.find(kind, place, "try")
    if issubclass(plugin, KeyedAttack):
        raise UserError(
            f"try {place}: it attacks templates under keys, and a trial has no such defences; "
            "veilbench run --profile templates --set 'run.attacks=[...]' evaluates it on several"
        )
    chosen = _Standard(file, path)
    if issubclass(plugin, KeyedDefense):
        beside, run = chosen.for_keyed(label, plugin)
    elif kind == "defense":
        beside, run = chosen.for_defense(label, plugin)
    elif kind == "attack":
        beside, run = chosen.for_attack(label, plugin)
    else:
        beside, run = chosen.for_scene(kind, label, registry.make(plugin, parameters, f"try {place}"))
    return Trial(kind, label, beside, profile, {"output": f"results/{label}", **run}, section)


def _label(place: str, taken: Collection[str | None]) -> str:
    """The plugin's label in the settings: its file's or class's name, if that is free."""
    if not registry.is_place(place):
        return place
    own = place.partition(":")[2] or Path(place).stem
    label = re.sub(r"\W+", "_", re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", own)).strip("_").lower() or "mine"
    return f"my_{label}" if label in taken else label


class _Standard:
    """The profile's settings, and the plugins available for comparison."""

    def __init__(self, file: File, path: Path) -> None:
        self.file, self.path = file, path

    def plugin(self, kind: PluginKind, label: str) -> type[Any]:
        """The class behind a label of [run]."""
        own = with_key(at_level(label)[0])[0]
        entries: Mapping[str, dict[str, Any]] = getattr(self.file, _SECTIONS[kind])
        name = str(entries.get(label, {}).get("plugin") or entries.get(own, {}).get("plugin") or own)
        return registry.find(kind, name, f"{self.path}: run.{_SECTIONS[kind]}")

    def for_defense(self, label: str, plugin: type[Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        bare = self._undefended()
        near = self._nearest("defense", plugin, {label, bare}, lambda one: not _stores_features(one))
        beside = tuple(dict.fromkeys(name for name in (bare, *near) if name != label))
        return beside, {"defenses": [*beside, label], "attacks": self._at_every_level()}

    def for_keyed(self, label: str, plugin: type[Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        swept = {name for name, entry in self.file.defenses.items() if "sweep" in entry}
        near = self._nearest("defense", plugin, {label, *swept}, lambda one: issubclass(one, KeyedDefense))
        attacks = [n for n in self.file.run.attacks if issubclass(self.plugin("attack", n), KeyedAttack)]
        return near, {"defenses": [*near, label], "attacks": attacks or self._every_keyed_attack()}

    def for_attack(self, label: str, plugin: type[Any]) -> tuple[tuple[str, ...], dict[str, Any]]:
        kinds = (ReconstructionAttack, TraitAttack, LinkageAttack)
        kind = next((one for one in kinds if issubclass(plugin, one)), LinkageAttack)

        def rivals(one: type[Any]) -> bool:
            if not issubclass(one, kind) or one.yardstick or levels(one)[:1] in ((), (_BLIND,)):
                return False
            # An attack that combines others needs all of them in the run.
            return one.parts is Attack.parts

        near = self._nearest("attack", plugin, {label}, rivals)
        parts = self._parts(label, plugin)
        higher = [] if parts else [f"{label}@{level}" for level in levels(plugin)[1:]]
        attacks = [*self._blind(), *near, *parts, label, *higher]
        bare = self._undefended()
        others = [name for name in self.file.run.defenses if name != bare]
        return near, {"defenses": [bare, *others], "attacks": list(dict.fromkeys(attacks)), "canaries": True}

    def for_scene(self, kind: PluginKind, label: str, plugin: Any) -> tuple[tuple[str, ...], dict[str, Any]]:
        bare = self._undefended()
        noisy = [n for n in self.file.run.defenses if self.plugin("defense", n).randomized]
        attack = next((n for n in self.file.run.attacks if self._decodes(n)), None)
        run: dict[str, Any] = {
            "defenses": [bare, *noisy[:1]],
            "attacks": [*self._blind(), *([attack] if attack else [])],
        }
        own: list[str] = list(getattr(self.file.run, _SECTIONS[kind]))
        run[_SECTIONS[kind]] = list(dict.fromkeys([own[0], label]))
        if isinstance(plugin, Dataset):
            judged, public = plugin.size()
            if not judged:  # it only supplies faces and is not judged
                run |= {"datasets": own[:1], "public_defender": label, "public_attacker": label}
            elif not public:
                run |= {"public_defender": own[0], "public_attacker": own[0], "datasets": [label]}
        return (own[0],), run

    # ------------------------------------------------------------------------------------------------------- parts

    def _undefended(self) -> str:
        """The label of the system that stores features unchanged."""
        names = [*self.file.run.defenses, *registry.names("defense")]
        return next(name for name in names if _stores_features(self.plugin("defense", name)))

    def _blind(self) -> list[str]:
        some = [name for name in self.file.run.attacks if levels(self.plugin("attack", name))[:1] == (_BLIND,)]
        return some or [n for n in registry.names("attack") if levels(registry.find("attack", n, "try")) == (_BLIND,)]

    def _every_keyed_attack(self) -> list[str]:
        """All attacks on keyed templates; an inversion also with the victims' keys."""
        known = {name: registry.find("attack", name, "try") for name in registry.names("attack")}
        some = [name for name, one in known.items() if issubclass(one, KeyedAttack)]
        inversions = [name for name in some if issubclass(known[name], InversionAttack)]
        return [*some, *map(leaked_key, inversions)]

    def _parts(self, label: str, plugin: type[Any]) -> tuple[str, ...]:
        """The attacks whose reconstructions this one is given; the run needs them."""
        if plugin.parts is Attack.parts:
            return ()
        entry = {name: value for name, value in self.file.attacks.get(label, {}).items() if name != "plugin"}
        parts: tuple[str, ...] = registry.make(plugin, entry, f"{self.path}: [attacks.{label}]").parts
        return parts

    def _decodes(self, label: str) -> bool:
        return levels(self.plugin("attack", label))[:1] == (str(Knowledge.ENCODER),)

    def _at_every_level(self) -> list[str]:
        """The profile's attacks; the first one with several levels is added at the levels that are missing."""
        attacks = list(self.file.run.attacks)
        tried = {at_level(name)[1] or next(iter(levels(self.plugin("attack", name))), "") for name in attacks}
        for name in self.file.run.attacks:
            plugin = self.plugin("attack", name)
            if not at_level(name)[1] and issubclass(plugin, ReconstructionAttack) and len(levels(plugin)) > 1:
                return [*attacks, *(f"{name}@{level}" for level in levels(plugin) if level not in tried)]
        return attacks

    def _nearest(
        self, kind: PluginKind, plugin: type[Any], but: set[str], fits: Callable[[type[Any]], bool]
    ) -> tuple[str, ...]:
        """The label of the most similar plugin, with preference for the profile's; none if nothing fits."""
        entries: Mapping[str, dict[str, Any]] = getattr(self.file, _SECTIONS[kind])
        single = [label for label, entry in entries.items() if not {"sweep", "stack"} & set(entry)]
        names = dict.fromkeys([*getattr(self.file.run, _SECTIONS[kind]), *single, *registry.names(kind)])
        found = [(at_level(name)[0], self.plugin(kind, name)) for name in names]
        some = [(name, one) for name, one in found if name not in but and one is not plugin and fits(one)]
        own = {at_level(name)[0] for name in getattr(self.file.run, _SECTIONS[kind])}
        distance = {}
        for name, one in reversed(some):
            apart, steps = _distance(kind, plugin, one)
            distance[name] = apart, steps + (name not in own)
        closest = min(distance.values(), default=None)
        return next(((name,) for name, _ in some if distance[name] == closest), ())


def _stores_features(plugin: type[Any]) -> bool:
    return plugin.protect is Defense.protect and plugin.encode is Defense.encode and plugin.layout is Defense.layout


def _distance(kind: PluginKind, one: type[Any], other: type[Any]) -> tuple[int, int]:
    """The difference between two classes: an attack's level counts first, then the steps that a class overrides."""
    if issubclass(one, KeyedDefense):
        return 0, len(_own_steps(one, KeyedDefense, _KEYED_STEPS) ^ _own_steps(other, KeyedDefense, _KEYED_STEPS))
    if kind == "defense":
        return 0, len(_own_steps(one, Defense, _STEPS) ^ _own_steps(other, Defense, _STEPS))
    apart = (levels(one)[:1] != levels(other)[:1]) + (one.leaks != other.leaks)
    steps = _own_steps(one, ReconstructionAttack, _LEARNS) ^ _own_steps(other, ReconstructionAttack, _LEARNS)
    return apart, len(steps) + ((len(levels(one)) > 1) != (len(levels(other)) > 1))


def _own_steps(plugin: type[Any], base: type[Any], steps: Sequence[str]) -> frozenset[str]:
    return frozenset(step for step in steps if getattr(plugin, step, None) != getattr(base, step, None))


# ----------------------------------------------------------------------------------------------------- bench.toml


def as_toml(value: Any) -> str:
    """Formats a value as TOML.

    Raises:
        UserError: TOML cannot represent the value.
    """
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(k)} = {as_toml(v)}" for k, v in value.items()) + " }"
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(as_toml, value))}]"
    if value is None or not isinstance(value, str | int | float | bool):
        raise UserError(f"{value!r} cannot be written to bench.toml")
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def _pairs(values: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {as_toml(value)}" for name, value in values.items()]


def save(trial: Trial, path: Path, target: Path) -> None:
    """Appends the trial's lines to `target`; if it does not exist, to a copy of `path`, whose settings the trial used.

    Raises:
        UserError: the section already exists, or the file would become invalid. The file is then unchanged.
    """
    text = (target if target.exists() else path).read_text(encoding="utf-8")
    for heading in re.findall(r"^\[.*\]$", trial.lines(), re.MULTILINE):
        if re.search(rf"^{re.escape(heading)}\s*$", text, re.MULTILINE):
            raise UserError(f"{target}: already has a section {heading}; change it there")
    with replacing(target) as temporary:
        temporary.write_text(f"{text.rstrip()}\n\n{trial.lines()}", encoding="utf-8")
        read_file(temporary, trial.label, ())
