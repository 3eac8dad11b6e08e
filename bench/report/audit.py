"""The page of an audit: promised figures, true figures if the originals are known, and pictures."""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from bench import __version__
from bench.labels import Knowledge
from bench.storage.files import replacing

_SHOWN = 8  #: pictures per row


def write_page(
    folder: Path,
    account: Mapping[str, Any],
    best: NDArray[np.float32],
    samples: tuple[NDArray[np.float32], NDArray[np.float32]],
    originals: NDArray[np.float32] | None,
) -> list[Path]:
    """Writes audit.json and index.html; returns their paths.

    Args:
        best: the best attack's reconstructions from the dump, (N, 3, H, W) in [0, 1].
        samples: held-out public faces and their reconstructions, in the same form.
        originals: the faces of the dump, if they are known.
    """
    rows = [("public face", _strip(samples[0])), ("rebuilt from its template", _strip(samples[1]))]
    stolen = [("rebuilt from the dump", _strip(best))]
    if originals is not None:
        stolen.insert(0, ("original", _strip(originals)))
    environment = Environment(
        loader=PackageLoader("bench.report"), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("audit.html").render(
        account=account, attacks=table(account), remarks=remarks(account), held=rows, stolen=stolen,
        version=__version__, style=environment.get_template("report.css").render(),
    )  # fmt: skip
    for name, text in (("index.html", page), ("audit.json", json.dumps(account, indent=1, allow_nan=False))):
        with replacing(folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    return [folder / "index.html", folder / "audit.json"]


def table(account: Mapping[str, Any]) -> list[list[str]]:
    """One row per attack: label; SSIM promised, true and of a guess; cosine of reconstruction and template."""
    rows = []
    for label, found in account["attacks"].items():
        if "skipped" in found:
            rows.append([label, f"nothing to try: {found['skipped']}", "", "", ""])
            continue
        promised, true = found["promised"], found.get("true", {})
        attacked, count = found["dump"]["images"], account["templates"]["count"]
        rows.append([
            label if attacked == count else f"{label} ({attacked} of {count} templates)",
            figure(promised["ssim"]), figure(true.get("ssim")), figure(promised["blind_ssim"]),
            figure(found["dump"].get("match")),
        ])  # fmt: skip
    return rows


def remarks(account: Mapping[str, Any]) -> list[str]:
    """Sentences that explain how far the figures apply."""
    found = []
    if account["system"] == "as stored":
        found.append("What the defence learned is as stored with the templates.")
    elif account["system"] == "simulated":
        told = "What the defence learned is unknown here, so a system like it was fitted on public faces."
        if account["level"] in (str(Knowledge.ENROLMENT), str(Knowledge.WHITEBOX)):
            told += (
                " The promise is for an attacker who has the very system. The dump was attacked with what was learned "
                "from the copy, so its own figures may be lower than such an attacker's."
            )
        found.append(told)
    return found


def figure(measured: Mapping[str, Any] | None, decimals: int = 3) -> str:
    """Formats a figure with its interval; a dash if there is none."""
    if measured is None or measured["value"] is None:
        return "–"
    if measured["low"] is None:
        return f"{measured['value']:.{decimals}f}"
    value, low, high = (f"{measured[name]:.{decimals}f}" for name in ("value", "low", "high"))
    return f"{value} [{low}, {high}]"


def _strip(images: NDArray[np.float32]) -> str:
    """The first images side by side, as a data URI."""
    row = np.concatenate(list(images[:_SHOWN]), axis=2).transpose(1, 2, 0)
    out = io.BytesIO()
    Image.fromarray(np.rint(row * 255).astype(np.uint8)).save(out, "webp", quality=90)
    return f"data:image/webp;base64,{base64.b64encode(out.getvalue()).decode()}"
