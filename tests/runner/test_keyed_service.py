"""Attacks that use a running service: own enrolments, other customers, logins; and encrypted stores in a run."""

from importlib.util import find_spec

import pytest
from support import CONFIG, Cli

from bench.analysis.keyed import template_leaderboard
from bench.analysis.selftest import trials
from bench.storage.records import Record, Run

SERVICE = (
    CONFIG.replace("[run]\n", "[run]\ncanaries = true\n")
    .replace('defenses = ["unprotected", "laplace", "advface"]', 'defenses = ["matrix", "ours", "ckks"]')
    .replace(
        'attacks = ["mean_face", "resrec", "replay"]',
        'attacks = ["known_pairs", "login_scores", "key_holder", "key_holder+key", "moments"]',
    )
    + """
[defenses.ours]
plugin = "matrix"
keys = "subject"

[attacks.known_pairs]
pairs = 15

[attacks.login_scores]
queries = 12
score_bits = 8

[attacks.moments]
steps = 2
"""
)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, cli: Cli) -> Run:
    folder = tmp_path_factory.mktemp("service")
    (folder / "bench.toml").write_text(SERVICE)
    cli("run", cwd=folder)
    return Run(folder / "out" / "main")


def _inversions(run: Run) -> dict[tuple[str, str], Record]:
    found = {(r.cell.defense, r.cell.attack): r for r in run.records() if r.cell.kind == "inversion"}
    assert not [r.traceback for r in found.values() if r.status == "error"]
    return found


def test_pairs_open_only_a_key_that_everybody_has(ran: Run) -> None:
    found = _inversions(ran)
    shared, own = (found[defense, "known_pairs"] for defense in ("matrix", "ours"))
    assert (shared.metrics["inverted_cosine"].low or 0) > 0.8
    assert (own.metrics["inverted_excess"].low or 0) <= 0 <= (own.metrics["inverted_excess"].high or 0)
    assert shared.cell.level == "enrolment"
    assert shared.info["inversion"]["queries"]["enrol_templates"] == 15


def test_scores_open_every_scheme_that_keeps_them(ran: Run) -> None:
    found = _inversions(ran)
    cosine = found["ours", "login_scores"].metrics["inverted_cosine"]
    people = cosine.n
    assert (cosine.low or 0) > 0.7
    assert found["ours", "login_scores"].info["inversion"]["queries"]["login_logins"] == 12 * people
    assert found["matrix", "moments"].info["inversion"]["queries"]["others_templates"] > 16


def test_the_error_of_scores_is_a_column(ran: Run) -> None:
    rows = {row["defense"]: row for row in template_leaderboard(ran).to_dict("records")}
    assert rows["matrix"]["score_error"] < 1e-5
    assert rows["matrix"]["compare_ms"] > 0
    assert rows["matrix"]["attack_none"] in ("known_pairs", "login_scores")


def test_an_encrypted_store_needs_its_extra(ran: Run) -> None:
    (record,) = [r for r in ran.records() if r.cell.kind == "protection" and r.cell.defense == "ckks"]
    if find_spec("tenseal") is None:
        assert record.status == "skipped" and "veilbench[encryption]" in record.reason
        return
    assert record.status == "ok"
    assert record.info["template_bytes"] == 335872
    assert record.info["score_error"] < 1e-5
    found = _inversions(ran)
    assert (found["ckks", "key_holder+key"].metrics["inverted_cosine"].value or 0) > 0.999
    assert found["ckks", "known_pairs"].status == found["ckks", "moments"].status == "skipped"
    plain, encrypted = (found[d, "login_scores"].metrics["inverted_cosine"].value or 0 for d in ("ours", "ckks"))
    assert plain == pytest.approx(encrypted, abs=1e-3)


def test_their_canaries(ran: Run) -> None:
    found = {(trial.attack, trial.canary): trial for trial in trials(ran)}
    assert found["key_holder+key", "matrix"].passed
    assert ("known_pairs", "matrix") in found
    if find_spec("tenseal") is not None:
        assert found["key_holder", "sealed_ckks"].passed
    assert ("key_holder", "sealed") not in found
    assert not [attack for attack, _ in found if attack == "login_scores"], "scores are open everywhere"
