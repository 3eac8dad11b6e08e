"""The documentation's notebook, run as Jupyter runs it, in an empty folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from support import ENVIRONMENT, ROOT

nbformat = pytest.importorskip("nbformat", reason="needs nbclient and ipykernel: pip install 'veilbench[test]'")
nbclient = pytest.importorskip("nbclient", reason="needs nbclient and ipykernel: pip install 'veilbench[test]'")

NOTEBOOK = ROOT / "docs/notebook.ipynb"


@pytest.mark.slow
def test_the_notebook_runs_and_shows_what_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in ENVIRONMENT.items():
        monkeypatch.setenv(name, value)
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells), "commit it without outputs"
    client = nbclient.NotebookClient(
        notebook, timeout=300, kernel_name="python3", resources={"metadata": {"path": tmp_path}}
    )
    client.execute()
    shown = {
        cell["source"].splitlines()[-1]: json.dumps(cell["outputs"]) for cell in notebook.cells if "outputs" in cell
    }
    assert "<th>worst attack (level)</th>" in shown["results"]
    for picture in ("results.heatmap()", "results.scatter()", 'results.grid("advface")'):
        assert "image/png" in shown[picture], picture
    board = next(text for line, text in shown.items() if line.startswith("mine.leaderboard"))
    assert "mine_strong" in board and "failed=()" in board
    changes = next(text for line, text in shown.items() if line.startswith("changes["))
    assert "psnr_db" in changes and ("worse" in changes or "within noise" in changes)
    assert (tmp_path / "results/tiny/leaderboard.md").is_file()
