"""Mistakes in the settings: each is one clear line that says where and what to do, exit status 2, no traceback."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support import CONFIG, TOYS, Cli

from bench.errors import UserError
from bench.settings import resolve as settings
from bench.settings import toml
from bench.storage.keys import source_hash


def _load(path: Path, *overrides: str, profile: str | None = None) -> settings.Settings:
    return settings.load(path, profile, overrides)


MISTAKES = [
    ('run.defenses=["unprotected","advfaec"]', "bench.toml: unknown defence 'advfaec'. Did you mean 'advface'?"),
    ('run.attacks=["resrce"]', "unknown attack 'resrce'. Did you mean 'resrec'?"),
    ('run.datasets=["nowhere.py"]', "there is no file 'nowhere.py'"),
    ("run.sedes=[1]", "bench.toml: [run] unknown key 'sedes'. Did you mean 'seeds'?"),
    ("metrics.bootstrp=200", "[metrics] unknown key 'bootstrp'. Did you mean 'bootstrap'?"),
    ("runn.seeds=[1]", "unknown key 'runn'. Did you mean 'run'?"),
    ("defenses.advface.epsilonn=0.1", "[defenses.advface]: unknown parameter 'epsilonn'. Did you mean 'epsilon'?"),
    ("attacks.resrec.training.epoch=1", "[attacks.resrec].training: unknown parameter 'epoch'. Did you mean 'epochs'?"),
    ("defenses.advface.bound='sum'", "[defenses.advface].bound: Input should be 'total' or 'step' (got 'sum')"),
    ("defenses.advface.iterations='many'", "[defenses.advface].iterations: Input should be a valid integer"),
    ("defenses.advface.epsilon=-1", "must be at least 0"),
    ("defenses.laplace.budget=0", "budget and radius must be above 0"),
    ("training.epochs=0", "must be at least 1"),
    ("defenses.advface.sweep=[1]", "a sweep is a list of values for a parameter"),
    ("attacks.replay.attack='urec'", "attack = 'urec' is not among run.attacks"),
    ("run.seeds=[]", "run.seeds: list should have at least 1 item"),
    ("run.images='all'", "run.images: input should be a valid integer"),
    ("run.device='abacus'", "unknown device 'abacus'"),
    ("run.device='cuda:99'", "cuda"),
    ("run.public_defender='moon'", "unknown dataset 'moon'"),
    ("defenses.advfaec.epsilon=0.1", "nothing in this run is called defenses.advfaec. Did you mean 'advface'?"),
    ('attacks."resrec@enrolmnt".width=8', "nothing in this run is called attacks.resrec@enrolmnt."),
    ("nonsense", "write it as section.name.parameter=value"),
]


@pytest.mark.parametrize(("override", "expected"), MISTAKES, ids=[m[0][:40] for m in MISTAKES])
def test_a_mistake_is_named_with_its_place_and_near_miss(config: Path, override: str, expected: str) -> None:
    from bench.plan import plan

    with pytest.raises(UserError) as caught:
        plan(_load(config, override))
    message = str(caught.value)
    assert expected in message
    assert "\n" not in message


def test_a_name_in_quotes_may_have_dots_and_levels(config: Path) -> None:
    found = _load(config, 'run.attacks=["resrec", "resrec@enrolment"]', 'attacks."resrec@enrolment".width=12')
    assert (found.attacks["resrec"].width, found.attacks["resrec@enrolment"].width) != (12, 12)
    assert found.attacks["resrec@enrolment"].width == 12
    swept = _load(config, "defenses.'advface'.sweep.epsilon=[0.1]")
    assert "advface[epsilon=0.1]" in swept.defenses


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("run", "--set", 'run.defenses=["advfaec"]'), "Did you mean 'advface'?"),
        (("run", "--profile", "lwf"), "unknown profile 'lwf'"),
        (("run", "--config", "none.toml"), "none.toml: cannot be read"),
        (("run", "--output", "bench.toml/out"), "cannot write here"),
        (("run", "--set", "run.store='bench.toml/store'"), "cannot write here"),
        (("rnu",), "unknown command 'rnu'. Did you mean 'run'?"),
        (("leaderboard", "nowhere"), "no records here"),
        (("heatmap", "nowhere", "--metric", "ssmi"), "Did you mean 'ssim'?"),
    ],
)
def test_the_command_line_says_so_in_one_line(
    config: Path, cli: Cli, arguments: tuple[str, ...], expected: str
) -> None:
    done = cli(*arguments, status=2)
    assert expected in done.stderr
    assert "Traceback" not in done.stderr
    assert not done.stdout


def test_broken_toml_names_the_line(config: Path) -> None:
    config.write_text("[run\n")
    with pytest.raises(UserError, match=r"not valid TOML.*line 1"):
        _load(config)


def test_a_missing_variable_is_named_where_it_is_used_and_nowhere_else(
    config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VEILBENCH_DATA", raising=False)
    config.write_text(CONFIG + '\n[datasets.lfw]\nimages = "${VEILBENCH_DATA}/a"\npairs = "b"\n')
    assert "blobs" in _load(config).datasets
    with pytest.raises(UserError, match=r"\[datasets.lfw\]: the environment variable VEILBENCH_DATA is not set"):
        _load(config, 'run.datasets=["lfw"]')
    monkeypatch.setenv("VEILBENCH_DATA", "/somewhere")
    assert _load(config, 'run.datasets=["lfw"]').datasets["lfw"].images == "/somewhere/a"  # type: ignore[attr-defined]


def test_profiles_overlay_extend_and_never_circle(config: Path) -> None:
    config.write_text(
        CONFIG
        + """
