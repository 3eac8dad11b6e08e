"""Values that settings may not hold, paths in them, and files in other encodings."""

import codecs
import io
import json
import sys
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import Cli

from bench.cli.console import write_any_text
from bench.datasets.lfw import Lfw
from bench.errors import DataError, UserError
from bench.settings.registry import make
from bench.settings.resolve import load
from bench.settings.values import expand, refuse_odd_values

FOREIGN = ["2024-05-01", "2024-05-01T10:00:00Z", "10:30:00", "nan", "inf", "-inf", "[1, nan]", "{a = 2024-05-01}"]


@pytest.mark.parametrize("value", FOREIGN)
@pytest.mark.parametrize(
    "place",
    ["defenses.laplace.epsilon", "datasets.blobs.version", "attacks.resrec.training.epochs", "recognizers.tiny.salt",
     "run.output", "compare.ssim", "metrics.bootstrap", "training.epochs", "paper.recognizer"],
)  # fmt: skip
def test_what_json_has_not_is_refused_by_its_place(config: Path, place: str, value: str) -> None:
    with pytest.raises(UserError, match=f"^--set {place}") as caught:
        load(config, None, [f"{place}={value}"])
    assert "\n" not in str(caught.value)
    section, _, key = place.rpartition(".")
    text = config.read_text().replace(f"[{section}]\n", f"[{section}]\n{key} = {value}\n")
    config.write_text(text if text != config.read_text() else f"{text}\n[{section}]\n{key} = {value}\n")
    with pytest.raises(UserError, match=rf"bench\.toml: ({place}|not valid TOML)") as caught:
        load(config)
    assert "\n" not in str(caught.value)


def test_the_commands_say_it_in_one_line(config: Path, cli: Cli) -> None:
    for command in (("config",), ("run", "--dry-run")):
        said = cli(*command, "--set", "datasets.blobs.version=2024-05-01", status=2)
        assert said.stderr.startswith(
            "veilbench: --set datasets.blobs.version: a date (2024-05-01) is not a valid value"
        )
        assert "put it in quotes" in said.stderr and len(said.stderr.splitlines()) == 1


def test_objects_of_other_kinds_are_refused_in_scripts_too() -> None:
    for value in (date(2024, 5, 1), {1}, object(), b"x", float("nan")):
        with pytest.raises(UserError, match=r"^here\.pairs: "):
            make(Lfw, {"images": "a", "pairs": value}, "here")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@given(json_values)
def test_whatever_json_has_is_let_through(value: object) -> None:
    refuse_odd_values(value, "x")
    json.dumps(value, allow_nan=False)


def test_home_and_variables_stand_in_every_path(config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DATA", "~/data")
    settings = load(
        config,
        None,
        [
            'run.output="~/out"', 'run.store="${DATA}/store"', 'run.cache="~"', "metrics.lpips=true",
            'metrics.lpips_backbone="~/alex.pth"', 'run.datasets=["lfw"]', 'datasets.lfw.images="${DATA}/lfw"',
            'datasets.lfw.pairs="~/pairs.txt"', 'run.mirror="~/mirror"',
        ],
    )  # fmt: skip
    home = str(tmp_path / "home")
    assert (settings.run.output, settings.run.store, settings.run.cache) == (f"{home}/out", f"{home}/data/store", home)
    assert settings.run.mirror == f"{home}/mirror" and settings.metrics.lpips_backbone == f"{home}/alex.pth"
    lfw = vars(settings.datasets["lfw"])
    assert (lfw["images"], lfw["pairs"]) == (f"{home}/data/lfw", f"{home}/pairs.txt")


def test_text_that_is_no_path_stays_and_a_null_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert expand({"a": ["x~y", 3, "a/~"]}, "x") == {"a": ["x~y", 3, "a/~"]}
    with pytest.raises(DataError, match="holds a null character"):
        expand("a\0b", "x")
    monkeypatch.delenv("NOWHERE", raising=False)
    with pytest.raises(DataError, match="x: the environment variable NOWHERE is not set"):
        expand("${NOWHERE}/a", "x")


def test_a_run_in_the_home_folder_by_setting_and_by_option(config: Path, cli: Cli, tmp_path: Path) -> None:
    few = ("run", "-q", "--set", 'run.defenses=["unprotected"]', "--set", 'run.attacks=["mean_face"]')
    cli(*few, "--set", 'run.output="~/one"', HOME=str(tmp_path / "home"))
    cli(*few, "--output=~/two", HOME=str(tmp_path / "home"))
    for name in ("one", "two"):
        assert (tmp_path / "home" / name / "leaderboard.md").is_file()
    assert not Path("~").exists()
    assert "unprotected" in cli("leaderboard", "~/one", HOME=str(tmp_path / "home")).stdout


def test_settings_with_a_byte_order_mark_and_in_other_encodings(config: Path) -> None:
    text = config.read_text()
    config.write_bytes(codecs.BOM_UTF8 + text.encode().replace(b"\n", b"\r\n"))
    assert load(config).run.output == "out/main"
    for encoding, said in (("utf-16", "encoded as UTF-16; save it as UTF-8"), ("utf-32", "UTF-32")):
        config.write_bytes(text.encode(encoding))
        with pytest.raises(UserError, match=said):
            load(config)
    config.write_bytes(text.encode() + "# é\n".encode("latin-1"))
    with pytest.raises(UserError, match=r"bench\.toml:\d+: not UTF-8 \(byte 0xe9\)"):
        load(config)


@pytest.mark.parametrize(
    "setting", ["run.seeds=[0, 0]", 'run.defenses=["laplace","laplace"]', 'run.attacks=["mean_face","mean_face"]',
                'run.datasets=["Blobs","Blobs"]', 'run.recognizers=["tiny","tiny"]'],
)  # fmt: skip
def test_what_stands_twice_in_a_list_is_refused(config: Path, setting: str) -> None:
    twice = {
        "seeds": "0",
        "defenses": "'laplace'",
        "attacks": "'mean_face'",
        "datasets": "'Blobs'",
        "recognizers": "'tiny'",
    }
    place = setting.partition("=")[0]
    with pytest.raises(UserError, match=f"bench.toml: {place}: {twice[place[4:]]} is listed twice$"):
        load(config, None, [setting])


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "utf-8", "latin-1", "cp437"])
def test_text_is_printed_whatever_signs_the_console_has(monkeypatch: pytest.MonkeyPatch, encoding: str) -> None:
    buffer = io.BytesIO()
    stream = io.TextIOWrapper(buffer, encoding=encoding)
    monkeypatch.setattr(sys, "stdout", stream)
    write_any_text()
    print("ACC ↑, SSIM ↓ ≥ .5 ± 1 – José 漢")
    stream.flush()
    told = buffer.getvalue().decode(encoding)
    assert told.startswith("ACC ↑, SSIM ↓" if encoding == "utf-8" else "ACC ^, SSIM v")
    assert "Jos" in told


def test_a_leaderboard_into_a_file_of_an_old_encoding(config: Path, cli: Cli) -> None:
    cli("run", "-q", "--set", 'run.defenses=["unprotected"]', "--set", 'run.attacks=["mean_face"]')
    said = cli("leaderboard", "out/main", PYTHONIOENCODING="latin-1")  # click itself takes ascii for UTF-8
    assert "ACC ^" in said.stdout and "SSIM" in said.stdout and said.stderr == ""
