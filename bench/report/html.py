"""The report: a folder with one page that shows everything about a run, and needs nothing from elsewhere."""

from __future__ import annotations

import base64
import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from bench import __version__
from bench.records import Measure, Record, Run, replacing
from bench.report.embeddings import COLUMNS as EMBEDDING_COLUMNS
from bench.report.embeddings import embedding_attacks
from bench.report.heatmap import METRICS, heatmap, save
from bench.report.leaderboard import leaderboard
from bench.report.provenance import duration, flags, origins, parameters, settings
from bench.report.scatter import scatter
from bench.report.strips import Gallery, galleries
from bench.report.summary import LEVELS, Board, boards
from bench.report.text import number_text

#: Ground and ink of the page, light and dark, as in `report.css`. A picture is drawn once, in a pair that nothing else
#: in it has (a heatmap's figures are plain black and white), and then recoloured.
_LIGHT = ("#fefefe", "#1b1e23")
_DARK = ("#15181d", "#e6e8eb")
_STYLE: dict[Any, str] = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor"), _LIGHT[0]),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), _LIGHT[1]),
}

#: What each level of knowledge lets an attacker do, from the least on.
_KNOWLEDGE = dict(
    zip(
        LEVELS,
        (
            "public faces only; never looks at the template",
            "also asks the client's encoder for features: the AdvFace paper's attacker",
            "also knows the defence and its settings, and runs a copy of its own",
            "also enrols own images and reads the stored templates back",
            "the whole system with gradients, but not the victims' randomness",
        ),
        strict=True,
    )
)

# Column of the leaderboard's frame, heading, decimals, what it says.
_LEADERBOARD = (
    ("acc", "ACC ↑", 3, "verification accuracy, both sides protected"),
    ("acc_raw_probe", "ACC, raw probe ↑", 3, "accuracy with an unprotected probe"),
    ("worst_ssim", "worst SSIM ↓", 3, "SSIM (7x7) of the attack that rebuilds most; ≥: an attack is missing"),
    ("worst_psnr_db", "PSNR dB ↓", 1, "of that attack"),
    ("worst_cosine", "cosine ↓", 3, "of the rebuilt face's embedding with the original's, that attack"),
    ("worst_lpips", "LPIPS ↑", 3, "of that attack, AlexNet"),
    ("paper_ssim", "SSIM at encoder ↓", 3, "of the best attack at the AdvFace paper's level"),
    ("bound_ssim", "oracle bound ↓", 3, "per image the best of all attacks: what no single attacker reaches"),
    ("blind_ssim", "blind floor", 3, "SSIM of the best guess that never looked"),
    ("srra1", "SRRA I ↓", 3, "how often the rebuilt face is accepted against the same image's template"),
    ("srra2", "SRRA II ↓", 3, "how often it is accepted against another image of the person"),
    ("noise_rms", "noise rms", 3, "measured, in units of the feature"),
    ("snr_db", "SNR dB", 1, "measured signal-to-noise ratio of the template"),
    ("template_bytes", "bytes", 0, "of a stored template"),
)
_CELLS = (
    ("ssim", "SSIM", 3), ("psnr_db", "PSNR dB", 1), ("mse", "MSE", 4), ("lpips", "LPIPS", 3), ("cosine", "cosine", 3),
    ("srra1", "SRRA I", 3), ("srra2", "SRRA II", 3),
)  # fmt: skip


@dataclass(frozen=True)
class Value:
    """What stands in a table's cell."""

    text: str
    interval: str = ""
    sort: float | None = None  #: what a column of figures is sorted by; None: missing, always last
    badge: str = ""  #: the attacker's knowledge, shown behind the text
    title: str = ""


@dataclass(frozen=True)
class Column:
    """A table's column."""

    heading: str
    title: str = ""
    figures: bool = False


@dataclass(frozen=True)
class Table:
    """A sortable table; the first column names the row."""

    caption: str
    columns: Sequence[Column]
    rows: Sequence[Sequence[Value]]
    shown: str = ""  #: the heading of the column by which the rows stand already


