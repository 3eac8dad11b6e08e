"""Writes the public leaderboard's pages from its rows: one a family, one a defence, how to submit, and the limits."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from bench import __version__
from bench.analysis.board import LEVELS
from bench.analysis.columns import BY_NAME
from bench.analysis.flags import EXPLAINED
from bench.analysis.keyed import COLUMNS as KEYED_COLUMNS
from bench.errors import UserError
from bench.labels import Knowledge, family
from bench.report.keyed import PARTS
from bench.report.site.findings import findings
from bench.report.site.rows import FAMILIES, KEYS, Figure, Row, defense_page, read
from bench.storage.files import replacing

_ATTACKING = tuple(level for level in LEVELS if level != str(Knowledge.BLIND))
_COSTS = ("template_bytes", "client_ms", "server_ms", "training_min", "queries")
_DOCS = ("findings.md", "frequency.md", "templates.md")  #: pages with findings


@dataclass(frozen=True)
class Column:
    """A column of a family's table; `level` if it belongs to one level of knowledge."""

    name: str
    heading: str
    says: str
    level: str = ""


@dataclass(frozen=True)
class Table:
    """A family's rows, with the columns for which there are figures, and what can be chosen."""

    family: str
    columns: Sequence[Column]
    rows: Sequence[Row]

    def figure(self, row: Row, column: Column) -> Figure:
        """A cell; a dash if there is no figure."""
        return row.figures.get(column.name, Figure("–"))

    def choices(self, name: str) -> list[str]:
        """The values of a row's field, to filter by; none if all rows have the same."""
        if name == "level":
            return [level for level in (*LEVELS, *KEYS.values()) if any(level in row.levels for row in self.rows)]
        found = sorted({str(getattr(row, name)) for row in self.rows if getattr(row, name)})
        return found if len({getattr(row, name) for row in self.rows}) > 1 else []


def write_site(archives: Sequence[Path], folder: Path, docs: Path, docs_url: str = "") -> Path:
    """Writes FOLDER/index.html and the pages beside it; deletes pages of defences that are no longer there.

    Names and messages in archives are untrusted text: they are escaped, files are named by `file_name`, and a page's
    policy only allows its own script.

    Args:
        archives: files of `veilbench export`, or folders of runs.
        docs: the folder with the pages of findings; it may be missing.
        docs_url: where these pages are published, to link to them; empty: they are named.

    Raises:
        DataError: an archive cannot be read, or was changed after it was made.
        UserError: two archives have the same name.
    """
    names = [place.name for place in archives]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice:
        raise UserError(f"two archives are called {twice}; rename one, since rows are told apart by their archive")
    rows = read(archives)
    folder.mkdir(parents=True, exist_ok=True)
    tables = {name: _table(name, [row for row in rows if row.family == name]) for name in FAMILIES}
    environment = _environment()
    shared = _shared(environment, tables, rows, docs_url)

    def write(name: str, template: str, **values: Any) -> Path:
        path = folder / name
        with replacing(path) as temporary:
            text = environment.get_template(template).render(**shared, page=name, **values)
            temporary.write_text(text, encoding="utf-8")
        return path

    written = {"index.html", "submit.html", "limits.html"}
    for name, table in tables.items():
        written.add(write(f"{name}.html", "site_family.html", table=table).name)
    for label in sorted({family(row.defense) for row in rows}):
        own = [row for row in rows if family(row.defense) == label]
        said = findings([docs / page for page in _DOCS], label)
        written.add(write(defense_page(label), "site_defence.html", label=label, rows=own, findings=said).name)
    write("submit.html", "site_submit.html")
    write("limits.html", "site_limits.html", explained=EXPLAINED, untested=_untested(tables))
    for stale in folder.glob("defence--*.html"):
        if stale.name not in written:
            stale.unlink()
    return write("index.html", "site_index.html")


def _environment() -> Environment:
    return Environment(
        loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip


def _shared(environment: Environment, tables: dict[str, Table], rows: Sequence[Row], docs_url: str) -> dict[str, Any]:
    """What every page needs."""
    script = "\n".join(environment.get_template(name).render() for name in ("report.js", "site.js"))
    style = "\n".join(environment.get_template(name).render() for name in ("report.css", "site.css"))
    return {
        "tables": tables,
        "families": FAMILIES,
        "all_rows": rows,
        "version": __version__,
        "style": style,
        "script": script,
        "script_hash": base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
        "docs_url": f"{docs_url.rstrip('/')}/" if docs_url else "",
        "keyed_notes": [part.note.replace("*", "") for part in PARTS],
        "defense_page": defense_page,
        "family_of": family,
    }


def _table(name: str, rows: Sequence[Row]) -> Table:
    if name == "templates":
        columns = [Column(c.name, c.heading, "", KEYS.get(c.name.rpartition("_")[2], "")) for c in KEYED_COLUMNS]
    else:
        columns = [Column(n, BY_NAME[n].heading, BY_NAME[n].says) for n in ("acc", "acc_cost")]
        for kind, heading in (("ssim", "SSIM, {} ↓"), ("srra1", "login, {} ↓")):
            columns += [
                Column(f"{level}_{kind}", heading.format(level), BY_NAME[f"{level}_{kind}"].says, level)
                for level in _ATTACKING
                if f"{level}_{kind}" in BY_NAME
            ]
        more = ("judge_sar", "blind_ssim", "noise_rms", *_COSTS)
        columns += [Column(n, BY_NAME[n].heading, BY_NAME[n].says) for n in more]
    return Table(name, [c for c in columns if any(c.name in row.figures for row in rows)], rows)


def _untested(tables: dict[str, Table]) -> list[str]:
    """What no row of a family covers, in words."""
    found = []
    for name, table in tables.items():
        if not table.rows:
            found.append(f"{name}: no run was submitted yet.")
            continue
        if name != "templates":
            missing = [level for level in _ATTACKING if not any(level in row.levels for row in table.rows)]
            if missing:
                found.append(f"{name}: no attack ran at the level{'s'[: len(missing) > 1]} {', '.join(missing)}.")
            unjudged = sorted({row.archive for row in table.rows if not row.judge})
            if unjudged:
                found.append(f"{name}: no judge, a recogniser that nobody attacked, in {', '.join(unjudged)}.")
        single = sorted({row.archive for row in table.rows if row.seeds < 2})
        if single:
            found.append(f"{name}: one seed only, so no variation between trainings, in {', '.join(single)}.")
        drawn = {row.dataset for row in table.rows}
        found.append(f"{name}: measured on {', '.join(sorted(drawn))}, and on no other people.")
    return found
