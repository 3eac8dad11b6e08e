"""The scatter of accuracy against what is given away: its front, its sweeps, its picture."""

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image
from support import CONFIG, Cli

from bench.report.scatter import _front, scatter
from bench.storage.records import Cell, Measure, Record, Run


def test_the_front_is_of_those_that_none_beats_in_both() -> None:
    frame = pd.DataFrame({"leak": [0.2, 0.3, 0.5, 0.9, 0.9], "acc": [0.7, 0.6, 0.9, 0.9, 0.95]})
    assert _front(frame, "leak").index.tolist() == [0, 2, 4]


def test_a_sweep_trains_one_shadow_and_is_drawn(config: Path, cli: Cli, tmp_path: Path) -> None:
    text = CONFIG.replace("[defenses.advface]\n", "[defenses.advface]\nsweep.epsilon = [0.0, 0.1, 0.3]\n")
    config.write_text(text.replace('["unprotected", "laplace", "advface"]', '["unprotected", "advface"]'))
    cli("run", "--quiet")
    folder = tmp_path / "out/main"
    shadows = {
        json.loads(path.read_text())["info"]["defense_state"]["train_s"]
        for path in (folder / "records").glob("utility*advface*.json")
    }
    assert len(shadows) == 1, "one training behind three points"
    picture = np.asarray(Image.open(folder / "scatter.png").convert("L"), dtype=float)
    assert picture.shape[0] > 400 and (picture < 200).mean() > 0.005
    assert cli("scatter", str(folder), "-o", str(tmp_path / "again")).stdout.count("again") == 2
    figure = scatter(Run(folder))
    assert figure is not None
    labels = {text.get_text() for axis in figure.axes for text in axis.texts}
    assert labels == {"unprotected", "epsilon=0.0", "epsilon=0.1", "epsilon=0.3"}
    assert all(axis.get_xlabel() and axis.get_ylabel() == "accuracy" for axis in figure.axes)


def test_one_defence_makes_no_picture(config: Path, cli: Cli, tmp_path: Path) -> None:
    config.write_text(CONFIG.replace('["unprotected", "laplace", "advface"]', '["unprotected"]'))
    cli("run", "--quiet")
    assert not (tmp_path / "out/main/scatter.png").exists()
    assert "nothing to compare" in cli("scatter", str(tmp_path / "out/main"), status=2).stderr


def test_labels_lie_beside_each_other(tmp_path: Path) -> None:
    run = Run(tmp_path)
    for number in range(7):
        defense = f"advface[epsilon=0.{number}]"
        acc, ssim = Measure(0.96 + number / 1000, n=9), Measure(0.42 + number / 500, n=9)
        run.write(Record(Cell("utility", "faces", "net", defense), "k", "ok", metrics={"acc": acc}))
        scores = pd.DataFrame({"name": ["a", "b"], "subject": ["a", "b"], "ssim": ssim.value})
        cell = Cell("reconstruction", "faces", "net", defense, "decode", "encoder", "template")
        run.write(Record(cell, "k", "ok", metrics={"ssim": ssim, "psnr_db": Measure(12.0 + number / 9)}), scores)
    figure = scatter(run)
    assert figure is not None
    figure.draw_without_rendering()
    for axis in figure.axes:
        boxes = [text.get_window_extent() for text in axis.texts if text.get_text()]
        assert len(boxes) == 7
        for place, box in enumerate(boxes):
            assert not any(box.overlaps(other) for other in boxes[:place])


def test_up_to_a_level_names_stand_beside_pictures(tmp_path: Path, cli: Cli) -> None:
    run = Run(tmp_path / "run")
    for number in range(14):
        defense = f"laplace[scale=0.{number:02}]" if number else "unprotected"
        run.write(
            Record(Cell("utility", "faces", "net", defense), "k", "ok", metrics={"acc": Measure(0.99 - number / 99)})
        )
        for level, leaked in (("encoder", 0.9), ("enrolment", 0.5), ("whitebox", 0.95)):
            ssim = Measure(leaked - number / 50, n=2)
            scores = pd.DataFrame({"name": ["a", "b"], "subject": ["a", "b"], "ssim": ssim.value})
            cell = Cell("reconstruction", "faces", "net", defense, f"decode@{level}", level, "template")
            run.write(Record(cell, "k", "ok", metrics={"ssim": ssim}), scores)
        for level, rank1 in (("algorithm", 0.4), ("whitebox", 0.8)):
            cell = Cell("linkage", "faces", "net", defense, f"link@{level}", level, "template")
            run.write(Record(cell, "k", "ok", metrics={"rank1": Measure(rank1 - number / 99, n=20)}))
    figure = scatter(run, "enrolment")
    assert figure is not None
    pictures, names = figure.axes
    lines = {line.get_label(): line for line in names.lines}
    assert lines["chance"].get_xdata()[0] == 1 / 20
    assert max(point for line in names.lines for point in line.get_xdata()) == 0.4, "no attack above the level"
    assert max(point for line in pictures.lines for point in line.get_xdata()) <= 0.9
    legend = names.get_legend()
    assert legend is not None and {"laplace", "unprotected"} <= {text.get_text() for text in legend.get_texts()}
    assert {text.get_text() for text in names.texts} == {"0.01", "0.13"}, "the ends of the sweep"
    assert cli("scatter", str(run.folder), "--level", "enrolment").stdout.count("scatter_enrolment") == 2
    assert "Did you mean 'enrolment'" in cli("scatter", str(run.folder), "--level", "enrollment", status=2).stderr


@pytest.mark.parametrize("place", ["nowhere"])
def test_no_run_is_said_in_one_line(config: Path, cli: Cli, place: str) -> None:
    assert "no records here" in cli("scatter", place, status=2).stderr
