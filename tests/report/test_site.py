"""The public leaderboard's pages: whole, safe with hostile names, usable by keyboard and on a phone."""

import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from support import ROOT, Cli

from bench.analysis.submission import export, unpacked, verify
from bench.errors import UserError
from bench.report.site.findings import findings
from bench.report.site.pages import write_site
from bench.storage.command import Command, note_command, read_command
from bench.storage.records import Cell, Measure, Record, Run

PEOPLE = [f"p{i}" for i in range(6)]
HOSTILE = '<img src=x onerror="alert(1)">'
ARCHIVES = sorted((ROOT / "results" / "leaderboard").glob("*.zip"))


def _measures(**values: float) -> dict[str, Measure]:
    return {name: Measure(value, value - 0.02, value + 0.02, 6) for name, value in values.items()}


def _run(folder: Path, dataset: str, command: Command) -> Run:
    run = Run(folder)
    for defense, leaked in (("unprotected", 0.95), ("veil", 0.4), ("split[channels=3]", 0.5), (HOSTILE, 0.6)):
        for attack, level, ssim in (("grey", "blind", 0.3), ("decode", "encoder", leaked)):
            cell = Cell("reconstruction", dataset, "net", defense, attack, level, "template")
            scores = pd.DataFrame({"name": PEOPLE, "subject": PEOPLE, "ssim": ssim})
            info = {"judge": "second"} if dataset == "faces" else {}
            parameters = {"defense": {"strength": leaked}, "attack": {}}
            run.write(Record(cell, "k", "ok", metrics=_measures(ssim=ssim), info=info, parameters=parameters), scores)
        info = {"stores_features": True} if defense == "unprotected" else {}
        cell = Cell("utility", dataset, "net", defense)
        run.write(Record(cell, "k", "ok", metrics=_measures(acc=0.9), info=info), scores)
    keyed = _measures(acc_normal=0.99, acc_stolen=0.9, acc_plain=0.9)
    run.write(
        Record(Cell("protection", dataset, "net", "hash"), "k", "ok", metrics=keyed, info={"keys": "person"}), scores
    )
    note_command(folder, command)
    return run


