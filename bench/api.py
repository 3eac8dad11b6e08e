"""The Python interface, for scripts and notebooks: `bench.run(...)`, `bench.open(...)` and what they return."""

from __future__ import annotations

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pandas as pd

from bench.analysis.board import Board, boards
from bench.analysis.compare import compare
from bench.analysis.leaderboard import leaderboard, merged
from bench.analysis.submission import unpacked
from bench.errors import UserError, near_miss
from bench.report.leaderboard import as_html
from bench.settings.toml import Overrides, tolerances
from bench.storage.command import Command, note_command
from bench.storage.records import Record, Run
from bench.storage.session import in_session

if TYPE_CHECKING:  # results can be read without torch, and tables without loading matplotlib
    from matplotlib.figure import Figure

    from bench.contracts import Attack, Defense
    from bench.runner.serial import Outcome
    from bench.settings.model import Settings
    from bench.toolkit.progress import Advance


def run(
    config: str | Path | None = None,
    profile: str | None = None,
    overrides: Overrides = (),
    *,
    defenses: Mapping[str, Defense] | None = None,
    attacks: Mapping[str, Attack] | None = None,
    workers: int | Literal["auto"] = 0,
    scheduler: str = "",
    output: str | Path | None = None,
    report: Callable[[Advance], None] = lambda _: None,
) -> Results:
    """Judges every cell that has no finished record; writes records and reports as `veilbench run` does.

    An interrupted run resumes when it is called again. A cell that fails raises no exception: its record contains the
    traceback, see `Results.records()`.

    Args:
        config: default: ./bench.toml, or the one included in the package.
        profile: overlays [profile.NAME] of the config.
        overrides: settings by their dotted names, `{"run.images": 20, "defenses.advface.epsilon": 0.1}`, or in the
            command line's form, `["run.images=20"]`.
        defenses: additional defences by label, as objects. The class may be defined in a notebook cell: its results are
            stored under a key made from its source and from the globals that it reads.
        attacks: additional attacks, likewise.
        workers: processes on this machine, or "auto"; 0: in this process, which classes defined in a notebook need.
        scheduler: address of a Dask scheduler, instead of `workers`.
        output: the folder of records and reports, instead of run.output.
        report: called with each advance: the current step, and how much is finished and left; `print` works.

    Raises:
        UserError: something that you can correct; the message says what is wrong, where, and what to do.
    """
    # imported here because these import torch, which reading results must not require
    from bench.plan import plan
    from bench.runner.cluster.submit import Cluster, carry_out
    from bench.runner.keeping import costs
    from bench.settings.resolve import load
    from bench.storage.store import Store

    given: dict[str, Mapping[str, Any]] = {"defenses": defenses or {}, "attacks": attacks or {}}
    settings = load(None if config is None else Path(config), profile, overrides, given)
    if output is not None:
        settings = settings.moved(Path(output))
    where = Cluster.of(workers, scheduler, settings)
    if where.workers or where.scheduler:
        _refuse_session(given)
    folder = Run(Path(settings.run.output))
    folder.prepare()
    store = Store(Path(settings.run.store), settings.run.mirror)
    note_command(folder.folder, _command(config, profile, overrides, settings))
    planned = plan(settings)
    try:
        with store.in_use():
            outcome = carry_out(where, settings, planned, store, folder, report)
    finally:  # an interrupted run tells too what it did
        folder.note_costs(costs(planned, store, {row["key"] for row in folder.costs()}))
    if outcome.done or outcome.failed or not (folder.folder / "leaderboard.md").exists():
        from bench.report.write import write_reports  # loads matplotlib

        write_reports(folder)
    return Results((folder.folder,), outcome)


