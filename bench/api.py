"""The Python interface, for scripts and notebooks: `bench.run(...)`, `bench.open(...)` and what they return."""

from __future__ import annotations

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
from bench.storage.records import Record, Run
from bench.storage.session import in_session

if TYPE_CHECKING:  # results are read where torch need not be installed, and tables made where matplotlib is not loaded
    from matplotlib.figure import Figure

    from bench.contracts import Attack, Defense
    from bench.runner.serial import Outcome
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
    """Runs the matrix: whatever has no finished record yet. Writes records and reports as `veilbench run` does.

    A run that is interrupted goes on from what is finished when it is called again. A cell that fails is a record with
    its traceback, and no exception: see `Results.records()`.

    Args:
        config: default: ./bench.toml, or the one that comes with the package.
        profile: overlays [profile.NAME] of the config.
        overrides: settings by their dotted names, `{"run.images": 20, "defenses.advface.epsilon": 0.1}`, or as the
            command line has them, `["run.images=20"]`.
        defenses: more defences by label, as objects, beside those of the config. The class may be defined in a cell of
            a notebook: its results are stored under a key made from its source and from the globals that it reads.
        attacks: more attacks, likewise.
        workers: processes on this machine, or "auto"; 0: in this process, which objects of a notebook's classes need.
        scheduler: address of a Dask scheduler, instead of `workers`.
        output: where records and reports go, instead of run.output.
        report: called with each advance: what is being done, how much has ended, how much there is; `print` will do.

    Raises:
        UserError: something is wrong that you can mend: the message says what, where, and how.
    """
    # Here, and not above: these import torch, which reading results must not need.
    from bench.plan import plan
    from bench.report.write import write_reports
    from bench.runner.cluster.submit import Cluster, carry_out
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
    with store.in_use():
        outcome = carry_out(where, settings, plan(settings), store, folder, report)
    if outcome.done or outcome.failed or not (folder.folder / "leaderboard.md").exists():
        write_reports(folder)
    return Results((folder.folder,), outcome)


def _refuse_session(given: Mapping[str, Mapping[str, Any]]) -> None:
    """A worker imports classes from files; one of a notebook's cell is in this process alone."""
    for section, plugins in given.items():
        for label, plugin in plugins.items():
            if in_session(type(plugin)):
                raise UserError(
                    f"{section}[{label!r}]: class {type(plugin).__name__} is defined in this session, and workers can "
                    "only import from files: leave out workers, or put it into a file and name that: "
                    f"overrides={{'{section}.{label}.plugin': 'mine.py'}}"
                )


def open(*places: str | Path) -> Results:
    """Results of a finished run: of its folder, of an archive (`veilbench export`), or of several together.

    Raises:
        DataError: no records there, or an archive that was changed after it was made.
    """
    if not places:
        raise UserError('bench.open: name a run\'s folder or archive, such as bench.open("results/latest")')
    return Results(tuple(map(Path, places)))