@pytest.fixture(scope="module")
def archives(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("archives")
    told = Command(
        "small", ("run.images=6", "run.store=/here"), {"run": {"images": 6}}, {"split[channels=3]": "frequency"}
    )
    one = export(_run(folder / "one", "faces", told), folder / "one.zip")
    return [one, export(_run(folder / "two", "others", Command()), folder / "two.zip")]


@pytest.fixture(scope="module")
def pages(archives: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_site(archives, tmp_path_factory.mktemp("site"), ROOT / "docs").parent


def test_every_link_leads_somewhere_and_nothing_is_fetched(pages: Path) -> None:
    texts = {path.name: path.read_text() for path in pages.glob("*.html")}
    assert {"index.html", "features.html", "frequency.html", "templates.html", "submit.html", "limits.html"} < {*texts}
    for name, text in texts.items():
        assert not re.search(r"(?i)@import|url\(|https?:|<img", text), name
        for link in re.findall(r'href="([^"]*)"', text):
            file, _, anchor = link.partition("#")
            if file != "data:,":
                assert not anchor or f'id="{anchor}"' in texts[file or name], f"{name}: {link}"
                assert not file or file in texts, f"{name}: {link}"


def test_rows_stand_on_the_page_of_their_family_and_link_to_what_is_behind_them(pages: Path) -> None:
    features, split = (pages / "features.html").read_text(), (pages / "frequency.html").read_text()
    assert (
        'data-dataset="faces"' in features
        and ">veil<" in features
        and "split[" not in re.sub("hash", "", features.split("two.zip")[0])
    )
    assert "split[channels=3]" in split and 'data-dataset="others"' not in split, "two.zip did not name its families"
    assert ">hash<" in (pages / "templates.html").read_text()
    own = (pages / "defence--veil.html").read_text()
    for said in (
        "veilbench run --profile small --set run.images=6",
        "Level ladder",
        "[.380, .420]",
        "&#34;strength&#34;: 0.4",
    ):
        assert said in own, said
    assert "/here" not in own, "where one machine keeps its artefacts is of no use to others"
    assert "AdvFace" in " ".join(f.said for f in findings([ROOT / "docs" / "findings.md"], "advface[epsilon=0.1]"))
    assert not findings([ROOT / "docs" / "findings.md", ROOT / "nowhere.md"], "unheard_of")


def test_names_stay_text(pages: Path) -> None:
    for path in pages.glob("*.html"):
        assert "<img" not in path.read_text()
    assert "&lt;img src=x" in (pages / "features.html").read_text()


def test_what_was_not_tested_is_said(pages: Path) -> None:
    limits = (pages / "limits.html").read_text()
    for said in ("no attack ran at the levels", "algorithm", "no judge", "two.zip", "one seed only", "void", "≥"):
        assert said in limits, said


def test_old_pages_go_and_names_are_unique(archives: list[Path], tmp_path: Path) -> None:
    write_site(archives, tmp_path, tmp_path)
    (tmp_path / "defence--gone.html").write_text("old")
    write_site(archives[:1], tmp_path, tmp_path)
    assert not (tmp_path / "defence--gone.html").exists() and (tmp_path / "defence--veil.html").exists()
    with pytest.raises(UserError, match=r"two archives are called one\.zip"):
        write_site([archives[0], archives[0]], tmp_path, tmp_path)


@pytest.mark.parametrize("path", ARCHIVES, ids=lambda path: path.stem)
def test_the_committed_archives_are_sound(path: Path) -> None:
    assert verify(path) == []
    with unpacked(path) as run:
        assert read_command(run.folder), "it says how to repeat it"
        for file in run.folder.rglob("*.json"):
            assert not re.search(r'"/\w+/', file.read_text()), f"{file.name} names a folder of somebody's machine"


def test_the_committed_leaderboard_is_small_and_builds(cli: Cli, tmp_path: Path) -> None:
    assert ARCHIVES and sum(path.stat().st_size for path in ARCHIVES) < 20e6
    printed = cli("site", *map(str, ARCHIVES), "-o", str(tmp_path / "site")).stdout.strip()
    assert Path(printed) == tmp_path / "site" / "index.html"


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as play:
        chromium = play.chromium.launch(executable_path=path, args=["--no-sandbox"])
        yield chromium
        chromium.close()


def test_filters_and_headings_work_by_keyboard(browser: Any, pages: Path) -> None:
    tab = browser.new_page()
    complaints: list[str] = []
    tab.on("console", lambda message: complaints.append(message.text))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.goto((pages / "features.html").as_uri())

    def shown() -> list[str]:
        rows = tab.locator("#board tbody tr:not([hidden])")
        found: list[str] = rows.evaluate_all("all => all.map(r => `${r.cells[0].innerText} ${r.dataset.dataset}`)")
        return found

    assert len(shown()) == 7, "four in two.zip, and three in one.zip, whose split is of another family"
    tab.get_by_label("Set").focus()
    tab.keyboard.press("ArrowDown")
    assert {text.split()[-1] for text in shown()} == {"faces"}
    heading = tab.locator("#board th", has_text="SSIM, encoder")
    heading.get_by_role("button").focus()
    tab.keyboard.press("Enter")
    assert [text.split()[0] for text in shown()] == ["veil", "<img", "unprotected"]
    tab.get_by_role("button", name="Show all").press("Enter")
    # Not wait_for_function, which polls by eval, and the page's content security policy refuses that.
    tab.locator("#left", has_text="7 of 7 rows").wait_for()
    tab.get_by_label("Level").select_option("encoder")
    assert len(shown()) == 7 and heading.is_visible()
    tab.close()
    assert complaints == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_page_is_wider_than_a_phone(browser: Any, pages: Path, scheme: str) -> None:
    context = browser.new_context(
        color_scheme=scheme, viewport={"width": 360, "height": 740}, java_script_enabled=False
    )
    tab = context.new_page()
    for name in ("index", "features", "templates", "defence--veil", "limits"):
        tab.goto((pages / f"{name}.html").as_uri())
        assert tab.locator("html").evaluate("e => e.scrollWidth") <= 360, name
    ground = tab.locator("body").evaluate("e => getComputedStyle(e).backgroundColor")
    assert ground == {"light": "rgb(254, 254, 254)", "dark": "rgb(21, 24, 29)"}[scheme]
    context.close()


def test_settings_of_a_run_are_read_with_care(tmp_path: Path) -> None:
    assert read_command(tmp_path) is None
    (tmp_path / "settings.json").write_text(
        json.dumps({"profile": "x", "overrides": [], "settings": [], "families": {}})
    )
    with pytest.raises(UserError, match="not the settings of a run"):
        read_command(tmp_path)
