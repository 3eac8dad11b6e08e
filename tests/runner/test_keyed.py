"""Keyed defences: keys by holder, two applications, the cells of a run, canaries, and a defence of somebody else."""

import json
import os
from pathlib import Path

import pytest
import torch
from support import CONFIG, ROOT, Cli, invoke

from bench.analysis.keyed import MEAN_FACE, UNPROTECTED, YARDSTICKS, template_leaderboard
from bench.analysis.selftest import trials
from bench.contracts import KeyedDefense, KeyOracle, Rng
from bench.errors import KnowledgeError, UserError
from bench.plan import plan
from bench.runner.protector import KeyRing
from bench.settings import registry
from bench.settings.resolve import load
from bench.settings.trial import trial
from bench.storage.records import Run

KEYED = (
    CONFIG.replace("[run]\n", '[run]\ncanaries = true\npictures = "decoder"\n')
    .replace('defenses = ["unprotected", "laplace", "advface"]', 'defenses = ["biohash", "poly", "laplace"]')
    .replace(
        'attacks = ["mean_face", "resrec", "replay"]',
        'attacks = ["key_inversion", "key_inversion+key", "exponent_one+key", "shift_linkage"]',
    )
    + """
[defenses.biohash]
bits = 16

[defenses.poly]
plugin = "polyprotect"
overlap = 4

[attacks.shift_linkage]
shifts = 2

[attacks.decoder]
plugin = "embedding_decoder"
recipe.epochs = 1
"""
)
MINE = '''"""A rotation of the embedding, from another package."""

from dataclasses import dataclass

from bench.contracts import KeyedDefense


@dataclass(frozen=True, kw_only=True)
class Rotation(KeyedDefense):
    """Stores a rotated embedding."""

    keys: str = "record"

    def draw_key(self, rng, width):
        return {"rotation": rng.orthonormal(width, width)}

    def transform(self, embeddings, key):
        return embeddings @ key["rotation"]
'''


LEARNED = """
[defenses.slerp]
plugin = "slerpface"
group = 4
attention = "beside"

[attacks.key_decoder]
recipe = { hidden = 8, steps = 10 }

[attacks.decoder_set]
plugin = "key_decoder"
captures = 3
recipe = { hidden = 8, steps = 10 }

[attacks.trained_linker]
rounds = 2
shifts = 1
recipe = { hidden = 8, steps = 10 }
"""


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Path:
    folder = tmp_path_factory.mktemp("keyed")
    config = KEYED.replace('"laplace"]', '"laplace", "mine", "slerp"]') + LEARNED
    config = config.replace('"shift_linkage"]', '"shift_linkage", "key_decoder", "decoder_set", "trained_linker"]')
    (folder / "bench.toml").write_text(config)
    cli("run", cwd=folder, PYTHONPATH=_installed(folder / "site"))
    return folder / "out" / "main"


def _installed(site: Path) -> str:
    """A PYTHONPATH with the package of somebody else, as pip would lay it out: a module and its entry point."""
    about = site / "keyed_rotation-1.0.dist-info"
    about.mkdir(parents=True)
    (site / "keyed_rotation.py").write_text(MINE)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: keyed-rotation\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[veilbench.defenses]\nmine = keyed_rotation:Rotation\n")
    return f"{ROOT}{os.pathsep}{site}"


def _hash(**parameters: object) -> KeyedDefense:
    made = registry.make(registry.find("defense", "biohash", "t"), parameters, "t")
    assert isinstance(made, KeyedDefense)
    return made