[profile.small.run]
seeds = [3]
[profile.small.defenses.advface]
iterations = 1
[profile.smaller]
extends = "small"
[profile.smaller.run]
images = 8
[profile.left]
extends = "right"
[profile.right]
extends = "left"
"""
    )
    resolved = _load(config, profile="smaller")
    assert resolved.run.seeds == [3]
    assert resolved.run.images == 8
    assert resolved.defenses["advface"].iterations == 1  # type: ignore[attr-defined]
    assert resolved.defenses["advface"].batch == 8  # type: ignore[attr-defined]
    with pytest.raises(UserError, match="cycle: left -> right -> left"):
        _load(config, profile="left")


def test_training_overlays_a_plugins_own_default_field_by_field(config: Path) -> None:
    attacks = _load(config, 'run.attacks=["transrec","resrec","replay"]', "attacks.resrec.training.epochs=7").attacks
    assert attacks["transrec"].training.epochs == 2  # type: ignore[attr-defined]
    assert attacks["transrec"].training.learning_rate == 1e-2  # type: ignore[attr-defined]
    assert attacks["resrec"].training.epochs == 7  # type: ignore[attr-defined]


def test_a_sweep_multiplies(config: Path) -> None:
    found = _load(config, "defenses.advface.sweep={epsilon=[0.1,0.2],bn=['batch','frozen']}").defenses
    labels = [label for label in found if label.startswith("advface")]
    assert labels == [
        "advface[epsilon=0.1,bn=batch]",
        "advface[epsilon=0.1,bn=frozen]",
        "advface[epsilon=0.2,bn=batch]",
        "advface[epsilon=0.2,bn=frozen]",
    ]


@given(st.floats(min_value=0, max_value=1e6, allow_nan=False))
def test_an_override_arrives_as_the_number_that_was_typed(value: float) -> None:
    assert toml._parse_override(f"a.b={value!r}") == {"a": {"b": value}}


def test_config_prints_what_would_be_run(config: Path, cli: Cli) -> None:
    shown = json.loads(cli("config", "--json", "--set", "defenses.advface.epsilon=0.1").stdout)
    assert shown["defenses"]["advface"]["epsilon"] == 0.1
    assert shown["attacks"]["resrec"]["training"]["epochs"] == 2
    assert "epsilon = 0.1" in cli("config", "--set", "defenses.advface.epsilon=0.1").stdout


def test_list_shows_every_plugin_with_its_defaults(config: Path, cli: Cli) -> None:
    listed = json.loads(cli("list", "--json").stdout)
    shown: dict[str, dict[str, dict[str, object]]] = {}
    for plugin in listed:
        shown.setdefault(plugin["kind"], {})[plugin["name"]] = plugin
    defaults = {(p["name"], one["name"]): one for p in listed for one in p["parameters"]}
    assert set(shown["defense"]) >= {"unprotected", "random_noise", "laplace", "advface"}
    assert set(shown["attack"]) >= {"blind", "transrec", "resrec", "urec", "replay"}
    assert set(shown["dataset"]) >= {
        "lfw",
        "cfp",
        "crosslfw",
        "insightface",
        "folder",
        "recordio",
        "parquet",
        "shards",
        "synthetic",
    }
    assert set(shown["recognizer"]) >= {"compact", "facenet", "mobilefacenet", "onnx", "module", "embedder", "frbench"}
    assert defaults["advface", "epsilon"]["default"] == 0.2
    assert defaults["lfw", "images"]["required"] is True
    assert all(plugin["summary"] for plugin in listed)
    assert "advface" in cli("list").stdout


def test_a_folder_called_attacks_where_the_user_stands_shadows_nothing(config: Path, cli: Cli) -> None:
    Path("attacks").mkdir()
    Path("attacks/__init__.py").write_text("raise RuntimeError('shadowed')")
    Path("attacks/blind.py").write_text("raise RuntimeError('shadowed')")
    assert "mean_face" in json.loads(cli("config", "--json").stdout)["attacks"]


def test_a_plugin_file_that_cannot_be_loaded_is_named(config: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("import nothing_like_it\n")
    with pytest.raises(UserError, match=r"bad\.py: cannot be loaded: ModuleNotFoundError"):
        _load(config, f'defenses.advface.plugin="{bad}"')
    with pytest.raises(UserError, match="expected one defence class, found 0"):
        _load(config, f'defenses.advface.plugin="{TOYS / "blobs.py"}"')


def test_comments_do_not_change_a_plugins_identity_and_code_does(tmp_path: Path) -> None:
    from bench.settings import registry

    original = (TOYS / "broken.py").read_text()

    def identity(name: str, text: str) -> str:
        path = tmp_path / f"{name}.py"
        path.write_text(text)
        return source_hash(registry.find("attack", str(path), "test"))

    first = identity("one", original)
    assert identity("two", "# a comment\n" + original.replace('"""Fails."""', '"""Fails, always."""')) == first
    assert identity("three", original.replace("a bug", "another bug")) != first