def write_page(run: Run, folder: Path) -> Path:
    """FOLDER/index.html, and beside it its pictures: `*.svg` and `strip-N.webp`. Nothing else in FOLDER is touched.

    Names and messages are untrusted text: they are escaped, files are numbered, and the page's policy lets no script
    run but its own.

    Raises:
        DataError: there are no records, or damaged ones.
    """
    some, frame = boards(run), leaderboard(run)
    records = [record for board in some for entry in board.entries for record in entry.records]
    folder.mkdir(parents=True, exist_ok=True)
    shown: list[tuple[Board, list[Gallery]]] = []
    strips = 0
    for board in some:
        found = galleries(run, board, folder, strips)
        strips += sum(len(gallery.strips) for gallery in found)
        shown.append((board, found))
    for stale in folder.glob("strip-*.webp"):
        if stale.stem.partition("-")[2].isdecimal() and int(stale.stem.partition("-")[2]) >= strips:
            stale.unlink()  # of an earlier run with more to show
    every_strip = [strip for _, found in shown for gallery in found for strip in gallery.strips]
    environment = Environment(
        loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    script = environment.get_template("report.js").render()
    page = environment.get_template("index.html").render(
        title=" · ".join(dict.fromkeys(f"{board.dataset}, {board.recognizer}" for board in some)),
        version=__version__,
        style=environment.get_template("report.css").render(),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        leaderboards=_leaderboards(frame),
        embeddings=_embeddings(embedding_attacks(run).to_dict("records")),
        scatter=_drawn(folder, "scatter", lambda: scatter(run)),
        heatmaps=_heatmaps(run, some, folder),
        galleries=shown,
        cells=[_cells(board) for board in some],
        failures=[r for r in records if r.status != "ok"],
        attacks=sorted({strip.attack.partition("@")[0] for strip in every_strip if strip.attack}),
        defenses=list(dict.fromkeys(gallery.defense for _, found in shown for gallery in found)),
        levels=[level for level in LEVELS if any(strip.level == level for strip in every_strip)],
        knowledge=_KNOWLEDGE,
        flags=flags(records, frame.loc[frame["flags"].str.contains("below the blind floor"), "defense"].tolist()),
        made=origins(records),
        settings=settings(records),
        parameters=parameters(records),
        keys=_keys(records),
        counted=len(records),
        time=duration(sum(record.time_s for record in records)),
    )
    path = folder / "index.html"
    with replacing(path) as temporary:
        temporary.write_text(page, encoding="utf-8")
    return path


# --------------------------------------------------------------------------------------------------------- tables


def _figure(value: Any, low: Any = None, high: Any = None, decimals: int = 3) -> Value:
    text = number_text(value, decimals)
    if text == "–":
        return Value(text)
    certain = low is None or high is None or math.isnan(low) or math.isnan(high)
    interval = "" if certain else f"[{number_text(low, decimals)}, {number_text(high, decimals)}]"
    return Value(text, interval, float(value))


def _attack(label: str, level: str) -> Value:
    """`resrec@enrolment` as resrec, with its level behind it."""
    return Value(label.partition("@")[0] or "–", badge=level)


def _leaderboards(frame: pd.DataFrame) -> list[Table]:
    tables = []
    for (dataset, recognizer), some in frame.groupby(["dataset", "recognizer"], sort=False):
        names = [column for column in _LEADERBOARD if some[column[0]].notna().any()]
        columns = [Column("defence"), *(Column(heading, title, True) for _, heading, _, title in names)]
        columns.insert(1, Column("worst attack", "the single attack that rebuilds most, and what it knows"))
        rows = []
        for row in some.to_dict("records"):
            cells = [Value(row["defense"]), _attack(row["worst_attack"], row["worst_level"])]
            for name, _, decimals, _ in names:
                cell = _figure(row[name], row.get(f"{name}_low"), row.get(f"{name}_high"), decimals)
                if row["bound_note"] and name == "worst_ssim" and cell.sort is not None:
                    cell = Value(f"≥ {cell.text}", cell.interval, cell.sort, title=row["bound_note"])
                elif row["bound_note"] and name == "bound_ssim":
                    cell = Value("incomplete", title=row["bound_note"])
                cells.append(cell)
            rows.append([*cells, Value(row["failed"] or "none")])
        missed = int(some["images_without_a_face"].max())
        note = f" No face was found in {missed} images; they count as failures." if missed else ""
        caption = f"{dataset}, {recognizer}: the defence that gives away least first.{note}"
        # Where a row is incomplete it stands last, whatever its figure.
        shown = "" if some["bound_note"].any() else "worst SSIM ↓"
        tables.append(Table(caption, [*columns, Column("failed")], rows, shown))
    return tables


def _embeddings(rows: Sequence[Mapping[Any, Any]]) -> list[Table]:
    if not rows:
        return []
    columns = [
        Column("defence"), Column("attack"), Column("data"), Column("targets", "", True),
        Column("queries each", "", True),
        *(Column(heading, "", True) for heading, _ in EMBEDDING_COLUMNS.values()),
    ]  # fmt: skip
    cells = [
        [
            Value(row["defense"]),
            _attack(row["attack"], row["level"]),
            Value(f"{row['dataset']}, {row['recognizer']}"),
            _figure(row["targets"], decimals=0),
            _figure(row["queries"], decimals=0),
            *(_figure(row[n], row[f"{n}_low"], row[f"{n}_high"], d) for n, (_, d) in EMBEDDING_COLUMNS.items()),
        ]
        for row in rows
    ]
    return [Table("Attacks on stolen embeddings: they have no part in the worst case above.", columns, cells)]


def _cells(board: Board) -> Table:
    entries = [
        e
        for defense in board.defenses
        for kind in ("reconstruction", "replay")
        for e in sorted(board.under(defense, kind), key=lambda e: (LEVELS[e.cell.level], e.cell.attack))
    ]
    # A column without a figure stays where a note says why there is none.
    used = [c for c in _CELLS if any(e.metric(c[0]).value is not None or e.metric(c[0]).note for e in entries)]
    rows = []
    for entry in entries:
        counts = [entry.metric(name).n for name, _, _ in used]
        rows.append(
            [
                Value(entry.cell.defense),
                _attack(entry.cell.attack, entry.cell.level),
                *(_measured(entry.metric(name), decimals) for name, _, decimals in used),
                _figure(max(counts, default=0) or None, decimals=0),
                Value(entry.failed or "ok"),
            ]
        )
    columns = [Column("defence"), Column("attack"), *(Column(heading, "", True) for _, heading, _ in used)]
    columns += [Column("n", "images or pairs behind the figures", True), Column("outcome")]
    return Table(f"Every attack on every defence: {board.dataset}, {board.recognizer}", columns, rows)


def _measured(measure: Measure, decimals: int) -> Value:
    value = _figure(measure.value, measure.low, measure.high, decimals)
    return Value("–", title=measure.note) if value.sort is None else value


def _keys(records: Sequence[Record]) -> Table:
    columns = [Column("cell"), Column("status"), Column("seed", "", True), Column("seconds", "", True)]
    columns += [Column("key", "sha256 of everything that the cell was made from"), Column("artefacts", "", True)]
    rows = [
        [
            Value(record.cell.name),
            Value(record.status),
            _figure(record.cell.seed, decimals=0),
            _figure(record.time_s, decimals=1),
            Value(record.key[:16], title=record.key),
            Value(str(len(record.artefacts)), sort=len(record.artefacts), title="\n".join(record.artefacts)),
        ]
        for record in sorted(records, key=lambda record: record.cell.name)
    ]
    artefacts = len(set(chain.from_iterable(record.artefacts for record in records)))
    caption = f"Cells with the key of what made them and the time they took, {artefacts} shared artefacts included"
    return Table(caption, columns, rows)


# ------------------------------------------------------------------------------------------------------- pictures


@dataclass(frozen=True)
class Picture:
    """An SVG in two colourings."""

    light: str
    dark: str
    heading: str


def _drawn(folder: Path, name: str, draw: Callable[[], Figure | None], heading: str = "") -> Picture | None:
    """Writes NAME.svg and NAME-dark.svg; None where there is nothing to draw, and neither is left from before."""
    light, dark = folder / f"{name}.svg", folder / f"{name}-dark.svg"
    with rc_context(_STYLE):
        figure = draw()
        if figure is None:
            light.unlink(missing_ok=True)
            dark.unlink(missing_ok=True)
            return None
        save(figure, folder / name, ("svg",))
    text = light.read_text(encoding="utf-8")
    for day, night in zip(_LIGHT, _DARK, strict=True):
        text = text.replace(day, night)
    with replacing(dark) as temporary:
        temporary.write_text(text, encoding="utf-8")
    return Picture(light.name, dark.name, heading)


def _heatmaps(run: Run, some: Sequence[Board], folder: Path) -> list[Picture]:
    entries = [entry for board in some for entry in board.entries]
    found = []
    if any(board.attacks for board in some):
        for metric, (heading, _, _) in METRICS.items():
            if metric != "mse" and any(e.metric(metric).value is not None for e in entries):  # psnr_db says the same
                picture = _drawn(folder, f"heatmap_{metric}", lambda metric=metric: heatmap(run, metric), heading)
                found += [picture] if picture else []
    return found