@pytest.mark.parametrize(
    ("scope", "alike"),
    [("system", {"a person", "a record"}), ("subject", {"a record"}), ("record", set()), ("pool", {"an application"})],
)
def test_a_key_depends_on_its_holder_and_on_nothing_else(scope: str, alike: set[str]) -> None:
    ring = KeyRing(_hash(keys=scope, pool=1, bits=4), 8, Rng(0))

    def drawn(*holder: str) -> torch.Tensor:
        return ring.key(*holder)["projection"]

    own = drawn("first", "ann", "ann/1")
    alike = alike | {"a person", "a record"} if scope == "pool" else alike  # of a pool with a single key
    others = {
        "an application": ("second", "ann", "ann/1"),
        "a person": ("first", "bob", "ann/1"),
        "a record": ("first", "ann", "ann/2"),
    }
    for what, holder in others.items():
        assert torch.equal(own, drawn(*holder)) == (what in alike), what
    again = KeyRing(_hash(keys=scope, pool=1, bits=4), 8, Rng(0)).key("first", "ann", "ann/1")
    assert torch.equal(own, again["projection"])


def test_a_pool_has_as_many_keys_as_it_says() -> None:
    ring = KeyRing(_hash(keys="pool", pool=3, bits=4), 8, Rng(0))
    keys = {tuple(ring.key("first", "ann", f"{n}")["projection"].flatten().tolist()) for n in range(40)}
    assert len(keys) == 3


def test_the_oracle_gives_no_key_that_did_not_leak() -> None:
    defense = _hash(bits=4)
    leaked = {"projection": torch.ones(8, 4)}
    for knows, refused in (("none", 2), ("own", 1), ("leaked", 0)):
        oracle = KeyOracle(knows, defense, 8, lambda _: leaked, Rng(0))  # type: ignore[arg-type]
        failed = 0
        for ask in (oracle.key, oracle.own_key):
            try:
                ask(0)
            except KnowledgeError as error:
                assert "declared" in str(error)
                failed += 1
        assert failed == refused, knows
    own = KeyOracle("own", defense, 8, lambda _: leaked, Rng(0)).own_key(0)
    assert not torch.equal(own["projection"], leaked["projection"])


def test_feature_attacks_and_keyed_ones_do_not_meet(config: Path) -> None:
    config.write_text(KEYED.replace('["key_inversion",', '["mean_face", "resrec", "key_inversion",'))
    cells = {(job.cell.kind, job.cell.defense, job.cell.attack) for job in plan(load(config)).jobs}
    assert {kind for kind, defense, _ in cells if defense in ("biohash", "poly")} == {
        "protection", "crossmatch", "inversion", "picture",
    }  # fmt: skip
    assert {attack for _, defense, attack in cells if defense == "laplace"} == {"", "mean_face", "resrec"}
    assert {(d, a) for kind, d, a in cells if d.startswith("canary") and kind in ("crossmatch", "inversion")} == {
        ("canary~sealed", "key_inversion"), ("canary~sealed", "shift_linkage"), ("canary~iom_grp", "key_inversion+key"),
        ("canary~polyprotect[overlap=4]", "exponent_one+key"), ("canary~polyprotect[overlap=4]", "shift_linkage"),
    }  # fmt: skip


def test_keys_of_cells_depend_on_what_they_use(config: Path) -> None:
    def keys(text: str) -> dict[str, str]:
        config.write_text(text)
        return {job.cell.name: job.key for job in plan(load(config)).jobs}

    before = keys(KEYED)
    after = keys(KEYED.replace("bits = 16", "bits = 15"))
    assert {name for name in before if before[name] != after[name]} == {n for n in before if "--biohash--" in n}
    after = keys(KEYED.replace("shifts = 2", "shifts = 1"))
    assert {name for name in before if before[name] != after[name]} == {n for n in before if "shift_linkage" in n}


@pytest.mark.parametrize(
    ("label", "said"),
    [("decode", "unknown attack 'decode'.*decoder"), ("resrec", "'resrec' makes no faces of embeddings"),
     ("shift_linkage", "'shift_linkage' makes no faces")],
)  # fmt: skip
def test_pictures_need_an_attack_on_embeddings(config: Path, label: str, said: str) -> None:
    config.write_text(KEYED.replace('pictures = "decoder"', f'pictures = "{label}"'))
    with pytest.raises(UserError, match=said):
        load(config)