def _command(config: str | Path | None, profile: str | None, overrides: Overrides, settings: Settings) -> Command:
    """What the run was told, and which of its defences work in the frequency domain."""
    from bench.settings.toml import default_path, read_file
    from bench.toolkit.frequency_defense import FrequencyDefense

    file = read_file(default_path() if config is None else Path(config), profile, overrides)
    told = [f"{k}={json.dumps(v, default=str)}" for k, v in overrides.items()] if isinstance(overrides, Mapping) else ()
    families = {label: "frequency" for label, d in settings.defenses.items() if isinstance(d, FrequencyDefense)}
    return Command(profile or "", tuple(told or overrides), file.model_dump(mode="json"), families)


def _refuse_session(given: Mapping[str, Mapping[str, Any]]) -> None:
    """Workers import classes from files, so a class defined in a notebook is not available to them."""
    for section, plugins in given.items():
        for label, plugin in plugins.items():
            if in_session(type(plugin)):
                raise UserError(
                    f"{section}[{label!r}]: class {type(plugin).__name__} is defined in this session, but workers can "
                    "only import classes from files: leave out workers, or put the class into a file and name that: "
                    f"overrides={{'{section}.{label}.plugin': 'mine.py'}}"
                )


def open(*places: str | Path) -> Results:
    """Opens the results of a finished run, from a folder or an archive (`veilbench export`), or of several runs.

    Raises:
        DataError: there are no records, or an archive was changed after it was made.
    """
    if not places:
        raise UserError('bench.open: name a run\'s folder or archive, such as bench.open("results/latest")')
    return Results(tuple(map(Path, places)))


