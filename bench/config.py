"""`bench.toml` to frozen settings. An unknown key or name is an error that names the near miss."""

from __future__ import annotations

import itertools
import os
import re
import sys
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Annotated, Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from bench import probes, registry
from bench.contracts import (
    Attack,
    DataError,
    Dataset,
    Defense,
    Knowledge,
    Recognizer,
    ReconstructionAttack,
    ReplayAttack,
    UserError,
)

_SECTIONS = ("datasets", "recognizers", "defenses", "attacks")
_KINDS: dict[str, registry.Kind] = {
    "datasets": "dataset",
    "recognizers": "recognizer",
    "defenses": "defense",
    "attacks": "attack",
}


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunSettings(_Strict):
    """`[run]`: what is crossed with what, and where things go."""

    datasets: list[str] = Field(min_length=1)
    recognizers: list[str] = Field(min_length=1)
    defenses: list[str] = Field(min_length=1)
    attacks: list[str]
    canaries: bool = False  #: also tries every attack on systems that are known to be broken, and known to be safe
    controls: bool = False  #: beside every defence that adds noise, other noise as strong
    replay: bool = False  #: also replays what every attack above `blind` rebuilds, as `replay_NAME`
    seeds: list[int] = Field(default=[0], min_length=1)
    public_defender: str = "rest"  #: a dataset's name, or `rest`: half of the people in no pair
    public_attacker: str = "rest"
    public_limit: int | None = Field(default=None, ge=2)  #: at most so many public faces a side
    images: int | None = Field(default=None, ge=0)  #: judge so many images at most, of balanced pairs; 0: all
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)  #: processor threads of a task; None: all, or a worker's share
    time_limit: float | None = Field(default=None, gt=0)  #: seconds after which a worker's task is stopped
    output: str = "results/latest"
    store: str = "results/.store"
    mirror: str = ""  #: an fsspec URL that artefacts are copied to and from: s3://BUCKET/FOLDER
    cache: str = "results/.cache"
    samples: int = Field(default=8, ge=0)  #: reconstructions kept for the grids

    @field_validator("images")
    @classmethod
    def _all(cls, images: int | None) -> int | None:
        return images or None


class MetricSettings(_Strict):
    """`[metrics]`."""

    lpips: bool = True
    lpips_backbone: str = ""  #: a local file of AlexNet's features; empty: torchvision's own download, if allowed
    lpips_download: bool = False
    bootstrap: int = Field(default=1000, ge=100)  #: resamples behind every interval


class CompareSettings(_Strict):
    """`[compare]`: differences that are no change, by metric, beside what the intervals allow."""

    acc: float = Field(default=0.01, ge=0)
    eer: float = Field(default=0.01, ge=0)
    tar_at_far: float = Field(default=0.05, ge=0)
    ssim: float = Field(default=0.02, ge=0)
    psnr_db: float = Field(default=0.5, ge=0)
    cosine: float = Field(default=0.03, ge=0)
    mse: float = Field(default=0.003, ge=0)
    lpips: float = Field(default=0.02, ge=0)
    srra: float = Field(default=0.05, ge=0)
    rank1: float = Field(default=0.05, ge=0)

    def of(self, metric: str) -> float:
        """The tolerance of a metric."""
        found: float = getattr(self, metric)
        return found


def _one_of(*names: str) -> Any:
    return Field(pattern="^(" + "|".join(map(re.escape, names)) + ")$")


class PaperSettings(_Strict):
    """`[paper]`: which label plays which part in the AdvFace paper's tables and figures."""

    recognizer: str = ""
    #: Columns; one that is left out is missing data.
    datasets: dict[Annotated[str, _one_of("lfw", "cfp_fp", "agedb")], str] = {}
    methods: dict[
        Annotated[str, _one_of("Unprotected", "Random", "DP", "DuetFace", "AdvFace", "AdvFace (offline)")], str
    ] = {}
    shadows: dict[Annotated[str, _one_of("transpose", "resnet", "unet")], str] = {}
    attacks: dict[Annotated[str, _one_of("TransRec", "ResRec", "URec")], str] = {}
    bounds: str = ""  #: a defence that sweeps epsilon


class _File(_Strict):
    run: RunSettings
    paper: PaperSettings = PaperSettings()
    metrics: MetricSettings = MetricSettings()
    compare: CompareSettings = CompareSettings()
    training: dict[str, Any] = {}
    datasets: dict[str, dict[str, Any]] = {}
    recognizers: dict[str, dict[str, Any]] = {}
    defenses: dict[str, dict[str, Any]] = {}
    attacks: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Settings:
    """Everything a run needs, resolved: labels to plugin instances."""

    run: RunSettings
    metrics: MetricSettings
    compare: CompareSettings
    datasets: Mapping[str, Dataset]
    recognizers: Mapping[str, Recognizer]
    defenses: Mapping[str, Defense]
    attacks: Mapping[str, Attack]
    public: Mapping[str, Dataset]  #: datasets that only lend public faces
    path: Path
    paper: PaperSettings = PaperSettings()

    def wrapped(self, attack: ReplayAttack) -> ReconstructionAttack:
        """The reconstruction attack that a replay presents."""
        return self.attacks[attack.attack]  # type: ignore[return-value]

    def moved(self, output: Path) -> Settings:
        """The same, with records and reports going elsewhere."""
        return replace(self, run=self.run.model_copy(update={"output": str(output)}))

    def as_dict(self) -> dict[str, Any]:
        """The settings as resolved, JSON-able."""
        sections = {name: getattr(self, name) for name in _SECTIONS}
        return {
            "run": self.run.model_dump(),
            "metrics": self.metrics.model_dump(),
            "compare": self.compare.model_dump(),
            **{n: {label: asdict(plugin) for label, plugin in s.items()} for n, s in sections.items()},
        }