def test_a_forecast_counts_pictures(config: Path) -> None:
    config.write_text(KEYED)
    assert "picture decoder" in invoke("run", "--dry-run").output


def test_only_an_inversion_has_a_leaked_key(config: Path) -> None:
    config.write_text(KEYED.replace('"shift_linkage"]', '"shift_linkage+key"]'))
    with pytest.raises(UserError, match=r"shift_linkage\+key.*uses no key"):
        load(config)


def test_a_run_judges_accuracy_linking_and_inversion(ran: Path) -> None:
    records = {(r.cell.kind, r.cell.defense, r.cell.attack): r for r in Run(ran).records()}
    hashed = records["protection", "biohash", ""]
    assert hashed.status == "ok", hashed.traceback
    assert hashed.info["template_bytes"] == 2
    assert {"acc_plain", "acc_normal", "acc_stolen", "eer_stolen", "tar_normal_at_far_0.1"} <= set(hashed.metrics)
    with_key = records["inversion", "biohash", "key_inversion+key"].metrics["inverted_cosine"]
    without = records["inversion", "biohash", "key_inversion"].metrics["inverted_cosine"]
    assert (with_key.low or 0) > 0.6, "sixteen signs of sixteen entries"
    assert abs(without.value or 1) < 0.3
    assert records["inversion", "biohash", "exponent_one+key"].status == "skipped"
    assert (records["inversion", "poly", "exponent_one+key"].metrics["inverted_cosine"].low or 0) > 0.6


def test_recovered_embeddings_become_faces_beside_those_of_true_ones(ran: Path) -> None:
    run = Run(ran)
    records = {r.cell: r for r in run.records() if r.cell.kind == "picture" and r.status == "ok"}
    by = {(cell.defense, cell.attack): record for cell, record in records.items()}
    true = {record.metrics["plain_picture_ssim"].value for record in records.values()}
    assert len(true) == 1, "one decoder and one set of true embeddings serves all cells"
    with_key, without = (by["biohash", f"key_inversion{key}"] for key in ("+key", ""))
    assert (with_key.metrics["picture_cosine"].low or 0) > (without.metrics["picture_cosine"].high or 1)
    assert (true.pop() or 0) > (with_key.metrics["picture_ssim"].value or 1)
    assert with_key.info["decoder"]["queries"]["embed_images"] > 0
    assert len(with_key.artefacts) == len(set(with_key.artefacts))
    samples = run.samples(with_key.cell)
    assert samples["plain"].shape == samples["reconstruction"].shape == samples["original"].shape
    rows = template_leaderboard(run).set_index("defense")
    assert rows.loc["biohash", "ssim_key"] == with_key.metrics["picture_ssim"].value
    assert rows.loc[UNPROTECTED, "ssim_key"] == with_key.metrics["plain_picture_ssim"].value
    assert rows.loc[MEAN_FACE, "ssim_key"] == with_key.metrics["floor_picture_ssim"].value
    assert abs(with_key.metrics["floor_picture_cosine"].value or 1) < 0.6, "the mean face is nobody's"


def test_a_picture_logs_in_under_the_key_of_the_claimed_identity(ran: Path) -> None:
    run = Run(ran)
    made = [r for r in run.records() if r.cell.kind == "picture" and r.cell.defense == "mine" and r.status == "ok"]
    (record,) = [r for r in made if r.cell.attack == "exponent_one+key"]
    scores = run.scores(record.cell)
    # A rotation under the same key leaves the cosine as it is.
    assert scores["login_score"].to_numpy() == pytest.approx(scores["picture_cosine"].to_numpy(), abs=1e-4)
    assert scores["login_score_renewed"].to_numpy() == pytest.approx(scores["login_score_other"].to_numpy(), abs=1e-4)


