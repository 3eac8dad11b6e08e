"""Renders a comparison of two runs as Markdown, JSON or JUnit."""

from __future__ import annotations

import json
import xml.etree.ElementTree as ET
from collections import Counter
from dataclasses import asdict
from typing import Literal

from bench.analysis.compare import BAD, Finding, passed
from bench.report.text import figure_text, markdown


def render(findings: list[Finding], fmt: Literal["md", "json"]) -> str:
    """`md` for a pull request's comment: counts, then changes; `json` for scripts: everything."""
    counts = Counter(f.verdict for f in findings)
    if fmt == "json":
        every = [asdict(f) for f in findings]
        return json.dumps({"passed": passed(findings), "counts": counts, "findings": every}, indent=1)
    said = ", ".join(f"{count} {verdict}" for verdict, count in counts.most_common())
    text = f"## Privacy metrics: {'passed' if passed(findings) else 'FAILED'}\n\n{said or 'nothing to compare'}\n"
    rows = [["cell", "metric", "verdict", "before", "now", "difference", "note"]]
    for f in findings:
        if f.verdict in ("within noise", "new"):
            continue
        gap = None if f.base is None or f.new is None else f.new - f.base
        figures = [figure_text(v, None, None, 3) for v in (f.base, f.new)] + [figure_text(gap, f.low, f.high, 3)]
        rows.append([f.cell, f.metric or "–", f.verdict, *figures, f.note])
    return text if len(rows) == 1 else f"{text}\n{markdown(rows)}\n"


def junit(findings: list[Finding]) -> str:
    """One test case per finding, as CI systems expect."""
    suite = ET.Element("testsuite", name="veilbench compare", tests=str(len(findings)))
    suite.set("failures", str(sum(f.verdict in BAD for f in findings)))
    for f in findings:
        case = ET.SubElement(suite, "testcase", classname=f.cell, name=f.metric or "cell")
        if f.verdict in BAD:
            ET.SubElement(case, "failure", message=f.verdict).text = f"{f.base} -> {f.new} {f.note}".strip()
    return ET.tostring(suite, encoding="unicode", xml_declaration=True)
