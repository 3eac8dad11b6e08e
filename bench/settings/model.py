"""The schema of every section of `bench.toml`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model, field_validator

from bench.metrics.catalogue import METRICS, Metric

if TYPE_CHECKING:  # results can be read without torch
    from bench.contracts import Attack, Dataset, Defense, Recognizer, ReconstructionAttack, ReplayAttack

Keep = Literal["records", "templates", "all"]
_SECTIONS = ("datasets", "recognizers", "defenses", "attacks")


class Strict(BaseModel):
    """A section: frozen, without unknown keys or implicit conversions."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class RunSettings(Strict):
    """`[run]`: the dimensions of the matrix, and where its output goes."""

    datasets: list[str] = Field(min_length=1)
    recognizers: list[str] = Field(min_length=1)
    defenses: list[str] = Field(min_length=1)
    attacks: list[str]
    canaries: bool = False  #: also run every attack on systems that are known to be broken, and known to be safe
    controls: bool = False  #: also run, for every defence that adds noise, other noise of the same strength
    replay: bool = False  #: also replay the reconstructions of every attack above `blind`, as `replay_NAME`
    judge: str = ""  #: a recogniser that no attack uses, which judges the reconstructions; empty: none
    pictures: str = ""  #: an attack on embeddings that makes faces of recovered ones (keyed defences); empty: none
    seeds: list[int] = Field(default=[0], min_length=1)
    public_defender: str = "rest"  #: a dataset's name, or `rest`: half of the people in no pair
    public_attacker: str = "rest"
    public_limit: int | None = Field(default=None, ge=2)  #: maximum number of public faces per side
    pairs: int | None = Field(default=None, ge=0)  #: maximum number of pairs to verify, half of them genuine; 0: all
    images: int | None = Field(default=None, ge=0)  #: maximum number of their images to reconstruct; 0: all
    device: str = "auto"
    threads: int | None = Field(default=None, ge=1)  #: processor threads per task; None: all, or a worker's share
    time_limit: float | None = Field(default=None, gt=0)  #: seconds after which a worker's task is stopped
    output: str = "results/latest"
    store: str = "results/.store"
    keep: Keep = "all"  #: which artefacts stay when no cell waits for them: none, what the system consists of, or all
    mirror: str = ""  #: an fsspec URL with which artefacts are synchronised: s3://BUCKET/FOLDER
    cache: str = "results/.cache"
    samples: int = Field(default=8, ge=0)  #: number of reconstructions stored for the grids

    @field_validator("datasets", "recognizers", "defenses", "attacks", "seeds")
    @classmethod
    def _once(cls, values: list[Any]) -> list[Any]:
        twice = next((value for index, value in enumerate(values) if value in values[:index]), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is listed twice")
        return values

    @field_validator("pairs", "images")
    @classmethod
    def _all(cls, count: int | None) -> int | None:
        return count or None


class MetricSettings(Strict):
    """`[metrics]`."""

    lpips: bool = True
    lpips_backbone: str = ""  #: path of a local file of AlexNet's features; empty: torchvision's download, if allowed
    lpips_download: bool = False
    bootstrap: int = Field(default=1000, ge=100)  #: number of resamples for the intervals of mean scores


class _Tolerances(Strict):
    """`[compare]`: differences per metric to ignore, besides those within the intervals."""

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
    """The whole file, before plugins are resolved."""

    run: RunSettings
    paper: dict[str, Any] = {}  #: the section of the paper's tables is validated elsewhere
    metrics: MetricSettings = MetricSettings()
    compare: CompareSettings = CompareSettings()
    training: dict[str, Any] = {}
    datasets: dict[str, dict[str, Any]] = {}
    recognizers: dict[str, dict[str, Any]] = {}
    defenses: dict[str, dict[str, Any]] = {}
    attacks: dict[str, dict[str, Any]] = {}


@dataclass(frozen=True)
class Settings:
    """The resolved settings of a run, with plugin instances by label."""

    run: RunSettings
    metrics: MetricSettings
    compare: CompareSettings
    datasets: Mapping[str, Dataset]
    recognizers: Mapping[str, Recognizer]
    defenses: Mapping[str, Defense]
    attacks: Mapping[str, Attack]
    public: Mapping[str, Dataset]  #: datasets that only supply public faces
    path: Path
    judge: Recognizer | None = None  #: that of `run.judge`
    pictures: ReconstructionAttack | None = None  #: that of `run.pictures`

    def wrapped(self, attack: ReplayAttack) -> ReconstructionAttack:
        """The reconstruction attack that a replay presents."""
        return self.attacks[attack.attack]  # type: ignore[return-value]

    def part(self, label: str) -> ReconstructionAttack:
        """A reconstruction attack whose results another attack is given."""
        return self.attacks[label]  # type: ignore[return-value]

    def moved(self, output: Path) -> Settings:
        """The same settings with another output folder."""
        return replace(self, run=self.run.model_copy(update={"output": str(output)}))

    def as_dict(self) -> dict[str, Any]:
        """The resolved settings, JSON-able."""
        sections = {name: getattr(self, name) for name in _SECTIONS}
        return {
            "run": self.run.model_dump(),
            "metrics": self.metrics.model_dump(),
            "compare": self.compare.model_dump(),
            **{n: {label: asdict(plugin) for label, plugin in s.items()} for n, s in sections.items()},
            **({"judge": asdict(self.judge)} if self.judge else {}),
            **({"pictures": asdict(self.pictures)} if self.pictures else {}),
        }