def test_unlinkability_stands_beside_its_null(ran: Path) -> None:
    records = {(r.cell.defense, r.cell.attack): r for r in Run(ran).records() if r.cell.kind == "crossmatch"}
    for record in records.values():
        if record.status == "ok":
            figure, null = record.metrics["d_sys"], record.info["null"]["d_sys"]
            assert figure.value is not None and figure.low is not None
            assert null["exceeded"] == (figure.value > null["upper"]) == (figure.low > 0)
            assert 0 < null["mean"] < null["upper"] < 1
    rows = json.loads(invoke("leaderboard", str(ran), "--templates", "--format", "json").output)
    (row,) = [row for row in rows if row["defense"] == "poly"]
    best = "" if row["d_sys_attack"] == "own score" else row["d_sys_attack"]
    assert row["d_sys_null"] == pytest.approx(records["poly", best].info["null"]["held_d_sys"]["upper"])


def test_the_best_score_is_chosen_on_people_on_whom_it_is_not_reported(ran: Path) -> None:
    void = {trial.attack for trial in trials(Run(ran)) if not trial.passed}
    cells = [r for r in Run(ran).records() if r.cell.kind == "crossmatch" and r.cell.defense == "biohash"]
    metrics = {r.cell.attack or "own score": r.metrics for r in cells if r.status == "ok" and r.cell.attack not in void}
    (row,) = template_leaderboard(Run(ran)).query("defense == 'biohash'").to_dict("records")
    assert row["choice"] == ""
    for name, attack, column in (("auc", "link_attack", "link_best"), ("d_sys", "d_sys_attack", "d_sys")):
        best = max(metrics, key=lambda key: metrics[key][f"choice_{name}"].value or 0.0)
        assert row[attack] == best
        assert row[column] == pytest.approx(metrics[best][f"held_{name}"].value)
    assert 2 * metrics["own score"]["held_auc"].n == metrics["own score"]["link_auc"].n  # type: ignore[operator]


def test_what_leaked_and_what_was_learned_is_in_the_record(ran: Path) -> None:
    records = {(r.cell.defense, r.cell.attack): r for r in Run(ran).records() if r.cell.kind != "picture"}
    assert records["biohash", "key_inversion+key"].info["leaks"] == ["template", "key"]
    assert records["slerp", "key_decoder"].info["leaks"] == ["template", "auxiliary data"]
    several = records["biohash", "decoder_set"]
    assert several.info["leaks"] == ["templates of 3 applications"]
    learned = several.info["inversion"]["learned"]
    assert learned["own faces"] > 0
    assert learned["queries"]["enrol_own_templates"] == 3 * learned["own faces"]
    assert several.info["inversion"]["queries"]["records"] == several.metrics["inverted_cosine"].n
    linked = records["biohash", "trained_linker"]
    assert linked.status == "ok", linked.traceback
    assert linked.info["attack"]["learned"]["people"] >= 4
    assert linked.cell.level == "enrolment"


def test_auxiliary_data_are_stored_beside_the_template(ran: Path) -> None:
    info = {r.cell.defense: r.info for r in Run(ran).records() if r.cell.kind == "protection"}
    assert info["slerp"]["template_bytes"] == 4 * 16
    assert info["slerp"]["auxiliary_bytes"] == 4 * 4
    assert info["mine"]["auxiliary_bytes"] == 0
    run = Run(ran)
    (cell,) = [r.cell for r in run.records() if r.cell.kind == "protection" and r.cell.defense == "slerp"]
    scores = run.scores(cell).query("mated")
    assert (scores["stolen"] == scores["normal"]).all()


def test_scores_are_kept_with_their_people(ran: Path) -> None:
    run = Run(ran)
    cells = [record.cell for record in run.records() if record.cell.kind == "crossmatch"]
    (cell,) = [cell for cell in cells if cell.defense == "biohash" and not cell.attack]
    scores = run.scores(cell)
    people = scores["left_person"].nunique()
    assert len(scores) == people**2
    assert scores["mated"].sum() == people
    assert (scores["mated"] == (scores["left_person"] == scores["right_person"])).all()