class Results:
    """What a run, or several together, found: tables as pandas DataFrames, pictures as matplotlib figures.

    Attributes:
        places: folders or archives, as they were named.
        runs: their records; an archive's are unpacked for as long as this object lives.
        outcome: how the run that made this object ended; None where results were opened.
    """

    def __init__(self, places: Sequence[Path], outcome: Outcome | None = None) -> None:
        self.places, self.outcome = tuple(places), outcome
        stack = ExitStack()
        self._release = weakref.finalize(self, stack.close)
        self.runs: tuple[Run, ...] = tuple(stack.enter_context(unpacked(place)) for place in self.places)
        self._cells()  # a wrong place is an error here, and not later

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
        """One row a dataset, recogniser and defence, the one that gives away least first: see the column's names in
        `bench.analysis.leaderboard.leaderboard`. Of several runs, a defence carries its run's name behind it.
        """
        return leaderboard(self.runs[0]) if len(self.runs) == 1 else merged(self.places)

    def records(self) -> pd.DataFrame:
        """One row a cell: what was judged, `status` and `reason`, each metric with its interval (NAME, NAME_low,
        NAME_high), the noise that was measured (noise_*), `flags`, `time_s` and the `run` that it is from.
        """
        return pd.DataFrame([_row(place, record) for place, _, record in self._cells()])

    def scores(self, kind: str = "reconstruction", **cell: str | int) -> pd.DataFrame:
        """Scores of each image (or pair, or login) behind the figures, of all cells of a kind or of some of them.

        Args:
            kind: reconstruction (name, subject, ssim, psnr_db, mse, lpips, cosine), utility, replay or linkage.
            cell: only of these: dataset, recognizer, defense, attack, level, seed.

        Raises:
            UserError: no such cell; names the near miss.
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
        """What has changed since `base`: one row a metric of a cell with its `verdict`, the bad ones first.

        Args:
            base: results to compare these with, or where they are.
            config, profile, overrides: where [compare] has the tolerances, as in `run`.
        """
        other = base if isinstance(base, Results) else open(base)
        allowed = tolerances(None if config is None else Path(config), profile, overrides)
        findings = compare(other._only("compare"), self._only("compare"), allowed)
        columns = ["cell", "metric", "verdict", "base", "new", "low", "high", "note"]
        return pd.DataFrame([asdict(finding) for finding in findings], columns=columns)

    # ---------------------------------------------------------------------------------------------------- pictures

    def heatmap(self, metric: str = "ssim") -> Figure:
        """Defences against attacks: ssim, psnr_db, mse, lpips or cosine."""
        from bench.report.heatmap import heatmap

        return _shown(heatmap(self._only("heatmap"), metric))

    def scatter(self) -> Figure:
        """Accuracy against what the worst attack rebuilds.

        Raises:
            UserError: fewer than two defences have both figures.
        """
        from bench.report.scatter import scatter

        figure = scatter(self._only("scatter"))
        if figure is None:
            raise UserError(f"{self.places[0]}: fewer than two defences have both figures; nothing to compare")
        return _shown(figure)

    def grid(self, defense: str | None = None) -> Figure:
        """Originals beside what each attack rebuilt of them.

        Args:
            defense: default: the one that gives away least, on the first dataset.

        Raises:
            UserError: no such defence, or no pictures of it were kept (run.samples).
        """
        from bench.report.grid import grid

        run = self._only("grid")
        some = boards(run)
        label = defense if defense is not None else str(self.leaderboard()["defense"].iloc[0])
        board = _holding(some, label)
        figure = grid(run, board, label)
        if figure is None:
            raise UserError(f"{self.places[0]}: no pictures of {label!r} were kept; run with run.samples above 0")
        return _shown(figure)

    def _only(self, what: str) -> Run:
        if len(self.runs) > 1:
            raise UserError(f"{what}: of one run at a time; bench.open one of {', '.join(map(str, self.places))}")
        return self.runs[0]


_CELL = ("kind", "dataset", "recognizer", "defense", "attack", "level", "seed")


def _row(place: Path, record: Record) -> dict[str, Any]:
    row: dict[str, Any] = {"run": place.name, **asdict(record.cell), "status": record.status, "reason": record.reason}
    for name, figure in record.metrics.items():
        row[name], row[f"{name}_low"], row[f"{name}_high"] = figure.value, figure.low, figure.high
    row |= {f"noise_{name}": value for name, value in record.noise.items()}
    return {**row, "flags": "; ".join(record.flags), "time_s": record.time_s}


def _holding(some: list[Board], defense: str) -> Board:
    """The first board with that defence."""
    for board in some:
        if defense in board.defenses:
            return board
    known = {d for board in some for d in board.defenses}
    raise UserError(f"no defence {defense!r} in this run.{near_miss(defense, known)}")


def _shown(figure: Figure) -> Figure:
    """The figure, which a notebook draws where it stands: without pyplot, IPython would show its repr alone."""
    vars(figure)["_repr_png_"] = partial(_png, figure)
    return figure


def _png(figure: Figure) -> bytes:
    file = BytesIO()
    figure.savefig(file, format="png", dpi=100)
    return file.getvalue()