def default_path() -> Path:
    """`./bench.toml`, or the one that came with the package."""
    here = Path("bench.toml")
    if here.is_file():
        return here
    beside = Path(__file__).resolve().parent.parent / "bench.toml"
    return beside if beside.is_file() else Path(sys.prefix) / "share" / "veilbench" / "bench.toml"


def load(path: Path | None = None, profile: str | None = None, overrides: Sequence[str] = ()) -> Settings:
    """Reads, overlays the profile, applies `key.path=value` overrides, validates and resolves.

    Raises:
        UserError: one line that names the file, the place and the near miss.
    """
    path = path or default_path()
    return _resolve(_read(path, profile, overrides), path)


def tolerances(path: Path | None = None, profile: str | None = None, overrides: Sequence[str] = ()) -> CompareSettings:
    """`[compare]` alone: two finished runs are compared where neither their data nor their weights need be.

    Raises:
        UserError: as `load`.
    """
    return _read(path or default_path(), profile, overrides).compare


def load_paper(path: Path | None = None, profile: str | None = None, overrides: Sequence[str] = ()) -> PaperSettings:
    """`[paper]` alone, so that a data set that is not there need not be resolved.

    Raises:
        UserError: as `load`.
    """
    return _read(path or default_path(), profile, overrides).paper


def _read(path: Path, profile: str | None, overrides: Sequence[str]) -> _File:
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); name another with --config") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: not valid TOML: {error}") from error
    profiles = raw.pop("profile", {})
    if profile is not None:
        raw = _overlay(raw, _profile(profile, profiles, path))
    for override in overrides:
        raw = _overlay(raw, _parse_override(override))
    try:
        return _File.model_validate(raw)
    except ValidationError as error:
        raise UserError(_explain(error, path)) from error