class Results:
    """The results of one or more runs: tables as pandas DataFrames, figures as matplotlib figures.

    Attributes:
        places: folders or archives, as they were named.
        runs: their records; an archive is unpacked for the lifetime of this object.
        outcome: how the run that made this object ended; None if results were opened.
    """

    def __init__(self, places: Sequence[Path], outcome: Outcome | None = None) -> None:
        self.places, self.outcome = tuple(places), outcome
        stack = ExitStack()
        self._release = weakref.finalize(self, stack.close)
        self.runs: tuple[Run, ...] = tuple(stack.enter_context(unpacked(place)) for place in self.places)
        self._cells()  # report a wrong path now and not later

    def _cells(self) -> list[tuple[Path, Run, Record]]:
        return [
            (place, run, record) for place, run in zip(self.places, self.runs, strict=True) for record in run.records()
        ]

    def __repr__(self) -> str:
        statuses = [record.status for _, _, record in self._cells()]
        failed = statuses.count("error")
        return f"Results({', '.join(map(str, self.places))}: {len(statuses)} cells, {failed} failed)"

    def _repr_html_(self) -> str:
        return as_html(self.leaderboard())

    # ------------------------------------------------------------------------------------------------------ tables

    def leaderboard(self) -> pd.DataFrame:
        """One row per dataset, recogniser and defence, the most private first; see
        `bench.analysis.leaderboard.leaderboard` for the columns. With several runs, the run's name follows the
        defence's.
        """
        return leaderboard(self.runs[0]) if len(self.runs) == 1 else merged(self.places)

    def records(self) -> pd.DataFrame:
        """One row per cell: the cell, `status` and `reason`, each metric with its interval (NAME, NAME_low, NAME_high),
        the measured noise (noise_*), `flags`, `time_s` and the `run`.
        """
        return pd.DataFrame([_row(place, record) for place, _, record in self._cells()])

    def scores(self, kind: str = "reconstruction", **cell: str | int) -> pd.DataFrame:
        """Scores of each image (or pair, or login), of all cells of a kind or of some of them.

        Args:
            kind: reconstruction (name, subject, ssim, psnr_db, mse, lpips, cosine), utility, replay or linkage.
            cell: select cells: dataset, recognizer, defense, attack, level, seed.

        Raises:
            UserError: there is no such cell; suggests the nearest name.
        """
        some = [(place, run, record.cell) for place, run, record in self._cells() if record.status == "ok"]
        for name, value in {"kind": kind, **cell}.items():
            if name not in _CELL:
                raise UserError(f"scores: a cell has no {name!r}.{near_miss(name, _CELL)}")
            known = {str(getattr(one, name)) for _, _, one in some}
            some = [found for found in some if getattr(found[2], name) == value]
            if not some:
                raise UserError(f"scores: no finished cell with {name} = {value!r}.{near_miss(str(value), known)}")
        frames = []
        for place, run, one in some:
            frame = run.scores(one)
            for position, name in enumerate(_CELL[1:]):
                frame.insert(position, name, getattr(one, name))
            frames.append(frame.assign(run=place.name))
        return pd.concat(frames, ignore_index=True)

    def compare(
        self,
        base: Results | str | Path,
        config: str | Path | None = None,
        profile: str | None = None,
        overrides: Overrides = (),
    ) -> pd.DataFrame:
        """What has changed since `base`: one row per metric of a cell with its `verdict`, regressions first.

        Args:
            base: the results to compare with, or their path.
            config, profile, overrides: the source of the tolerances in [compare], as in `run`.
        """
        other = base if isinstance(base, Results) else open(base)
        allowed = tolerances(None if config is None else Path(config), profile, overrides)
        findings = compare(other._only("compare"), self._only("compare"), allowed)
        columns = ["cell", "metric", "verdict", "base", "new", "low", "high", "note"]
        return pd.DataFrame([asdict(finding) for finding in findings], columns=columns)

    # ---------------------------------------------------------------------------------------------------- pictures

    def heatmap(self, metric: str = "ssim") -> Figure:
        """Heatmap of defences against attacks, for ssim, psnr_db, mse, lpips or cosine."""
        from bench.report.heatmap import heatmap

        return _shown(heatmap(self._only("heatmap"), metric))

    def scatter(self, level: str = "") -> Figure:
        """Accuracy against the best reconstruction of any attack, or up to a level, with linkage beside it.

        Raises:
            UserError: fewer than two defences have both figures, or there is no such level.
        """
        from bench.report.scatter import scatter

        figure = scatter(self._only("scatter"), level)
        if figure is None:
            raise UserError(f"{self.places[0]}: fewer than two defences have both figures; nothing to compare")
        return _shown(figure)

    def grid(self, defense: str | None = None) -> Figure:
        """Originals beside each attack's reconstructions.

        Args:
            defense: default: the most private one on the first dataset.

        Raises:
            UserError: there is no such defence, or the run stored no pictures of it (run.samples).
        """
        from bench.report.grid import grid

        run = self._only("grid")
        some = boards(run)
        label = defense if defense is not None else str(self.leaderboard()["defense"].iloc[0])
        board = _holding(some, label)
        figure = grid(run, board, label)
        if figure is None:
            raise UserError(f"{self.places[0]}: the run stored no pictures of {label!r}; run with run.samples above 0")
        return _shown(figure)

    def _only(self, what: str) -> Run:
        if len(self.runs) > 1:
            raise UserError(f"{what}: works on one run at a time; bench.open one of {', '.join(map(str, self.places))}")
        return self.runs[0]


_CELL = ("kind", "dataset", "recognizer", "defense", "attack", "level", "seed")


def _row(place: Path, record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"run": place.name, **asdict(record.cell), "status": record.status, "reason": record.reason}
    for name, figure in record.metrics.items():
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high
    row |= {f"noise_{name}": value for name, value in record.noise.items()}
    return {**row, "flags": "; ".join(record.flags), "time_s": record.time_s}


def _holding(some: list[Board], defense: str) -> Board:
    """The first board that contains the defence."""
    for board in some:
        if defense in board.defenses:
            return board
    known = {d for board in some for d in board.defenses}
    raise UserError(f"no defence {defense!r} in this run.{near_miss(defense, known)}")


def _shown(figure: Figure) -> Figure:
    """Returns the figure, drawn in a notebook: without pyplot, IPython would only show its repr."""
    vars(figure)["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
