"""From a file of one's own to a verdict: `veilbench try`, `list` and `show`."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest
from pydantic import TypeAdapter
from support import CONFIG, Cli

from bench.cli.scaffold import scaffold
from bench.errors import UserError
from bench.labels import KINDS, PluginKind
from bench.settings import registry
from bench.settings.describe import Description, describe, schema
from bench.settings.toml import default_path
from bench.settings.trial import as_toml, save, trial

QUICK = """
[profile.quick.run]
defenses = ["unprotected", "laplace"]
attacks = ["mean_face", "resrec"]
[profile.quick.attacks."resrec@algorithm"]
adaptation = { epochs = 1 }
[profile.quick.attacks."resrec@enrolment"]
adaptation = { epochs = 1 }
"""


@pytest.fixture
def settings(config: Path) -> Path:
    config.write_text(CONFIG.replace("[metrics]", "replay = true\n\n[metrics]") + QUICK)
    config.with_name("before.toml").write_text(config.read_text())
    return config


def test_a_defence_of_ones_own_gets_a_verdict_and_stays(settings: Path, cli: Cli, tmp_path: Path) -> None:
    scaffold("defense", "mist", tmp_path)
    said = cli("try", "mist.py", "--param", "sigma=0.3", "--save").stdout
    assert "keeps its contract" in said and "beside unprotected, laplace, profile quick" in said
    assert "mist" in said.partition("floor:")[2], "a sentence"
    text = settings.read_text()
    assert text.startswith(settings.with_name("before.toml").read_text().rstrip()), "what stood there stands"
    assert tomllib.loads(text)["defenses"]["mist"] == {"plugin": "mist.py", "sigma": 0.3}
    again = cli("run", "--profile", "mist", "--json").stdout
    assert json.loads(again)["done"] == 0 and json.loads(again)["kept"] > 12, "the lines are the trial"
    assert "resrec@enrolment" in (tmp_path / "results/mist/leaderboard.md").read_text()
    planned = trial("mist.py", settings, "quick", parameters={"sigma": 0.5})
    assert (planned.label, planned.section) == ("mist", {"sigma": 0.5}), "what is saved is known by its place"


def test_an_attack_stands_beside_its_rival_and_faces_the_canaries(settings: Path, cli: Cli, tmp_path: Path) -> None:
    scaffold("attack", "mixer", tmp_path)
    said = cli("try", "mixer.py", "--param", "faces=40", "--no-check").stdout
    assert "beside resrec" in said and "floor" in said
    assert any(f"resrec on {word}" in said for word in ("unprotected", "laplace"))
    assert "VOID" in said or "passed every trial" in said


def test_what_breaks_its_contract_is_not_run(settings: Path, cli: Cli, tmp_path: Path) -> None:
    path = scaffold("defense", "mist", tmp_path)
    path.write_text(path.read_text().replace("rng.normal(features)", "rng.normal(features)[:1]"))
    text = path.read_text().replace("return features +", "features += 1.0\n        return features +")
    path.write_text(text)
    done = cli("try", "mist.py", status=1)
    assert "FAIL  inputs untouched" in done.stdout and "breaks its contract" in done.stderr
    assert not (tmp_path / "results").exists()


def test_a_class_of_an_installed_package_is_named_by_its_place(settings: Path, cli: Cli, tmp_path: Path) -> None:
    place = tmp_path / "site" / "veils"
    place.mkdir(parents=True)
    (place / "__init__.py").touch()
    scaffold("defense", "GreyVeil", place)
    path = f"{tmp_path / 'site'}:{Path(__file__).parents[2]}"
    said = cli("show", "veils.GreyVeil:GreyVeil", "--no-cost", PYTHONPATH=path).stdout
    assert "sigma" in said and "standard deviation of the noise" in said
    planned = cli("config", "--set", 'defenses.grey.plugin="veils.GreyVeil:GreyVeil"', "--set",
                  'run.defenses=["grey"]', "--json", PYTHONPATH=path)  # fmt: skip
    assert json.loads(planned.stdout)["defenses"]["grey"] == {"sigma": 0.1}
    assert "Did you mean 'GreyVeil'" in cli("show", "veils.GreyVeil:GreyVail", status=2, PYTHONPATH=path).stderr
    with pytest.raises(UserError, match="cannot be imported"):
        registry.find_kind("vails:GreyVeil", None, "show")


@pytest.mark.parametrize(
    ("kind", "wanted"),
    [
        ("defense", {"defenses": ["unprotected", "laplace", "mine"]}),
        ("attack", {"canaries": True, "attacks": ["mean_face", "resrec", "mine"]}),
        ("dataset", {"datasets": ["synthetic-frontal", "mine"], "defenses": ["unprotected", "laplace"]}),
        ("recognizer", {"recognizers": ["compact", "mine"], "attacks": ["mean_face", "resrec"]}),
    ],
)
def test_the_standard_set_of_the_shipped_settings(kind: PluginKind, wanted: dict[str, object], tmp_path: Path) -> None:
    path = scaffold(kind, "mine", tmp_path)
    planned = trial(str(path), default_path(), "quick")
    assert {name: planned.run[name] for name in wanted} == wanted
    written = tmp_path / "bench.toml"
    save(planned, default_path(), written)
    found = tomllib.loads(written.read_text())
    assert found["profile"]["mine"]["extends"] == "quick" and found["profile"]["quick"], "a copy of the shipped ones"
    with pytest.raises(UserError, match="already"):
        save(planned, default_path(), written)


def test_a_file_that_is_called_like_a_built_in_gets_a_label_of_its_own(tmp_path: Path) -> None:
    path = scaffold("defense", "laplace", tmp_path)
    mixed = trial("best_of", default_path(), "quick").run["attacks"]
    assert mixed[-1] == "best_of" and {"resrec", "resrec_noisy"} <= set(mixed), "with the attacks that it chooses from"
    assert trial("picture_linkage", default_path(), "quick").label == "picture_linkage", "and none of its controls"
    assert trial(str(path), default_path(), "quick").label == "my_laplace"
    assert trial("laplace", default_path(), "quick").section == {}
    assert as_toml({"a b": [1, "ü\n", True]}) == '{ "a b" = [1, "ü\\n", true] }'
    with pytest.raises(UserError, match="cannot be written"):
        as_toml([None])


@pytest.mark.parametrize("kind", KINDS)
def test_every_parameter_of_every_plugin_says_what_it_means(kind: PluginKind) -> None:
    for name in registry.names(kind):
        plugin = describe(kind, name)
        assert plugin.summary and plugin.source, name
        assert not [p.name for p in plugin.parameters if not p.meaning], name
        assert TypeAdapter(Description).validate_json(json.dumps(plugin.as_dict())) == plugin


def test_what_there_is_in_a_line_each_and_one_in_full(cli: Cli, tmp_path: Path) -> None:
    lines = cli("list").stdout.splitlines()
    assert len(lines) < 110
    (line,) = (line for line in lines if line.split()[:1] == ["resrec"])
    assert "encoder, algorithm, enrolment" in line
    everything = json.loads(cli("list", "--json").stdout)
    advface = next(plugin for plugin in everything if plugin["name"] == "advface")
    (shadow,) = (p for p in advface["parameters"] if p["name"] == "shadow")
    assert (shadow["choices"], shadow["default"], shadow["type"]) == (["trans", "res", "unet"], "res", "str")
    assert {p["name"]: p["default"] for p in advface["parameters"]}["training.epochs"] == 10
    assert set(schema()["items"].get("properties") or schema()["$defs"]["Description"]["properties"]) == set(advface)
    said = cli("show", "laplace").stdout
    for wanted in (
        "Laplace noise, the AdvFace paper's",
        "fixed | minmax | channel | clipped",
        "needs hardly any training; ",
        "in profile quick",
    ):
        assert wanted in said, wanted
