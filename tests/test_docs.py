"""The documentation: every command in it runs, and what it says of settings and records is so."""

import dataclasses
import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from pydantic_core import PydanticUndefined
from support import ENVIRONMENT, ROOT

import bench
from bench.settings.model import MetricSettings, RunSettings
from bench.storage.records import SCHEMA, Cell, Measure, Record
from bench.toolkit.decoders.training import Training

DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
#: A fenced block: the remark before it, its language, the file that it should become, its text.
BLOCK = re.compile(r'(?:<!-- (not run: [^>]+) -->\n)?```(\w+)(?: title="([^"]+)")?\n(.*?)```', re.DOTALL)
SKIPPED = {
    "it needs an hour or more",
    "it makes an environment",
    "it needs a cluster",
    "it needs photographs",
    "it needs LFW",
    "it needs CFP",
    "a test walks through it",
}


def _blocks(page: Path) -> list[tuple[str, str, str, str]]:
    return BLOCK.findall(page.read_text(encoding="utf-8"))


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.relative_to(DOCS).as_posix())
def test_every_command_of_a_page_runs(page: Path, tmp_path: Path) -> None:
    """In one folder a page, in the order of the page; files with a title are written where they stand."""
    if not any(language == "sh" and not remark for remark, language, _, _ in _blocks(page)):
        pytest.skip("no commands")
    tools = tmp_path / ".tools"
    tools.mkdir()
    command = tools / "veilbench"
    command.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m bench "$@"\n')
    command.chmod(0o755)
    environment = {**ENVIRONMENT, "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    for remark, language, title, text in _blocks(page):
        if title:
            (tmp_path / title).write_text(text, encoding="utf-8")
        if language != "sh" or remark:
            continue
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", text],
            cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert done.returncode == 0, f"{text}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    if page.stem == "tutorial":
        records = [json.loads(path.read_text()) for path in (tmp_path / "results/coarse/records").glob("*.json")]
        assert {record["status"] for record in records if record["cell"]["defense"] == "coarse"} == {"ok"}
        board = (tmp_path / "results/coarse/leaderboard.md").read_text()
        assert "| coarse |" in board
        assert "coarse" in (tmp_path / "results/coarse/report/index.html").read_text()


def test_commands_are_left_out_for_known_reasons_alone() -> None:
    remarks = {remark.removeprefix("not run: ") for page in PAGES for remark, *_ in _blocks(page) if remark}
    assert remarks == SKIPPED
    for page in PAGES:
        assert len(_blocks(page)) == page.read_text().count("```") / 2, f"{page}: a block that the test doesn't see"


def test_settings_are_described_with_their_defaults() -> None:
    text = (DOCS / "reference/config.md").read_text(encoding="utf-8")
    wanted: list[tuple[str, str, Any]] = []
    for heading, model in (("run", RunSettings), ("metrics", MetricSettings)):
        wanted += [(heading, name, field.default) for name, field in model.model_fields.items()]
    wanted += [("training", field.name, field.default) for field in dataclasses.fields(Training)]
    for heading, name, default in wanted:
        section = text.partition(f"## `[{heading}]`")[2].partition("\n## ")[0]
        row = next((line for line in section.splitlines() if line.startswith(f"| `{name}` |")), "")
        shown = {PydanticUndefined: "required"}.get(default) if not isinstance(default, list) else None
        shown = shown or ("none" if default is None else f"`{json.dumps(default)}`")
        assert f"| {shown} |" in row, f"[{heading}] {name} = {shown}: {row!r}"
    described = set(re.findall(r"^\| `(\w+)` \|", text.partition("## `[datasets")[0], re.MULTILINE))
    assert described == {name for _, name, _ in wanted}


def test_the_record_is_described_whole() -> None:
    text = (DOCS / "reference/records.md").read_text(encoding="utf-8")
    assert f"**schema {SCHEMA}**" in text
    for heading, layout in (("Record", Record), ("Cell", Cell), ("Measure", Measure)):
        section = text.partition(f"## {heading}\n")[2].partition("\n## ")[0]
        described = {
            n
            for line in section.splitlines()
            if line.startswith("| `")
            for n in re.findall(r"`(\w+)`", line.split(" | ")[0])
        }
        assert described == {field.name for field in dataclasses.fields(layout)}, heading


def test_the_citation_names_this_version() -> None:
    yaml = pytest.importorskip("yaml")
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["version"] == bench.__version__ and citation["license"] == "Apache-2.0"
    assert citation["cff-version"] == "1.2.0" and citation["authors"]
    assert f"{{{bench.__version__}}}" in (DOCS / "cite.md").read_text(encoding="utf-8")
