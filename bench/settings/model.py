"""What `bench.toml` may hold: the schema of every section."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from bench.metrics.catalogue import METRICS, Metric

if TYPE_CHECKING:  # results are read where torch need not be installed
    from bench.contracts import Attack, Dataset, Defense, Recognizer, ReconstructionAttack, ReplayAttack

_SECTIONS = ("datasets", "recognizers", "defenses", "attacks")


class Strict(BaseModel):
    """A section: frozen, nothing unknown, no guessing at types."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunSettings(Strict):
    """`[run]`: what is crossed with what, and where things go."""

    datasets: list[str] = Field(min_length=1)
    recognizers: list[str] = Field(min_length=1)
    defenses: list[str] = Field(min_length=1)
    attacks: list[str]
    canaries: bool = False  #: also tries every attack on systems that are known to be broken, and known to be safe
    controls: bool = False  #: beside every defence that adds noise, other noise as strong
    replay: bool = False  #: also replays what every attack above `blind` rebuilds, as `replay_NAME`
    judge: str = ""  #: a recogniser that nobody attacks here: whom does it see in what was rebuilt? Empty: nobody asks
    seeds: list[int] = Field(default=[0], min_length=1)
    public_defender: str = "rest"  #: a dataset's name, or `rest`: half of the people in no pair
    public_attacker: str = "rest"
    public_limit: int | None = Field(default=None, ge=2)  #: at most so many public faces a side
    pairs: int | None = Field(default=None, ge=0)  #: verify so many pairs at most, as many genuine as not; 0: all
    images: int | None = Field(default=None, ge=0)  #: rebuild so many of their images at most; 0: all
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)  #: processor threads of a task; None: all, or a worker's share
    time_limit: float | None = Field(default=None, gt=0)  #: seconds after which a worker's task is stopped
    output: str = "results/latest"
    store: str = "results/.store"
    mirror: str = ""  #: an fsspec URL that artefacts are copied to and from: s3://BUCKET/FOLDER
    cache: str = "results/.cache"
    samples: int = Field(default=8, ge=0)  #: reconstructions kept for the grids

    @field_validator("datasets", "recognizers", "defenses", "attacks", "seeds")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} stands in the list twice")
        return values

    @field_validator("pairs", "images")
    @classmethod
    def _all(cls, count: int | None) -> int | None:
        return count or None


class MetricSettings(Strict):
    """`[metrics]`."""

    lpips: bool = True
    lpips_backbone: str = ""  #: a local file of AlexNet's features; empty: torchvision's own download, if allowed
    lpips_download: bool = False
    bootstrap: int = Field(default=1000, ge=100)  #: resamples behind the intervals of mean scores


class _Tolerances(Strict):
    """`[compare]`: differences that are no change, by metric, beside what the intervals allow."""

    def of(self, metric: Metric) -> float:
        """The tolerance of a metric."""
        found: float = getattr(self, metric.key)
        return found


if TYPE_CHECKING:
    CompareSettings = _Tolerances
else:
    CompareSettings = create_model(
        "CompareSettings",
        __base__=_Tolerances,
        __module__=__name__,
        **{m.key: (float, Field(default=m.tolerance, ge=0)) for m in METRICS if m.compared},
    )


class File(Strict):
    """The whole file, before plugins are found."""

    run: RunSettings
    paper: dict[str, Any] = {}  #: the paper's tables validate their own section
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
    judge: Recognizer | None = None  #: that of `run.judge`

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
            **({"judge": asdict(self.judge)} if self.judge else {}),
        }