def test_the_impostor_of_the_normal_scenario_has_a_key_of_his_own(ran: Path) -> None:
    run = Run(ran)
    (cell,) = [r.cell for r in run.records() if r.cell.kind == "protection" and r.cell.defense == "mine"]
    scores = run.scores(cell)
    impostors = scores[~scores["mated"]]
    rotated = scores[scores["mated"]]
    assert scores["stolen"].to_numpy() == pytest.approx(scores["plain"].to_numpy(), abs=1e-4)
    assert (rotated["normal"] == rotated["stolen"]).all()
    assert (impostors["normal"] - impostors["stolen"]).abs().mean() > 0.1


def test_a_defence_from_a_package_of_its_own_is_in_the_leaderboard(ran: Path, cli: Cli) -> None:
    text = (ran / "templates.md").read_text()
    assert "| mine | record |" in text
    assert "Protected templates: inversion: blobs, tiny" in (ran / "leaderboard.md").read_text()
    rows = json.loads(cli("leaderboard", str(ran), "--templates", "--format", "json").stdout)
    assert {row["defense"] for row in rows} == {"biohash", "poly", "mine", "slerp", *YARDSTICKS}
    rows = json.loads(cli("leaderboard", str(ran), "--format", "json").stdout)
    assert {row["defense"] for row in rows} == {"laplace"}, "the one of feature maps has no keyed defence"


def test_a_run_of_keyed_defences_alone_has_reports(tmp_path: Path, cli: Cli) -> None:
    text = KEYED.replace('"poly", "laplace"]', '"poly"]').replace("canaries = true\n", "")
    (tmp_path / "bench.toml").write_text(text)
    done = cli("run", cwd=tmp_path)
    assert "| biohash | subject |" in done.stdout
    assert "Protected templates: inversion: blobs, tiny" in (tmp_path / "out/main/report/index.html").read_text()


def test_try_sets_a_keyed_defence_beside_the_most_similar_one(config: Path) -> None:
    profile = '\n[profile.templates.run]\ncanaries = false\npictures = ""\nattacks = ["exponent_one+key"]\n'
    config.write_text(KEYED.replace('"biohash", "poly", "laplace"]', '"biohash", "laplace"]') + profile)
    Path("mine.py").write_text(MINE)
    said = invoke("try", "mine.py").output
    assert "keeps its contract" in said and "beside poly, profile templates" in said, "with the cosine, as that one"
    assert "recovered cosine" in said and "ACC, stolen token" in said
    assert 'defenses = ["poly", "mine"]' in said
    planned = trial("mine.py", config, "templates")
    assert planned.run["attacks"] == ["exponent_one+key"]
    elsewhere = trial("mine.py", config, None, ['run.attacks=["mean_face"]'])
    assert {"shift_linkage", "exponent_one", "exponent_one+key"} <= set(elsewhere.run["attacks"])


def test_try_sends_attacks_on_keyed_templates_to_a_run(config: Path) -> None:
    config.write_text(KEYED)
    assert "keys" in invoke("try", "shift_linkage", status=2).output


def test_an_attack_that_fails_its_canary_does_not_count(ran: Path) -> None:
    found = {(trial.attack, trial.canary): trial.passed for trial in trials(Run(ran))}
    assert set(found) == {
        ("key_inversion", "sealed"), ("shift_linkage", "sealed"), ("key_inversion+key", "iom_grp"),
        ("exponent_one+key", "polyprotect[overlap=4]"), ("shift_linkage", "polyprotect[overlap=4]"),
        ("key_decoder", "sealed"), ("decoder_set", "sealed"), ("trained_linker", "sealed"),
        ("trained_linker", "polyprotect[overlap=4]"),
    }  # fmt: skip
    assert found["key_inversion", "sealed"]
    assert found["key_inversion+key", "iom_grp"]
    # With sixteen entries to an embedding, the first power does not dominate.
    assert not found["exponent_one+key", "polyprotect[overlap=4]"]
    (row,) = template_leaderboard(Run(ran)).query("defense == 'poly'").to_dict("records")
    assert row["attack_key"] == ""
    assert "exponent_one+key" in row["void"]