def _profile(name: str, profiles: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """A profile with those that it extends laid under it."""
    chain: list[dict[str, Any]] = []
    seen: list[str] = []
    following: Any = name
    while following is not None:
        if following in seen:
            raise UserError(f"{path}: profiles extend each other in a circle: {' -> '.join([*seen, following])}")
        if following not in profiles:
            raise UserError(f"{path}: unknown profile {following!r}.{registry.near_miss(str(following), profiles)}")
        seen.append(following)
        body = dict(profiles[following])
        following = body.pop("extends", None)
        chain.append(body)
    merged: dict[str, Any] = {}
    for body in reversed(chain):
        merged = _overlay(merged, body)
    return merged


def _overlay(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in over.items():
        below = merged.get(key)
        merged[key] = _overlay(below, value) if isinstance(below, dict) and isinstance(value, dict) else value
    return merged


def parse_values(texts: Sequence[str], option: str) -> dict[str, Any]:
    """KEY=VALUE of a repeatable option, as one nested table; values are TOML, or else plain strings."""
    values: dict[str, Any] = {}
    for text in texts:
        values = _overlay(values, _parse_override(text, option))
    return values


def _parse_override(text: str, option: str = "--set") -> dict[str, Any]:
    """`defenses.advface.epsilon=0.1` as nested tables; the value is TOML, or else a plain string."""
    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        form = "section.name.parameter=value" if option == "--set" else "name=value"
        raise UserError(f"{option} {text!r}: write it as {form}")
    try:
        parsed: Any = tomllib.loads(f"value = {value}")["value"]
    except tomllib.TOMLDecodeError:
        parsed = value.strip()
    for part in reversed(key.strip().split(".")):
        parsed = {part: parsed}
    nested: dict[str, Any] = parsed
    return nested


def _explain(error: ValidationError, path: Path) -> str:
    first = error.errors()[0]
    place = [str(part) for part in first["loc"]]
    if first["type"] == "extra_forbidden":
        models: dict[str, type[BaseModel]] = {
            "run": RunSettings, "metrics": MetricSettings, "compare": CompareSettings, "paper": PaperSettings
        }  # fmt: skip
        model = models.get(place[0], _File)
        where = f"[{place[0]}] " if len(place) > 1 else ""
        return f"{path}: {where}unknown key {place[-1]!r}.{registry.near_miss(place[-1], model.model_fields)}"
    return f"{path}: {'.'.join(place)}: {first['msg'].lower()}"


_VARIABLE = re.compile(r"\$\{(\w+)\}")


def _expand(value: Any, where: str) -> Any:
    """`${NAME}` in strings, from the environment."""
    if isinstance(value, Mapping):
        return {key: _expand(inner, where) for key, inner in value.items()}
    if isinstance(value, list):
        return [_expand(inner, where) for inner in value]
    if not isinstance(value, str):
        return value
    for name in _VARIABLE.findall(value):
        if not os.environ.get(name):
            raise DataError(f"{where}: the environment variable {name} is not set; {name}=FOLDER veilbench run ...")
    return _VARIABLE.sub(lambda match: os.environ[match[1]], value)


def _resolve(file: _File, path: Path) -> Settings:
    def plugins(section: str, wanted: Sequence[str]) -> dict[str, Any]:
        found: dict[str, Any] = {}
        for label in wanted:
            found.update(_instances(file, section, label, path))
        return found

    attacks = plugins("attacks", file.run.attacks)
    defenses = plugins("defenses", file.run.defenses)
    if file.run.controls:
        for label, defense in list(defenses.items()):
            defenses.update(probes.controls(label, defense))
    if file.run.canaries:
        defenses.update(probes.canaries())
    if file.run.replay:
        replay = registry.find("attack", "replay", f"{path}: run.replay")
        for label, attack in list(attacks.items()):
            if isinstance(attack, ReconstructionAttack) and attack.level > Knowledge.BLIND:
                attacks.setdefault(f"replay_{label}", registry.make(replay, {"attack": label}, f"{path}: run.replay"))
    for label, attack in list(attacks.items()):
        if isinstance(attack, ReplayAttack) and attack.attack not in attacks:
            where = f"{path}: [attacks.{label}] attack = {attack.attack!r}"
            raise UserError(f"{where} is not among run.attacks.{registry.near_miss(attack.attack, attacks)}")
        if isinstance(attack, ReplayAttack) and not isinstance(attacks[attack.attack], ReconstructionAttack):
            raise UserError(f"{path}: [attacks.{label}] {attack.attack!r} makes no images to replay")
    lenders = {file.run.public_defender, file.run.public_attacker} - {"rest"}
    metrics = file.metrics.model_dump()
    return Settings(
        run=file.run.model_copy(
            update={
                name: _expand(getattr(file.run, name), f"{path}: run.{name}")
                for name in ("output", "store", "mirror", "cache")
            }
        ),
        metrics=MetricSettings(**_expand(metrics, f"{path}: [metrics]")) if file.metrics.lpips else file.metrics,
        compare=file.compare,
        datasets=plugins("datasets", file.run.datasets),
        recognizers=plugins("recognizers", file.run.recognizers),
        defenses=defenses,
        attacks=attacks,
        public=plugins("datasets", sorted(lenders)),
        path=path,
        paper=file.paper,
    )


def _refuse_level(plugin: type[Any], level: str, where: str, label: str) -> None:
    """`resrec@enrolment` asks for a level that the attack has."""
    known = next((get_args(get_type_hints(plugin)[f.name]) for f in fields(plugin) if f.name == "knowledge"), ())
    if not known:
        raise UserError(f"{where}: {label!r}: this attack has one level of knowledge only; leave out '@{level}'")
    if level not in known:
        raise UserError(f"{where}: {label!r}: no level {level!r}.{registry.near_miss(level, known)}")


def _instances(file: _File, section: str, label: str, path: Path) -> dict[str, Any]:
    """The plugin of one label, or of each point of its sweep."""
    kind = _KINDS[section]
    entries: Mapping[str, dict[str, Any]] = getattr(file, section)
    where = f"{path}: [{section}.{label}]" if label in entries else f"{path}: run.{section}"
    if "~" in label:
        raise UserError(f"{where}: {label!r}: labels with a ~ are the harness's own: run.controls, run.canaries")
    own, _, level = label.partition("@") if section == "attacks" else (label, "", "")
    parameters = dict(_expand(_overlay(entries.get(own, {}), entries.get(label, {})), where))
    name = parameters.pop("plugin", own)
    sweep = parameters.pop("sweep", {})
    if own not in entries and name not in registry.names(kind) and not str(name).endswith(".py"):
        known = {*registry.names(kind), *entries}
        raise UserError(f"{path}: unknown {registry.word(kind)} {own!r}.{registry.near_miss(own, known)}")
    plugin = registry.find(kind, str(name), where)
    if level:
        _refuse_level(plugin, level, where, label)
        parameters["knowledge"] = level
    for trained in (f for f in fields(plugin) if f.name in ("training", "adaptation", "recipe")):
        shared = file.training if trained.name == "training" else {}
        parameters[trained.name] = {**vars(trained.default), **shared, **parameters.get(trained.name, {})}
    if not isinstance(sweep, Mapping) or not all(isinstance(values, list) and values for values in sweep.values()):
        raise UserError(f"{where}: a sweep is a list of values a parameter: sweep.epsilon = [0.1, 0.2]")
    made: dict[str, Any] = {}
    for point in itertools.product(*sweep.values()):
        chosen = dict(zip(sweep, point, strict=True))
        suffix = ",".join(f"{key}={value}" for key, value in chosen.items())
        made[f"{label}[{suffix}]" if suffix else label] = registry.make(plugin, {**parameters, **chosen}, where)
    return made
