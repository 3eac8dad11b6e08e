"""The report page: whole, safe with hostile names, and usable in a browser with a mouse, a keyboard and a phone."""

import json
import os
import re
import shutil
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from support import Cli

from bench.analysis.flags import meaning
from bench.errors import DataError
from bench.report.page import write_page
from bench.storage.records import Cell, Measure, Record, Run

PEOPLE = [f"p{i}" for i in range(4)]
HOSTILE = '<img src=x onerror="alert(1)">'
DEFENSES = {"unprotected": (0.95, 0.98), "mist": (0.6, 0.97), HOSTILE: (0.3, 0.9)}


def _rebuilt(run: Run, defense: str, attack: str, level: str, ssim: float) -> None:
    cell = Cell("reconstruction", "faces", "net", defense, attack, level, "template")
    scores = pd.DataFrame({"name": PEOPLE, "subject": PEOPLE, "ssim": ssim, "psnr_db": 30 * ssim})
    metrics = {"ssim": Measure(ssim, ssim - 0.02, ssim + 0.02, 4), "psnr_db": Measure(30 * ssim, 5, 30, 4)}
    metrics["lpips"] = Measure(None, note="unavailable: no backbone")
    pictures = np.full((4, 16, 12, 3), int(200 * ssim), dtype=np.uint8)
    samples = {"original": pictures // 2, "reconstruction": pictures, "name": np.array(PEOPLE)}
    flags = ("attack not converged", "an unheard-of flag") if level == "encoder" else ()
    run.write(Record(cell, "k" * 64, "ok", metrics=metrics, flags=flags), scores, samples)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """Three defences, an attack at two levels, a failure, and names that a page must not believe."""
    run = Run(tmp_path_factory.mktemp("run"))
    for defense, (leaked, accuracy) in DEFENSES.items():
        metrics = {"acc": Measure(accuracy, accuracy - 0.02, accuracy + 0.01, 600)}
        provenance = {"versions": {"torch": "2.99"}, "machine": "abacus"}
        cell = Cell("utility", "faces", "net", defense)
        run.write(Record(cell, "k" * 64, "ok", metrics=metrics, provenance=provenance, time_s=90))
        _rebuilt(run, defense, "grey", "blind", 0.25)
        _rebuilt(run, defense, "decode", "encoder", leaked)
        if defense != "mist":
            _rebuilt(run, defense, "decode@enrolment", "enrolment", leaked + 0.01)
    cell = Cell("reconstruction", "faces", "net", "mist", "decode@enrolment", "enrolment", "template")
    run.write(Record(cell, "k" * 64, "error", reason=f"ValueError: {HOSTILE}", traceback="line </script> 1"))
    return run


@pytest.fixture(scope="module")
def page(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_page(run, tmp_path_factory.mktemp("page"))


class _Elements(HTMLParser):
    """Every element with its attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_the_folder_is_whole_and_asks_for_nothing_from_elsewhere(page: Path) -> None:
    elements = _Elements(page.read_text()).found
    asked = [v for _, attributes in elements for k, v in attributes.items() if k in ("src", "srcset", "href") and v]
    for place in asked:
        assert place.startswith(("#", "data:")) or (page.parent / place).is_file(), place
    assert not re.search(r"(?i)@import|url\(|https?:", page.read_text())
    pictures = [attributes for tag, attributes in elements if tag == "img"]
    assert len(pictures) > 8 and all(attributes.get("alt") for attributes in pictures)
    used = {Path(place).name for place in asked}
    assert {p.name for p in page.parent.iterdir()} - {"index.html"} <= used, "nothing lies there unused"


def test_names_and_messages_stay_text(page: Path) -> None:
    elements = _Elements(page.read_text()).found
    assert not [attributes for _, attributes in elements if "onerror" in attributes]
    assert [tag for tag, _ in elements].count("script") == 1
    assert page.read_text().count("&lt;img src=x") >= 3, "in tables, in the grids, and as the error's reason"


def test_the_verdict_comes_first(page: Path, run: Run) -> None:
    text = page.read_text()
    places = [text.index(said) for said in ("does not hide the face", "SSIM, encoder ↓", "All columns", "oracle bound")]
    assert places == sorted(places)
    assert "<strong>.980</strong>" in text, "the best accuracy"
    assert "12 cells; 4 min in the cells themselves" in text, "what the time is, where no call noted its own"


def test_the_time_is_what_the_calls_took(run: Run, tmp_path: Path) -> None:
    copied = Run(tmp_path / "run")
    shutil.copytree(run.folder, copied.folder)
    with pytest.raises(KeyboardInterrupt), copied.timed(2):
        raise KeyboardInterrupt
    (copied.folder / "time.json").write_text(json.dumps([{"wall_s": 600.5, "workers": 2}, *copied.times()]))
    assert "10 min of wall-clock time in 2 calls on 2 workers" in write_page(copied, tmp_path / "page").read_text()
    (copied.folder / "time.json").write_text("{")
    assert copied.times() == []


def test_what_was_found_is_said(page: Path) -> None:
    text = page.read_text()
    for said in ("torch", "2.99", "abacus", "ValueError", "unavailable: no backbone", "[.930, .970]", "k" * 16):
        assert said in text, said
    assert "was still improving" in text and "No explanation is known of this flag" in text
    assert not meaning("an unheard-of flag") and "seeded" in meaning("batch-coupled defence")


def test_a_smaller_run_leaves_no_pictures_of_the_larger(run: Run, tmp_path: Path) -> None:
    small = Run(tmp_path / "small")
    _rebuilt(small, "mist", "decode", "encoder", 0.5)
    folder = tmp_path / "page"
    write_page(run, folder)
    (folder / "strip-notes.webp").write_text("mine")
    write_page(small, folder)
    assert {p.name for p in folder.glob("strip-*")} == {"strip-0.webp", "strip-1.webp", "strip-notes.webp"}
    assert not (folder / "scatter.svg").exists()


def test_the_command(run: Run, tmp_path: Path, cli: Cli) -> None:
    printed = cli("report", str(run.folder), "-o", str(tmp_path / "page")).stdout.strip()
    assert Path(printed) == tmp_path / "page" / "index.html" and Path(printed).is_file()


def test_no_run_is_an_error_and_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no records here"):
        write_page(Run(tmp_path / "nowhere"), tmp_path / "page")
    assert not (tmp_path / "page").exists()


# ------------------------------------------------------------------------------------------------- in a browser


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Whatever Chromium this machine has."""
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright")
    names = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
    path = next(filter(None, map(shutil.which, names)), None)
    if path is None:
        pytest.skip("needs Chromium: apt-get install chromium")
    with playwright.sync_playwright() as play:
        rootless = [] if os.geteuid() else ["--no-sandbox"]  # Chromium's sandbox refuses root; the page is our own
        chromium = play.chromium.launch(executable_path=path, args=rootless)
        yield chromium
        chromium.close()


@pytest.fixture
def opened(browser: Any, page: Path) -> Iterator[Any]:
    """The page, open; fails the test where the browser complained."""
    complaints: list[str] = []
    tab = browser.new_page()
    tab.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    tab.on("pageerror", lambda error: complaints.append(str(error)))
    tab.on("requestfailed", lambda request: complaints.append(f"failed: {request.url}"))
    tab.goto(page.as_uri())
    yield tab
    tab.close()
    assert complaints == []


def _column(tab: Any, number: int) -> list[str]:
    found: list[str] = tab.locator(
        f"#all-columns table.sortable >> nth=0 >> tbody >> tr >> :nth-child({number}):is(th, td)"
    ).evaluate_all("cells => cells.map(cell => cell.firstChild.textContent.trim())")
    return found


def test_a_heading_sorts_by_click_and_by_keyboard(opened: Any) -> None:
    opened.get_by_text("All columns", exact=True).click()
    heading = opened.locator("#all-columns table.sortable").first.locator("th", has_text="ACC ↑")
    heading.get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "ascending" and _column(opened, 3) == [".900", ".970", ".980"]
    heading.get_by_role("button").focus()
    opened.keyboard.press("Enter")
    assert heading.get_attribute("aria-sort") == "descending" and _column(opened, 3) == [".980", ".970", ".900"]
    assert "ACC ↑, descending" in opened.locator("#said").text_content()
    opened.locator("#all-columns table.sortable").first.locator("th", has_text="defence").get_by_role("button").click()
    assert heading.get_attribute("aria-sort") == "none" and _column(opened, 1)[1:] == ["mist", "unprotected"]
    bound = opened.locator("#all-columns table.sortable").first.locator("th", has_text="oracle bound")
    for _ in range(2):  # what is missing stands last, whichever way round
        bound.get_by_role("button").click()
        assert _column(opened, 1)[-1] == "mist"


def test_the_switches_choose_level_defence_and_attack(opened: Any) -> None:
    def shown() -> list[str]:
        strips = opened.locator(".gallery:not([hidden]) .strip[data-level]:not([hidden])")
        found: list[str] = strips.evaluate_all("all => all.map(s => `${s.dataset.attack} ${s.dataset.level}`)")
        return found

    assert len(shown()) == 9
    opened.get_by_label("encoder", exact=True).focus()
    opened.keyboard.press("Space")
    assert shown() == ["decode encoder"] * 3
    opened.keyboard.press("ArrowRight")
    assert shown() == ["decode enrolment"] * 3
    opened.get_by_label("all levels").check()
    opened.get_by_role("combobox", name="Attack").select_option("decode")
    opened.get_by_role("combobox", name="Defence").select_option(HOSTILE)
    assert shown() == ["decode encoder", "decode enrolment"]
    opened.get_by_label("blind", exact=True).check()
    assert shown() == [] and opened.locator("#shown").text_content() == "0 shown"


def test_the_verdict_fits_an_ordinary_screen(browser: Any, page: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 800})
    tab.goto(page.as_uri())
    table = tab.locator(".wide").first
    assert table.evaluate("place => place.scrollWidth <= place.clientWidth"), "nothing is cut off"
    tab.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_it_fits_a_phone_in_either_light(browser: Any, page: Path, scheme: str) -> None:
    context = browser.new_context(color_scheme=scheme, viewport={"width": 360, "height": 740})
    tab = context.new_page()
    tab.goto(page.as_uri())
    assert tab.evaluate("document.documentElement.scrollWidth") <= 360
    picture = tab.locator("#scatter ~ figure img").first
    picture.scroll_into_view_if_needed()
    assert tab.evaluate("i => i.currentSrc", picture.element_handle()).endswith("-dark.svg") == (scheme == "dark")
    ground = tab.evaluate("getComputedStyle(document.body).backgroundColor")
    assert ground == {"light": "rgb(254, 254, 254)", "dark": "rgb(21, 24, 29)"}[scheme]
    assert tab.evaluate("[...document.images].filter(i => i.complete && !i.naturalWidth).length") == 0
    context.close()
